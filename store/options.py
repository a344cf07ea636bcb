"""Options of the encoding of stored maps, shared by all commands that write maps."""

from __future__ import annotations

from dataclasses import dataclass

from ..terminal.settings import check, documented, setting
from .format.encoding import CODECS, DTYPES


@documented
@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """How stored maps are encoded."""

    dtype: str = setting(
        "float16",
        help="Of the stored maps; uint8 is half the size, at an error of some 0.3 %, for maps after a ReLU.",
        choices=DTYPES,
    )
    codec: str = setting(
        "none",
        help="Of the stored maps; zstd is 1.7 to 2 times smaller, loses nothing, and is slower to read.",
        choices=CODECS,
    )

    def __post_init__(self) -> None:
        check(self)
