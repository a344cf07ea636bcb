"""Check where a command will write, before its work begins, so that no result is lost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TypeVar

import click

from ..errors import StorageError, UsageError

PathT = TypeVar("PathT", str, Path, str | None, Path | None)


def output_file(ctx: click.Context, parameter: click.Parameter, value: PathT) -> PathT:
    """Check a file to write; callback of an option. Raises as `require_file`."""
    if value is not None and not ctx.resilient_parsing:
        require_file(Path(value), parameter.opts[0])
    return value


def output_folder(ctx: click.Context, parameter: click.Parameter, value: PathT) -> PathT:
    """Check a folder to write into; callback of an option. Raises as `require_folder`."""
    if value is not None and not ctx.resilient_parsing:
        require_folder(Path(value), parameter.opts[0])
    return value


def require_file(path: Path, option: str) -> None:
    """Check that a file can be written at `path`, the value of `option`; leaves no file there.

    Raises:
        UsageError: the path is a folder, or not a regular file, which must not be replaced.
        StorageError: it cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file, in it or elsewhere")
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path} is no regular file (a device or a pipe); name another file")
    _require_room(path.parent, path, option)


def require_folder(path: Path, option: str) -> None:
    """Check that files can be written into the folder `path`, the value of `option`, which need not exist.

    Leaves no file there.

    Raises:
        UsageError: the path exists and is not a folder.
        StorageError: it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{option} {path} is a file; name a folder")
    _require_room(path, path, option)


def _require_room(folder: Path, path: Path, option: str) -> None:
    """Try the folder, or its nearest existing parent; missing folders are created when they are needed."""
    try:
        nearest = next(above for above in (folder, *folder.absolute().parents) if above.exists())
        if not nearest.is_dir():
            raise StorageError(
                f"{option} {path}: {nearest} is a file, and a folder is needed there; "
                f"name another place with {option}"
            )
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise StorageError(
            f"{option} {path} cannot be written: {error.strerror or error}; name another place with {option}"
        ) from error
