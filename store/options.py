"""The options that every command shares which writes maps: how they are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def encoding_options(command: Command) -> Command:
    """--dtype and --codec."""
    command = click.option(
        "--codec",
        type=click.Choice(["none", "zstd"]),
        default="none",
        show_default=True,
        help="Of the stored maps; zstd is 1.7 to 2 times smaller, loses nothing, and is slower to read.",
    )(command)
    return click.option(
        "--dtype",
        type=click.Choice(["float16", "uint8"]),
        default="float16",
        show_default=True,
        help="Of the stored maps; uint8 is half the size, at an error of some 0.3 %, for maps after a ReLU.",
    )(command)
