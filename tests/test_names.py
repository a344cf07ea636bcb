"""Names that are not UTF-8: a file so named costs itself only; a folder so named is refused before work begins."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faster import store as stores
from faster.runtime.file_names import as_text, is_text, stands_for_other_bytes
from videos import make_video

NAME = os.fsdecode(b"caf\xe9")
MODEL = ["--model", "r2d14-w4", "--allow-random", "--size", "32", "--clips", "2"]


def faster(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "faster.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two classes, one of them with a name that is no text; their store, and a run on it."""
    folder = tmp_path_factory.mktemp("names")
    data = make_video(folder / "ok.mp4", frames=12, width=32, height=32).read_bytes()
    for name in (b"a/1", b"a/2", b"a/3", b"b/4", b"b/5", b"b/6", b"b/caf\xe9"):
        path = Path(os.fsdecode(bytes(folder) + b"/set/" + name + b".mp4"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(data)
        except OSError:
            pytest.skip("this file system takes only UTF-8 names")
    done = faster(folder, "extract", "set", "--store", "s.zarr", "--max-failed", "1", *MODEL)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    done = faster(
        folder, "train-agg", "--store", "s.zarr", "--out", "run", "--epochs", "1", "--pattern", "all-E"
    )
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "run", folder / f"{NAME}-run")
    shutil.copytree(folder / "s.zarr", folder / f"{NAME}.zarr")
    shutil.copytree(folder / "set" / "a", folder / NAME / "a")
    return folder


def test_extraction_records_one_failure_and_goes_on(folder: Path) -> None:
    store = stores.open(folder / "s.zarr")
    (failure,) = [
        json.loads(line) for line in (folder / "s.zarr" / "failures.jsonl").read_text().splitlines()
    ]
    assert failure["id"] == "b/caf\\xe9.mp4" and "is not UTF-8; rename the file" in failure["reason"]
    assert store.features("r2d14-w4", 8).coverage.ok[:, 0].sum() == 6


@pytest.mark.parametrize("output", [[], ["--json"], ["--stream"]])
def test_prediction_answers_for_the_others(folder: Path, output: list[str]) -> None:
    bad = os.fsdecode(b"set/b/caf\xe9.mp4")
    done = faster(folder, "predict", bad, "ok.mp4", "--run", "run", "--out", "p.csv", *output)
    assert (done.returncode, b"Traceback" in done.stderr) == (3, False)
    failed, answered = csv.DictReader((folder / "p.csv").read_text(encoding="utf-8").splitlines())
    assert failed["path"] == "set/b/caf\\xe9.mp4" and "is not UTF-8" in failed["reason"]
    assert answered["path"] == "ok.mp4" and answered["predicted"] in ("a", "b")
    done.stdout.decode("utf-8")


def test_prediction_of_a_folder_too(folder: Path) -> None:
    assert faster(folder, "predict", "set", "--run", "run", "--out", "p.csv").returncode == 3
    rows = list(csv.DictReader((folder / "p.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["path"] for row in rows if row["reason"]] == ["set/b/caf\\xe9.mp4"] and len(rows) == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "set", "--store", NAME, *MODEL],
        ["extract", NAME, "--store", "t.zarr", *MODEL],
        ["train-agg", "--store", "s.zarr", "--out", NAME],
        ["sweep", "--store", "s.zarr", "--out", NAME],
        ["train-backbone", "set", "--model", "r2d14-w4", "--out", NAME],
        ["train-agg", "--store", f"{NAME}.zarr"],
        ["inspect", f"{NAME}.zarr"],
        ["evaluate", f"{NAME}-run"],
        ["report", f"{NAME}-run"],
        ["report", "run", "--out", f"{NAME}.html"],
        ["predict", "ok.mp4", "--run", f"{NAME}-run"],
        ["predict", "ok.mp4", "--run", "run", "--out", f"{NAME}.csv"],
        ["export", "s.zarr", "--out", f"{NAME}-out"],
        ["export-model", "run", "--out", f"{NAME}-model"],
        ["convert", "s.zarr", f"{NAME}-copy.zarr"],
        ["demo", "--folder", f"{NAME}-demo"],
    ],
    ids=lambda arguments: as_text("-".join(arguments[:4])).replace("/", "-"),
)
def test_folders_are_refused_before_work_begins(folder: Path, arguments: list[str]) -> None:
    done = faster(folder, *arguments)
    assert done.returncode == 2, done.stderr
    said = done.stderr.decode("utf-8").strip().splitlines()[-1]
    assert said.startswith("faster: ") and "caf\\xe9" in said and "is not UTF-8" in said


def test_names_as_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xffcaf\xe9 \xc3\xa9")
    assert not is_text(name) and as_text(name) == "\\xffcaf\\xe9 é"
    assert is_text("é") and as_text("é") == "é"
    shown = tmp_path / as_text(name)
    assert not stands_for_other_bytes(shown)
    (tmp_path / name).touch()
    assert stands_for_other_bytes(shown) and not stands_for_other_bytes(tmp_path / name)
    shown.touch()
    assert not stands_for_other_bytes(shown)
