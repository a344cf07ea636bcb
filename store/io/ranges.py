"""Read byte ranges of a file into memory, by system calls or from a memory map."""

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
        """Fill `memory` from `offset`. Raises StoreError if the file ends earlier or cannot be read."""

    def close(self) -> None:
        """Close the file; it is also closed with the last reference."""


class FileRanges:
    """Reads through `preadv`: one copy, from page cache into the given memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_regular(path) as file:
            self._file = os.dup(file.fileno())
        self.size = os.fstat(self._file).st_size

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset`."""
        try:
            count = os.preadv(self._file, [memory], offset)
            while count < len(memory):  # the kernel may return less than asked, and nothing at the end
                more = os.preadv(self._file, [memory[count:]], offset + count)
                if not more:
                    raise _ended(self._path)
                count += more
        except (OSError, OverflowError) as error:
            raise StoreError(f"{self._path}: {getattr(error, 'strerror', None) or error}") from error

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


class MappedRanges:
    """Reads a memory map: faster in page cache, but truncating the file kills the process (SIGBUS)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_regular(path) as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._bytes = memoryview(self._map)
        self.size = len(self._bytes)

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset`."""
        if not 0 <= offset <= self.size - len(memory):
            raise _ended(self._path)
        memory[:] = self._bytes[offset : offset + len(memory)]

    def close(self) -> None:
        """Close the file."""
        self._bytes.release()
        self._map.close()


def _ended(path: Path) -> StoreError:
    return StoreError(f"{path}: ends before the clip that its receipt promises")
