"""Byte ranges of a file into memory: asked of the operating system, or copied from a mapping of the file."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Protocol

from ...errors import StoreError
from .safe_open import open_regular


class Ranges(Protocol):
    """A file whose byte ranges can be read, from several threads at once."""

    size: int

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset` on. Raises StoreError where the file ends before, or cannot be read."""

    def close(self) -> None:
        """Let go of the file; it goes by itself with the last reference."""


class FileRanges:
    """Through `preadv`: one copy, from page cache into the memory given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_regular(path) as file:
            self._file = os.dup(file.fileno())
        self.size = os.fstat(self._file).st_size

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset` on."""
        try:
            count = os.preadv(self._file, [memory], offset)
            while count < len(memory):  # the kernel may give less than asked; at the end it gives nothing
                more = os.preadv(self._file, [memory[count:]], offset + count)
                if not more:
                    raise _ended(self._path)
                count += more
        except (OSError, OverflowError) as error:
            raise StoreError(f"{self._path}: {getattr(error, 'strerror', None) or error}") from error

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


class MappedRanges:
    """Through a memory map: faster in page cache. A file that is cut off meanwhile kills the process (SIGBUS)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_regular(path) as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._bytes = memoryview(self._map)
        self.size = len(self._bytes)

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset` on."""
        if not 0 <= offset <= self.size - len(memory):
            raise _ended(self._path)
        memory[:] = self._bytes[offset : offset + len(memory)]

    def close(self) -> None:
        """Let go of the file."""
        self._bytes.release()
        self._map.close()


def _ended(path: Path) -> StoreError:
    return StoreError(f"{path}: ends before the clip that its receipt promises")
