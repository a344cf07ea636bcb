"""Configurations of `faster export` and `faster import`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import click

from ..errors import UsageError
from ..store.options import EncodingOptions
from ..terminal.outputs import output_folder
from ..terminal.settings import check, declare, documented, like, setting


def _either(ctx: click.Context, parameter: click.Parameter, out: Path) -> Path:
    """Check that a new output or a folder is writable; the export itself checks existing files."""
    return output_folder(ctx, parameter, out) if out.is_dir() or not out.exists() else out


@documented
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export; `faster export` has an option for each field."""

    store: str | Path = field(metadata=declare(help="The store to read.", argument=True, path=True))
    out: str | Path = field(
        metadata=declare(help="The HDF5 file, or the folder of .npy files.", path=True, callback=_either)
    )
    format: str | None = setting(
        None, help="HDF5 where --out ends in .h5 or .hdf5, else npy, by default.", choices=("hdf5", "npy")
    )
    model: str | None = setting(None, help="Only this model's maps; all by default.")
    clip_frames: int | None = setting(None, help="Only maps of clips of this many frames.", least=1)
    pool: bool = setting(False, help="Their means over l, h and w: one vector a clip.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def settled_format(self) -> str:
        """The format; by default it follows from the output's name."""
        return self.format or ("hdf5" if Path(self.out).suffix.lower() in (".h5", ".hdf5") else "npy")


@documented
@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What to import; `faster import` has an option for each field."""

    source: str | Path = field(
        metadata=declare(
            help="A folder of .npy files, or an HDF5 file.",
            detail="One array (T, c), (T, h, w, c) or (T, l, h, w, c) a video.",
            argument=True,
            path=True,
        )
    )
    store: str | Path = field(metadata=declare(help="The store to write, or to add the model to.", path=True))
    model: str = field(metadata=declare(help="A name for what made them; of an export, the model to take."))
    gflops: float | None = setting(
        None, help="Cost of the backbone on one clip, multiply-adds / 1e9; an export knows it.", least=0
    )
    clip_frames: int | None = setting(
        None, help="L, frames that one feature saw; an export knows it.", least=1
    )
    clips: int | None = setting(
        None, help="M, features taken of each video; all if every video has as many, else 256 / L.", least=1
    )
    annotations: tuple[str, ...] = setting(
        (),
        help="An annotation file, or a folder of them, for labels and splits; repeatable.",
        detail="Without them an export's own, those of the store that is added to, or the class folders "
        "count.",
        path=True,
    )
    annotation_format: str | None = setting(
        None, help="Of the annotations; told from the files by default.", flag="--format"
    )
    allow_missing: bool = setting(
        False,
        help="Go on without listed videos that have no features.",
        detail="They are recorded as missing.",
    )
    suffix: str | None = setting(
        None,
        help="Take the features whose names end so, as _rgb, where a video has several kinds; "
        "'' takes each for a video.",
        metavar="END",
    )
    channels_first: bool = setting(False, help="The arrays are (T, c, h, w) or (T, c, l, h, w).")
    dtype: str = like(EncodingOptions, "dtype")
    codec: str = like(EncodingOptions, "codec")

    def __post_init__(self) -> None:
        check(self)
        if not self.model.strip():
            raise UsageError("--model is empty; name what made the features, for example i3d")
