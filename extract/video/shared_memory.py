"""Memory that decoder processes share with the consumer: a fixed number of slots, bounded in bytes.

The memory has no name, so nothing is left behind in whatever way the program ends.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from math import prod
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError

MEMORY_BYTES = 512 << 20
"""Default for the total memory of one pool's slots."""

Shape = tuple[int, int, int, int, int]
"""(clips, L, H, W, 3) of a slot."""


def fit_slots(
    clip_shape: tuple[int, int, int, int],
    *,
    clips: int,
    workers: int,
    batch_clips: int = 1,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[Shape, int]:
    """Return a slot's shape and the number of slots for videos of `clips` clips, within `memory_bytes`.

    A clip is (L, H, W, 3). There is a slot for each worker, one for the consumer and one ready for it. A slot
    holds all clips of a video if these fit, else a part of them: as many complete batches of `batch_clips` as
    fit, or, if not even one fits, as many clips as fit, and at least one. If single clips do not fit so many
    times, there are fewer slots.

    Raises:
        UsageError: one clip takes more than `memory_bytes`.
    """
    clip_bytes = prod(clip_shape)
    slots = min(workers + 2, memory_bytes // clip_bytes)
    if slots < 1:
        raise UsageError(
            f"a clip of {clip_shape[0]} frames of {clip_shape[2]}×{clip_shape[1]} pixels takes "
            f"{clip_bytes >> 20} MiB, "
            f"decoding has {memory_bytes >> 20} MiB: take a smaller --size or --clip-frames"
        )
    part = min(clips, memory_bytes // (slots * clip_bytes))
    if batch_clips < part < clips:
        part -= part % batch_clips
    return (part, *clip_shape), slots


class Slots:
    """`count` slots of one shape, uint8, for all processes that receive this object."""

    def __init__(self, descriptor: int, shape: tuple[int, ...], count: int) -> None:
        self._descriptor = descriptor
        self._shape = shape
        self._stride = _stride(shape)
        self._memory: mmap.mmap | None = mmap.mmap(descriptor, self._stride * count)
        self.count = count

    @classmethod
    def create(cls, shape: tuple[int, ...], count: int) -> Slots:
        """Create new slots; their memory is allocated at the first write."""
        descriptor = os.memfd_create("faster-clips", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _stride(shape) * count)
        return cls(descriptor, shape, count)

    def view(self, slot: int) -> NDArray[np.uint8]:
        """Return a slot as an array."""
        if self._memory is None:
            raise UsageError("this pool of decoders is closed")
        flat = np.frombuffer(
            self._memory, dtype=np.uint8, count=prod(self._shape), offset=slot * self._stride
        )
        return flat.reshape(self._shape)

    def close(self) -> None:
        """Release the memory; it is freed with its last view."""
        if self._memory is not None:
            self._memory = None
            os.close(self._descriptor)

    def __reduce__(self) -> tuple[Callable[..., Slots], tuple[object, ...]]:
        return _attach, (DupFd(self._descriptor), self._shape, self.count)


def _stride(shape: tuple[int, ...]) -> int:
    return -(-prod(shape) // mmap.PAGESIZE) * mmap.PAGESIZE


def _attach(duplicate: Any, shape: tuple[int, ...], count: int) -> Slots:
    return Slots(duplicate.detach(), shape, count)
