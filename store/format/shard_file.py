"""A shard's file of maps: the clips' bytes, followed by the index of their offsets and sizes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ..io.ranges import FileRanges, MappedRanges, Ranges
from ..io.s3 import RemotePath, RemoteRanges
from .encoding import checksum, compressed_size_max, decompress, dequantise
from .spec import FeatureSpec

ABSENT = np.uint64(2**64 - 1)


def index_bytes(index: NDArray[np.uint64]) -> bytes:
    """Encode a shard's index for Zarr: (videos per shard, clips, 2) offsets and sizes, then their crc32c."""
    data = index.astype("<u8").tobytes()
    return data + checksum(data).to_bytes(4, "little")


class ShardFile:
    """An open shard.

    Attributes:
        path: of the file.
        offsets, sizes: (videos per shard · clips,) int64: the position of each clip's stored bytes; size 0 is
            absent.
        scales: (videos per shard, c) float32, of uint8 maps that were opened with their scales; else None.
        read_into: fills memory from an offset; see `Ranges`.
    """

    def __init__(
        self,
        path: Path,
        spec: FeatureSpec,
        shard_videos: int,
        *,
        scales: Path | None = None,
        mapped: bool = False,
    ) -> None:
        self.path, self._spec = path, spec
        self._ranges = _open(path, mapped)
        self.read_into = self._ranges.read_into  # an attribute saves one call per clip
        if self._ranges.size < (length := 16 * shard_videos * spec.clips + 4):
            raise StoreError(f"{path}: {self._ranges.size} bytes: it is cut off")
        data = bytearray(length)
        self._ranges.read_into(memoryview(data), self._ranges.size - len(data))
        index = np.frombuffer(data, dtype="<u8", count=len(data) // 8).reshape(-1, 2)
        if index_bytes(index) != data:
            raise StoreError(f"{path}: its index does not fit its checksum")
        largest = spec.clip_bytes if spec.codec == "none" else compressed_size_max(spec.clip_bytes)
        least = spec.clip_bytes if spec.codec == "none" else 1
        offsets, sizes = index[..., 0], index[..., 1]
        absent = (offsets == ABSENT) & (sizes == ABSENT)
        sound = (sizes >= least) & (sizes <= largest) & (offsets < self._ranges.size)
        if not (absent | sound).all():
            raise StoreError(f"{path}: its index names clips of {sizes[~(absent | sound)][0]} bytes")
        self.offsets = np.where(absent, 0, offsets).astype(np.int64)
        self.sizes = np.where(absent, 0, sizes).astype(np.int64)
        self.scales: NDArray[np.float32] | None = None
        if scales is not None and spec.dtype == "uint8":
            self.scales = np.empty((shard_videos, spec.map_shape[3]), dtype="<f4")
            with closing(_open(scales, mapped=False)) as ranges:
                ranges.read_into(self.scales.reshape(-1).view(np.uint8).data, 0)

    def read_video(
        self, within: int, scale: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float16], list[memoryview]]:
        """Return one video's maps (clips, l, h, w, c), and each clip's stored bytes.

        Args:
            within: the video's position in the shard.
            scale: (c,) of uint8 maps.

        Raises:
            StoreError: a clip is absent, or cannot be read.
        """
        spec = self._spec
        values = np.empty((spec.clips, spec.clip_bytes), dtype=np.uint8)
        stored = []
        of_video = slice(within * spec.clips, (within + 1) * spec.clips)
        for clip, (offset, size) in enumerate(
            zip(self.offsets[of_video].tolist(), self.sizes[of_video].tolist(), strict=True)
        ):
            if not size:
                raise StoreError(f"{self.path}: clip {clip} of its video {within} is absent")
            memory = memoryview(bytearray(size))
            self.read_into(memory, offset)
            if spec.codec == "zstd":
                decompress(memory, values[clip].data)
            else:
                values[clip] = memory
            stored.append(memory)
        shape = (spec.clips, *spec.map_shape)
        if scale is None:
            return values.view("<f2").reshape(shape).astype(np.float16, copy=False), stored
        return dequantise(values.reshape(shape), np.broadcast_to(scale, (spec.clips, len(scale)))), stored

    def close(self) -> None:
        """Close the file."""
        del self.read_into
        self._ranges.close()


def _open(path: Path, mapped: bool) -> Ranges:
    try:
        if isinstance(path, RemotePath):
            return RemoteRanges(path)
        return MappedRanges(path) if mapped else FileRanges(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
