"""Encode a clip's map as float16, or as uint8 with one scale per channel, uncompressed or with zstd."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastcrc import crc32
from numpy.typing import NDArray

from ...errors import StoreError

DTYPES = ("float16", "uint8")
CODECS = ("none", "zstd")
ZSTD_LEVEL = 1  # higher levels gain less than 2 % on post-ReLU maps, at a third of the speed (docs/log.md)

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """Return the crc32c of some bytes, continuing from the checksum `start`."""
    return crc32.iscsi(data, start)


def quantise(maps: NDArray[np.float16]) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
    """Quantise one video's maps to uint8 with one scale per channel: x ≈ value · scale.

    Args:
        maps: (clips, l, h, w, c) float16, no value below zero, as after a ReLU.

    Returns:
        values (clips, l, h, w, c) uint8; scale (c,) float32, the channel's largest value / 255; the relative
        RMS error of the quantisation, ‖value · scale − x‖ / ‖x‖.

    Raises:
        StoreError: a value is below zero.
    """
    # From zero up, float16 bit patterns are ordered as their values.
    largest = maps.reshape(-1, maps.shape[-1]).view(np.int16).max(axis=0)
    if maps.view(np.int16).min() < 0 and maps.min() < 0:
        raise StoreError(
            "a map goes below zero, and uint8 holds maps after a ReLU; "
            "ask for --dtype float16 in another --store"
        )
    scale = largest.view(np.float16).astype(np.float32) / np.float32(255)
    divisor = np.where(scale > 0, scale, np.float32(1))
    values = np.empty(maps.shape, dtype=np.uint8)
    error = norm = 0.0
    for clip, out in zip(maps, values, strict=True):  # clip by clip, to stay in the core's cache
        exact = clip.astype(np.float32)
        steps = np.rint(exact / divisor)
        out[...] = steps
        steps *= scale
        steps -= exact
        error += float(np.vdot(steps, steps))
        norm += float(np.vdot(exact, exact))
    return values, scale, float(f"{(error / norm) ** 0.5 if norm else 0.0:.6g}")


def dequantise(values: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return float16 maps (n, l, h, w, c) of uint8 values and each video's scales (n, c)."""
    return (values * scales[:, None, None, None, :]).astype(np.float16)


def compress(data: bytes | memoryview) -> bytes:
    """Compress one clip's bytes to one zstd frame, which any Zarr library's "zstd" codec reads."""
    return bytes(_zstd().encode(data))


def compressed_size_max(size: int) -> int:
    """Return the upper limit of the compressed size of `size` bytes."""
    return size + size // 128 + 1024


def decompress(data: memoryview, out: memoryview) -> None:
    """Decompress a zstd frame into `out`; the frame must declare exactly that many bytes.

    Raises:
        StoreError: the frame is invalid or declares another size. No more than `out` is ever written.
    """
    if _content_size(data) != len(out):
        raise StoreError("a clip is not a zstd frame of its map's size")
    try:
        _zstd().decode(data, out)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"a clip cannot be decompressed: {error}") from error


def _content_size(frame: memoryview) -> int:
    """Return the content size in bytes that a zstd frame declares (RFC 8878, 3.1.1.1), or -1."""
    if len(frame) < 14 or bytes(frame[:4]) != _ZSTD_MAGIC:
        return -1
    descriptor = frame[4]
    single, size_flag, dictionary = descriptor >> 5 & 1, descriptor >> 6, (0, 1, 2, 4)[descriptor & 3]
    length = 1 << size_flag if size_flag or single else 0
    if not length:
        return -1
    at = 5 + (0 if single else 1) + dictionary
    return int.from_bytes(frame[at : at + length], "little") + (256 if length == 2 else 0)


def _zstd() -> Any:
    from numcodecs.zstd import Zstd

    return Zstd(level=ZSTD_LEVEL)
