"""The examples run as they stand, one on what another wrote."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from sets import make_bright_set

SMALL = ["--size", "32", "--clips", "4", "--epochs", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    make_bright_set(folder / "videos", per_class=6, tests=2)
    return folder


def run(name: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def reported(folder: Path) -> str:
    networks = ["--expensive", "r2plus1d14-w4", "--cheap", "r2d14-w4"]
    return run("videos_to_report.py", "videos", *networks, *SMALL, cwd=folder)


@pytest.mark.slow
def test_own_videos_to_a_report(folder: Path, reported: str) -> None:
    assert "report: example/report.html" in reported and "fast-gru" in reported
    page = (folder / "example/report.html").read_text()
    assert "fast-gru" in page and "1:3" in page
    assert len(list((folder / "example/sweep/cells").iterdir())) == 6


@pytest.mark.slow
def test_live_prediction_of_a_run(folder: Path, reported: str) -> None:
    (cell,) = (folder / "example/sweep/cells").glob("fast-gru-1-3-*")
    video = next((folder / "videos/test/light").iterdir())
    arguments = [str(cell), str(video), "missing.mp4", "--exit", "1"]
    *clips, answer, missing = run("live_prediction.py", *arguments, cwd=folder).splitlines()
    assert len(clips) == 4 and [line.split()[2] for line in clips] == ["r2plus1d14-w4", *["r2d14-w4"] * 3]
    assert re.search(r": (dark|light) \d+%, 0 of \S+ GFLOPs saved$", answer)
    assert missing.startswith("missing.mp4: failed: ")


@pytest.mark.slow
def test_a_loop_of_ones_own(folder: Path, reported: str) -> None:
    arguments = ["example/videos.zarr", "--pattern", "all-C", "--epochs", "3"]
    *epochs, last = run("own_loop.py", *arguments, cwd=folder).splitlines()
    assert [line.split(":")[0] for line in epochs] == ["epoch 0", "epoch 1", "epoch 2"]
    assert re.fullmatch(r"top-1 of 4 test videos: \d+\.\d%", last)


@pytest.mark.slow
def test_a_backbone_of_ones_own(folder: Path) -> None:
    said = run("own_backbone.py", "videos", *SMALL, "--out", "own", cwd=folder)
    assert re.search(r"top-1 \d+\.\d%; run: own/own-run$", said.strip())
    assert (folder / "own/weights/own_backbone-two_layers.safetensors").exists()


def test_every_example_is_run_here_and_named_in_the_readme() -> None:
    tests, readme = Path(__file__).read_text(), (ROOT / "README.md").read_text()
    for file in (ROOT / "examples").glob("*.py"):
        assert f'run("{file.name}"' in tests and f"examples/{file.name}" in readme, file.name
        assert len(file.read_text().splitlines()) <= 100
