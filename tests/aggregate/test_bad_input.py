"""Bad input: one line that says what is wrong and what mends it, and the exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faster.cli import main
from faster.store import VideoRecord
from faster.store.format import manifest as manifests
from faster.store.format.checksummed_json import decode_checksummed, encode_checksummed
from stores import make_spec, make_store, make_videos, write_shard

SPECS = [make_spec("dear", clips=8), make_spec("cheap", clips=8)]
GFLOPS = {"dear": 9.0, "cheap": 1.0}
TRAIN = ["train-agg", "--aggregator", "gru", "--epochs", "1", "--device", "cpu", "--out", "run"]

Damage = Callable[[], None]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a run on it."""
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_store(Path("s.zarr"), SPECS, make_videos(24), gflops=GFLOPS, signal=True)
        assert faster(*TRAIN, "--store", "s.zarr") == 0
    return folder


@pytest.fixture
def here(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # The run names its store by absolute path: that of the copy.
    config = Path("run/config.json")
    config.write_text(config.read_text().replace(str(built.resolve()), str(tmp_path.resolve())))


def faster(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert isinstance(left.value.code, int)
    return left.value.code


def rebuild(*, videos: list[VideoRecord] | None = None, models: int = 2, **changes: object) -> None:
    shutil.rmtree("s.zarr")
    shutil.rmtree("run")
    make_store(
        Path("s.zarr"), SPECS[:models], videos or make_videos(24), gflops=GFLOPS, signal=True, **changes
    )


def in_parts(*parts: str) -> list[VideoRecord]:
    return make_videos(24, splits={i: parts[i % len(parts)] for i in range(24)})


def one_class() -> None:
    videos = [
        VideoRecord(id=f"v{i}", path=f"v{i}", label=1, splits={"s": "train" if i % 3 else "test"})
        for i in range(24)
    ]
    rebuild(videos=videos)


def not_extracted() -> None:
    rebuild()
    for part in ("receipts", "index"):
        shutil.rmtree(f"s.zarr/features/cheap/L8/{part}")


def shard_lost() -> None:
    shutil.rmtree("run")
    shutil.rmtree("s.zarr/features/cheap/L8/maps/c")


def label_out_of_range() -> None:
    file = Path("s.zarr/manifest/000000.json")
    columns = decode_checksummed(file.read_bytes(), name="manifest")
    file.write_bytes(encode_checksummed({**columns, "labels": [7, *columns["labels"][1:]]}))


def grown() -> None:
    store = Path("s.zarr")
    more = [
        VideoRecord(id=f"new{i}", path=f"new{i}", label=i % 3, splits={"split1": "train"}) for i in range(5)
    ]
    manifest = manifests.append(
        store, videos=more, missing=[], class_names=("a", "b", "c"), root=Path("videos"), shard_videos=4
    )
    for spec in SPECS:
        for shard in (6, 7):
            write_shard(store, spec, manifest, shard, 4, signal=True)


def made_again() -> None:
    shutil.rmtree("s.zarr")
    changed = [SPECS[0], make_spec("cheap", clips=8, weights_digest="1" * 64)]
    make_store(Path("s.zarr"), changed, make_videos(24), gflops=GFLOPS, signal=True)


def other_videos() -> None:
    shutil.rmtree("s.zarr")
    make_store(Path("s.zarr"), SPECS, make_videos(21), gflops=GFLOPS, signal=True)


def nothing() -> None:
    """The store and the run as they are."""


STORE = ["--store", "s.zarr"]
CASES: dict[str, tuple[Damage, list[str], str, str]] = {
    # what is wrong: how it came, the command, what the line says is wrong, what it says mends it
    "no such model": (nothing, [*TRAIN, *STORE, "--cheap", "r3d50"], "no maps of r3d50 at 8 frames", "faster extract --store s.zarr --model r3d50"),
    "one model": (lambda: rebuild(models=1), [*TRAIN, *STORE, "--pattern", "1:7"], "one model, dear", "faster extract --store s.zarr"),
    "no such clip length": (nothing, [*TRAIN, *STORE, "--clip-frames", "16"], "none of 16", "faster extract --store s.zarr --clip-frames 16"),
    "too many clips": (nothing, [*TRAIN, *STORE, "--clips", "9"], "8 clips a video, 9 are asked", "--clips 8"),
    "maps not there yet": (not_extracted, [*TRAIN, *STORE], "cheap has 0 of 18", "faster extract --store s.zarr --model dear --model cheap"),
    "shards lost": (shard_lost, [*TRAIN, *STORE], "maps/c", ""),
    "one class": (one_class, [*TRAIN, *STORE], "are of one class, b", "faster extract SOURCE --store s.zarr"),
    "no training videos": (lambda: rebuild(videos=in_parts("test")), [*TRAIN, *STORE], "it lists only test videos", "--split"),
    "no test videos": (lambda: rebuild(videos=in_parts("train")), [*TRAIN, *STORE], "it lists only train videos", "--split"),
    "no such split": (nothing, [*TRAIN, *STORE, "--split", "x"], "no split 'x'; it has split1", "--split"),
    "labels out of range": (label_out_of_range, [*TRAIN, *STORE], "manifest", ""),
    "no store": (nothing, [*TRAIN, "--store", "t.zarr"], "t.zarr", "faster extract"),
    "store grown, training": (grown, [*TRAIN, *STORE], "has changed since run was begun: 5 videos were added", "--out"),
    "store grown, evaluating": (grown, ["evaluate", "run"], "5 videos were added", "/s.zarr"),
    "maps made again, training": (made_again, [*TRAIN, *STORE], "the maps of cheap were made again with another weights_digest", "--out"),
    "maps made again, evaluating": (made_again, ["evaluate", "run"], "cheap are not those of the run, they differ in weights_digest", "faster train-agg --store"),
    "other videos": (other_videos, ["evaluate", "run"], "it lists other videos", "faster evaluate run --store"),
    "empty part": (nothing, ["evaluate", "run", "--part", "val"], "no labelled val video of split1", "--split or --part"),
    "other split": (nothing, ["evaluate", "run", "--split", "x"], "no split 'x'", "--split"),
    "no run": (nothing, ["evaluate", "nowhere"], "nowhere/config.json is missing", "name one that a training command made"),
    "no run to start from": (nothing, [*TRAIN, *STORE, "--init", "nowhere"], "nowhere/config.json is missing", "name one that a training command made"),
    "other settings": (nothing, [*TRAIN, *STORE, "--optimizer", "adamw"], "training.optimizer is sgd there, adamw asked", "--out"),
}  # fmt: skip


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_exit_code_65(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, command, wrong, fix = CASES[case]
    damage()
    capsys.readouterr()
    assert faster(*command) == 65
    *progress, line = capsys.readouterr().err.splitlines()
    assert all(not text or text.startswith("epoch 1/1") for text in progress)
    assert line.startswith("faster: ") and wrong in line and fix in line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "options",
    [
        ["--aggregator", "grue"],
        ["--pattern", "1-7"],
        ["--optimizer", "adam"],
        ["--warmup-epochs", "2"],
        ["--validation-share", "1"],
        ["--label-smoothing", "1"],
        ["--patience", "0"],
        ["--precision", "fp16"],
        ["--learning-rate", "0"],
        ["--device", "cuda:77"],
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert faster(*TRAIN, *STORE, "--out", "other", *options) == 2
    assert capsys.readouterr().err and not Path("other").exists()


@pytest.mark.usefixtures("here")
def test_a_model_that_is_not_in_use_may_be_added() -> None:
    from faster.store.write import create as writer

    third, path = make_spec("third", clips=8), Path("s.zarr")
    manifest = manifests.load(path)
    writer.declare(path, third, recorded={"gflops_per_clip": 3.0}, trained_on=[])
    writer.fit_arrays(path, third, manifest, 4)
    for shard in range(6):
        write_shard(path, third, manifest, shard, 4)
    before = json.loads(Path("run/result.json").read_text())
    assert faster("evaluate", "run", "--device", "cpu") == 0
    assert faster(*TRAIN, *STORE, "--expensive", "dear", "--cheap", "cheap") == 0
    assert json.loads(Path("run/result.json").read_text())["metrics"] == before["metrics"]


@pytest.mark.usefixtures("here")
def test_a_grown_store_can_be_evaluated_by_name() -> None:
    grown()
    assert faster("evaluate", "run", "--store", "s.zarr", "--device", "cpu") == 0
