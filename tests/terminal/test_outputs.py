"""Where a command is told to write is tried before its work begins, and the message names the right option."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from faster.cli import main
from faster.errors import StorageError, UsageError
from faster.terminal.outputs import require_file, require_folder
from faster.training.run_folder import init_run_dir
from reference import commands
from sets import make_bright_set
from stores import make_spec, make_store, make_videos

# Options and arguments that name what is written, and what a command needs beside to come so far. "s.zarr" is a store.
FILES = {
    "predict --out": "videos --run nowhere",
    "report --out": "nowhere",
    "submit slurm --out": "--tasks 2 -- videos --model r2d14-w4 --store new.zarr",
    "export --out": "s.zarr --format hdf5",
}
FOLDERS = {
    "export-model --out": "nowhere",
    "train-agg --out": "--store s.zarr",
    "sweep --out": "--store s.zarr",
    "demo --folder": "",
    "train-backbone --out": "videos --model r2d14-w4 --size 32 --device cpu",
    "train-backbone --cache-folder": "videos --model r2d14-w4 --size 32 --device cpu --cache uint8 --out w",
    "extract --store": "videos --model r2d14-w4 --allow-random --size 32 --devices cpu",
    "import --store": "features --model other --gflops 1 --clip-frames 8",
    "convert NEW": "s.zarr",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("outputs")
    make_store(folder / "s.zarr", [make_spec()], make_videos(24), signal=True)
    make_bright_set(folder / "videos", per_class=6, tests=1)
    (folder / "features").mkdir()
    np.save(folder / "features/a.npy", np.ones((4, 8), np.float32))
    (folder / "folder.html").mkdir()
    (folder / "file").write_bytes(b"a file")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def refused(
    words: str, value: str, rest: str, capsys: pytest.CaptureFixture[str], place: Path
) -> tuple[int, str]:
    *verb, option = words.split()
    before = sorted(map(str, place.rglob("*")))
    named = [option, value, *rest.split()] if option.startswith("-") else [*rest.split(), value]
    with pytest.raises(SystemExit) as left:
        main([*verb, *named])
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert sorted(map(str, place.rglob("*"))) == before, "something was made"
    lines = [line for line in errors.splitlines() if line.startswith(("faster: ", "Error: "))]
    assert len(lines) == 1 and option in lines[0] and value in lines[0], errors
    others = {"--out", "--store", "--folder", "--cache-folder"} - {option}
    assert not any(f"another {other}" in lines[0] or f"with {other}" in lines[0] for other in others), lines[
        0
    ]
    assert isinstance(left.value.code, int)
    return left.value.code, lines[0]


@pytest.mark.parametrize("words", [*FILES, *FOLDERS])
def test_a_place_that_cannot_be_written_is_found_first(
    words: str, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    """/proc takes no files, not even from root; and below a file there are no folders."""
    for folder in ("/proc/none", "file/below"):
        rest = {**FILES, **FOLDERS}[words]
        code, _ = refused(words, f"{folder}/x.html", rest, capsys, place)
        assert code == 74


@pytest.mark.parametrize("words", FILES)
def test_a_folder_in_the_place_of_a_file(words: str, capsys: pytest.CaptureFixture[str], place: Path) -> None:
    if words.startswith("export"):
        return  # a folder there is for .npy files, or is refused by the export as taken
    code, line = refused(words, "folder.html", FILES[words], capsys, place)
    assert code == 2 and "is a folder; name a file" in line


@pytest.mark.parametrize("words", FOLDERS)
def test_a_file_in_the_place_of_a_folder(words: str, capsys: pytest.CaptureFixture[str], place: Path) -> None:
    code, line = refused(words, "file", FOLDERS[words], capsys, place)
    assert code in (2, 65) and "is a file" in line


def test_every_option_that_names_an_output_is_tried(place: Path) -> None:
    """A new one has to be added above, and so is held to the same."""
    known = {words for words in (*FILES, *FOLDERS) if words.split()[-1].startswith("-")}
    names = {"--out", "--folder", "--cache-folder"}
    found = {
        f"{name} {option.opts[0]}"
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and option.opts[0] in names
    }
    assert found == {words for words in known if words.split()[-1] in names}


def test_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    for device in ("/dev/null", "/dev/zero"):
        with pytest.raises(UsageError, match=r"--out .* is no regular file"):
            require_file(Path(device), "--out")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        require_file(tmp_path / "pipe", "--out")


def test_what_can_be_written_passes_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")
    for path in (tmp_path / "new.csv", tmp_path / "old.csv", tmp_path / "a/b/c.csv"):
        require_file(path, "--out")
    for path in (tmp_path, tmp_path / "new", tmp_path / "a/b"):
        require_folder(path, "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"
    (tmp_path / "link").symlink_to("nowhere/else")
    with pytest.raises((UsageError, StorageError), match="--out"):
        require_file(tmp_path / "old.csv/x", "--out")


def test_a_run_that_cannot_be_begun_names_out_and_one_that_is_there_is_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"name another place with --out"):
        init_run_dir(Path("/proc/none/run"), {"a": 1})
    init_run_dir(tmp_path / "run", {"a": 1})
    init_run_dir(tmp_path / "run", {"a": 1})
