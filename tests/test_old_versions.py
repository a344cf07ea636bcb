"""What faster 0.1.0 wrote opens, verifies, is evaluated, trained on and gone on with as before.

`data/v0_1_0.tar.xz` holds what that version made of eight videos of 32×32, with narrow networks of random weights: a
whole store (`old.zarr`), one with half the videos (`partial.zarr`), a finished run, one that was stopped after 51 of
400 epochs, and a sweep.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from commands import Ended, run_commands

ARCHIVE = Path(__file__).parent / "data" / "v0_1_0.tar.xz"
EXTRACT = "--allow-random --size 32 --clips 2 --precision float32"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def run(folder: Path, *lines: str) -> list[Ended]:
    """Run the commands, which must end well."""
    ended = run_commands([line.split() for line in lines], cwd=folder, memory_bytes=8 << 30)
    for line, one in zip(lines, ended, strict=True):
        assert one.code == 0, f"{line}: {one.code}\n{one.errors}"
    return ended


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_store_verifies_and_is_whole_for_an_extraction_run_again(old: Path) -> None:
    before = contents(old / "old.zarr")
    run(
        old,
        "verify old.zarr",
        "inspect old.zarr",
        f"extract videos --model r2plus1d14-w2 --model r2d14-w2 --store old.zarr {EXTRACT}",
    )
    assert contents(old / "old.zarr") == before


def test_an_extraction_goes_on_beside_what_is_there(old: Path) -> None:
    before = contents(old / "partial.zarr" / "features" / "r2d14-w2" / "L8" / "maps")
    line = f"extract videos --model r2d14-w2 --store partial.zarr {EXTRACT}"
    out, _, shown = run(old, line, "verify partial.zarr", "inspect partial.zarr --json")
    assert "8 of 8 videos are whole" in out.output + out.errors
    after = contents(old / "partial.zarr" / "features" / "r2d14-w2" / "L8" / "maps")
    shards = {name for name in before if "/c/" in f"/{name}"}
    assert shards and all(after[name] == before[name] for name in shards)
    assert json.loads(shown.output)


def test_a_run_is_evaluated_to_the_same_figures_and_predicts(old: Path) -> None:
    recorded = json.loads((old / "run/result.json").read_text())
    predictions = (old / "run/predictions.csv").read_text()
    shown, predicted = run(
        old, "evaluate run --store old.zarr --json", "predict videos/dark/dark0.mp4 --run run --json"
    )
    result = json.loads(shown.output)
    assert result["metrics"] == pytest.approx(recorded["metrics"], rel=1e-5)
    assert result["gflops_per_video"] == recorded["gflops_per_video"]
    table = (old / "run/predictions.csv").read_text()
    assert [line.split(",")[:2] for line in table.splitlines()] == [
        line.split(",")[:2] for line in predictions.splitlines()
    ]
    assert json.loads(predicted.output)


def test_an_unfinished_run_goes_on_with_what_it_records(old: Path) -> None:
    before = (old / "unfinished/metrics.jsonl").read_text()
    run(
        old,
        "train-agg --store old.zarr --aggregator gru --epochs 400 --clips 1 --out unfinished --precision float32",
    )
    after = (old / "unfinished/metrics.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 400


def test_a_sweep_has_nothing_left_to_do_and_is_reported(old: Path) -> None:
    before = (old / "sweep/cells.jsonl").read_bytes()
    out, _ = run(
        old,
        "sweep --store old.zarr --aggregators average,gru --patterns 1:1 --seeds 1 --epochs 1 --out sweep",
        "report sweep run --out report.html",
    )
    assert (old / "sweep/cells.jsonl").read_bytes() == before, out.errors
    assert "<html" in (old / "report.html").read_text()
