"""Progress bars on stderr, disabled if there is no stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .streams import can_write

__all__ = ["tqdm"]

if TYPE_CHECKING:
    from tqdm import tqdm
else:
    from tqdm import tqdm as _tqdm

    class tqdm(_tqdm):  # noqa: N801 - it replaces tqdm's class
        """`tqdm.tqdm`, silent without a stderr."""

        def __init__(self, *args: Any, disable: bool | None = False, **options: Any) -> None:
            super().__init__(*args, disable=disable or not can_write(sys.stderr), **options)
