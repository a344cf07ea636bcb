"""Out of a store and back: exports that read back bit for bit, and what they look like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from exchanges import ALL, contents, make_original, run_export, run_import
from faster import store as stores
from faster.cli import main
from faster.errors import Interrupted, StoreError, UsageError
from faster.exchange.export_hdf5 import write_hdf5
from faster.exchange.export_npy import write_npy
from faster.exchange.export_source import ModelExport
from faster.exchange.sidecar import file_names
from faster.runtime.signals import interruptible
from faster.store.format.schema import maps_key
from faster.store.maintain.verify import verify
from faster.store.write.removal import remove_shards
from stores import make_spec, make_store, make_videos


@pytest.fixture
def original(tmp_path: Path) -> stores.Store:
    return make_original(tmp_path / "a.zarr")


# --- Round trips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["r2d26", "r2plus1d50"])
@pytest.mark.parametrize("out", ["features", "features.h5"])
def test_an_export_imports_back_bit_for_bit_with_all_that_is_known(
    original: stores.Store, tmp_path: Path, out: str, model: str
) -> None:
    exported = run_export(original.path, tmp_path / out)
    assert (exported.exported, exported.absent) == (18, {"no frames": 2, "was not on disk": 2})
    imported = run_import(tmp_path / out, tmp_path / "b.zarr", model)
    assert (imported.imported, imported.absent, imported.missing) == (9, {"no frames": 1}, 1)
    copy = stores.open(tmp_path / "b.zarr")
    was, now = original.features(model, 8), copy.features(model, 8)
    ours, theirs = original.videos, copy.videos
    for name in ("ids", "paths", "groups", "class_names", "missing"):
        assert getattr(theirs, name) == getattr(ours, name)
    for name in ("labels", "start_seconds", "end_seconds"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    np.testing.assert_array_equal(theirs.split("split1"), ours.split("split1"))
    for row in (0, 1, 3, 4, 5, 6, 7, 8, 9):
        np.testing.assert_array_equal(now.read_maps(row, 0, ALL), was.read_maps(row, 0, ALL))
    assert now.coverage.reasons == was.coverage.reasons
    for name in ("status", "frames", "fps", "starts", "times_seconds", "padded"):
        np.testing.assert_array_equal(now.coverage.columns[name], was.coverage.columns[name])
    assert now.trained_on == was.trained_on and now.gflops_per_clip == was.gflops_per_clip
    lossless = replace(was.spec, dtype="float16", codec="none", num_classes=0, class_names=None)
    assert now.spec == lossless  # so faster predict finds the same weights
    assert now.provenance["imported"]["of_export"] == was.spec.to_dict()
    assert not verify(tmp_path / "b.zarr").bad


@pytest.mark.parametrize("out", ["pooled", "pooled.hdf5"])
def test_pooled_vectors_are_the_means_and_import_back(
    original: stores.Store, tmp_path: Path, out: str
) -> None:
    run_export(original.path, tmp_path / out, model="r2d26", pool=True)
    run_import(tmp_path / out, tmp_path / "b.zarr", "r2d26")
    was, now = original.features("r2d26", 8), stores.open(tmp_path / "b.zarr").features("r2d26", 8)
    assert now.map_shape == (1, 1, 1, 16)
    for row in (0, 9):
        maps = was.read_maps(row, 0, ALL).astype(np.float64)
        vectors = np.array([[maps[m, ..., c].mean() for c in range(16)] for m in ALL])
        np.testing.assert_allclose(now.read_maps(row, 0, ALL)[:, 0, 0, 0], vectors, rtol=2**-10)
    # Other maps than these weights give: a live prediction must not take them for the same.
    assert now.spec.weights_digest != was.spec.weights_digest
    if out == "pooled":
        array = np.load(tmp_path / "pooled/r2d26-L8/a/víd eo 0.npy")
        np.testing.assert_array_equal(now.read_maps(0, 0, ALL)[:, 0, 0, 0], array)


def test_a_divisor_of_the_clips_takes_the_clips_that_so_many_alone_would_be(
    original: stores.Store, tmp_path: Path
) -> None:
    run_export(original.path, tmp_path / "x.h5", model="r2d26")
    run_import(tmp_path / "x.h5", tmp_path / "b.zarr", "r2d26", clips=2)
    now = stores.open(tmp_path / "b.zarr").features("r2d26", 8)
    np.testing.assert_array_equal(
        now.read_maps(0, 0, [0, 1]), original.features("r2d26", 8).read_maps(0, 0, [0, 2])
    )
    assert now.coverage.columns["starts"][0, 0].tolist() == [0, 16]
    with pytest.raises(UsageError, match="divisor"):
        run_import(tmp_path / "x.h5", tmp_path / "c.zarr", "r2d26", clips=3)


# --- What an export looks like -------------------------------------------------------------------------


def test_the_sidecar_places_features_as_temporal_localisation_code_does(tmp_path: Path) -> None:
    spec = make_spec(clips=32)
    path = make_store(tmp_path / "a.zarr", [spec], make_videos(1)).path
    run_export(path, tmp_path / "out", pool=True)
    facts = json.loads((tmp_path / "out/r2d26-L8/a/víd eo 0.json").read_text())
    assert (facts["frame_count"], facts["fps"], facts["duration_seconds"]) == (256, 25.0, 10.24)
    stride, frames, offset = (
        facts[name] for name in ("feature_stride_frames", "feature_frames", "offset_frames")
    )
    assert (stride, frames, offset) == (8, 8, 4)
    feature = 5
    centre_seconds = facts["times_seconds"][feature] + frames / 2 / facts["fps"]
    # ActionFormer: position = seconds · fps / feat_stride − 0.5 · num_frames / feat_stride.
    assert centre_seconds * facts["fps"] / stride - 0.5 * frames / stride == pytest.approx(feature)
    # OpenTAD: position = (seconds · fps − offset_frames) / snippet_stride.
    assert (centre_seconds * facts["fps"] - offset) / stride == pytest.approx(feature)
    assert np.load(tmp_path / "out/r2d26-L8/a/víd eo 0.npy").shape == (32, 16)


def test_hdf5_is_chunked_by_clip_and_says_all(original: stores.Store, tmp_path: Path) -> None:
    run_export(original.path, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        group = file["features/r2d26/L8"]
        assert group["maps"].chunks == (1, 1, 1, 2, 2, 16) and group["maps"].dtype == np.float16
        assert np.isnan(group["maps"][2]).all() and group["status"][2] == 2
        assert group["reasons"].asstr()[2] == "no frames"
        assert [json.loads(line)["id"] for line in group["missing"].asstr()[:]] == ["b/gone.mp4"]
        assert json.loads(group.attrs["spec"]) == original.features("r2d26", 8).spec.to_dict()
        assert file["ids"].asstr()[:].tolist() == original.videos.ids
        expected = original.features("r2d26", 8).read_logits(9, 0, ALL)
        np.testing.assert_array_equal(group["logits"][9], expected)


def test_class_names_longer_than_an_old_hdf5_attribute_are_carried(tmp_path: Path) -> None:
    names = tuple(f"{'a long class name ' * 20}{i}" for i in range(400))
    spec = make_spec(num_classes=400, class_names=names)
    path = make_store(tmp_path / "a.zarr", [spec], make_videos(1), class_names=names).path
    run_export(path, tmp_path / "x.h5")
    run_import(tmp_path / "x.h5", tmp_path / "b.zarr", "r2d26")
    assert stores.open(tmp_path / "b.zarr").class_names == names


def test_absent_videos_are_listed_beside_the_files(original: stores.Store, tmp_path: Path) -> None:
    remove_shards(original, [("r2d26", 8, 2, 0)])  # rows 8 and 9
    summary = run_export(original.path, tmp_path / "out", model="r2d26")
    lines = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert [(line["id"], line["status"]) for line in lines] == [
        (original.videos.ids[2], "failed"),
        (original.videos.ids[8], "waiting"),
        (original.videos.ids[9], "waiting"),
        ("b/gone.mp4", "missing"),
    ]
    assert summary.exported == 7 and sum(summary.absent.values()) == 4


def test_views_that_are_left_out_are_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", [make_spec(views=3), make_spec("r3d14")], make_videos(2))
    summary = run_export(store.path, tmp_path / "x.h5")
    assert summary.notes == ("r2d26: the centre view is exported; left out: 2 other views of each video",)


def test_object_storage_is_no_place_for_an_export(
    original: stores.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="s3://bucket/x"):
        run_export(original.path, Path("s3://bucket/x"))
    assert contents(tmp_path) == before


def test_names_too_long_for_a_file_are_cut_and_come_back_whole(tmp_path: Path) -> None:
    """Three names alike in their first 230 bytes, and a folder of 300: each has files of its own."""
    long = [f"a/{'x' * 230}{i}.mp4" for i in range(2)] + [f"{'é' * 150}/{'é' * 115}.mp4", "a/short.mp4"]
    videos = [replace(video, id=name, path=name) for video, name in zip(make_videos(4), long, strict=True)]
    store = make_store(tmp_path / "a.zarr", [make_spec()], videos)
    assert run_export(store.path, tmp_path / "out").exported == 4
    assert run_export(store.path, tmp_path / "out").already_whole == 4
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    found = sorted(folder.rglob("*.json"))
    assert len(found) == 4 and all(len(os.fsencode(path.name)) < 230 for path in found)
    assert sorted(json.loads(path.read_bytes())["id"] for path in found) == sorted(long)
    assert (folder / "a" / "short.npy").is_file()
    run_import(tmp_path / "out", tmp_path / "b.zarr", "r2d26")
    copy = stores.open(tmp_path / "b.zarr")
    assert list(copy.videos.ids) == long
    for row in range(4):
        np.testing.assert_array_equal(
            copy.features("r2d26", 8).read_maps(row, 0, ALL),
            store.features("r2d26", 8).read_maps(row, 0, ALL),
        )


def test_file_names_leave_out_the_videos_extension_unless_two_would_be_one() -> None:
    ids = ["x/a.mp4", "x/b.mp4", "x/b.avi", "", "youtube_000001_000011", "x/a.mp4#t=0,10"]
    paths = ["x/a.mp4", "x/b.mp4", "x/b.avi", "", "400/youtube_000001_000011.mp4", "x/a.mp4"]
    assert file_names(ids, paths) == [
        "x/a",
        "x/b.mp4",
        "x/b.avi",
        "",
        "youtube_000001_000011",
        "x/a#t=0,10",
    ]


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/a.mp4", "a//b.mp4", "x/../../a.mp4"])
def test_an_id_that_leaves_the_folder_is_no_file_name(name: str) -> None:
    with pytest.raises(StoreError, match="no file name"):
        file_names([name], [name])


# --- Running an export again ---------------------------------------------------------------------------


def test_a_stopped_npy_export_goes_on_and_ends_the_same(original: stores.Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_export(original.path, out)
    whole = contents(out)
    folder = out / "r2d26-L8/a"
    (folder / "víd eo 0.json").unlink()
    (folder / "víd eo 3.npy").write_bytes(whole["r2d26-L8/a/víd eo 3.npy"][:100])
    (folder / "víd eo 6.npy").unlink()
    (out / "failures.jsonl").unlink()
    with pytest.raises(StoreError, match="not finished"):
        run_import(out, tmp_path / "b.zarr", "r2d26")
    again = run_export(original.path, out)
    assert (again.exported, again.already_whole) == (3, 15)
    assert contents(out) == whole


def test_an_output_that_is_something_else_is_refused_untouched(
    original: stores.Store, tmp_path: Path
) -> None:
    for name in ("x.h5", "npy"):
        run_export(original.path, tmp_path / name, model="r2d26")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="is there already"):
        run_export(original.path, tmp_path / "x.h5", model="r2d26")
    with pytest.raises(StoreError, match="another export"):
        run_export(original.path, tmp_path / "npy", model="r2d26", pool=True)
    with pytest.raises(StoreError, match="not empty"):
        run_export(original.path, original.path, model="r2d26")
    with pytest.raises(StoreError, match="is a file"):
        run_export(original.path, tmp_path / "x.h5", format="npy")
    with pytest.raises(StoreError, match="it has: r2d26 at 8"):
        run_export(original.path, tmp_path / "y.h5", model="r3d50")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("out", ["x.h5", "npy"])
def test_a_damaged_clip_ends_the_export_and_leaves_no_half_file(
    original: stores.Store, tmp_path: Path, out: str
) -> None:
    shard = original.path / "features/r2d26/L8" / maps_key(1, 0)
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="faster verify"):
        run_export(original.path, tmp_path / out, model="r2d26")
    assert not (tmp_path / "x.h5").exists() and not list(tmp_path.rglob(".*"))
    assert not (tmp_path / "npy/failures.jsonl").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(original: stores.Store, tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk."""
    for out, size in (("x.h5", 500), ("x.h5", 15000), ("npy", 500)):
        code = (
            "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}));"
            f"from faster.cli import main; main(['export', {str(original.path)!r}, '--out', {str(tmp_path / out)!r}])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        lines = [line for line in result.stderr.splitlines() if line.startswith("faster: ")]
        assert result.returncode == 74 and len(lines) == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert not list(tmp_path.rglob(".*.tmp")) and not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("out", ["x.h5", "npy"])
def test_a_signal_ends_an_export_between_whole_files(
    original: stores.Store, tmp_path: Path, out: str
) -> None:
    model = ModelExport(original, original.features("r2d26", 8), pool=False)
    written = write_hdf5 if out == "x.h5" else write_npy
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted), interruptible("whole files are kept"):
        written(tmp_path / out, [model], stop)
    assert not (tmp_path / "x.h5").exists() and not list(tmp_path.rglob(".*"))
    assert len(list(tmp_path.rglob("*.npy"))) == (0 if out == "x.h5" else 2)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("export.json", {"models": [{"spec": {}}]}),
        ("export.json", {"models": 3}),
        ("r2d26-L8/a/víd eo 0.json", {"padded": None}),
        ("r2d26-L8/a/víd eo 0.json", {"padded": [0]}),
        ("r2d26-L8/a/víd eo 0.json", {"splits": {"split1": "exam"}}),
        ("r2d26-L8/a/víd eo 0.json", {"starts": "all of them"}),
    ],
)
def test_an_export_that_was_changed_is_one_line(
    original: stores.Store, tmp_path: Path, file: str, change: dict[str, object]
) -> None:
    run_export(original.path, tmp_path / "out")
    path = tmp_path / "out" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StoreError) as refused:
        run_import(tmp_path / "out", tmp_path / "b.zarr", "r2d26")
    assert "\n" not in str(refused.value) and not (tmp_path / "b.zarr").exists()
    with pytest.raises((UsageError, StoreError), match=r"r2d26|no export|provenance"):
        run_import(tmp_path / "out", tmp_path / "b.zarr", "i3d")


def test_the_commands_print_what_was_done(
    original: stores.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["export", str(original.path), "--out", str(tmp_path / "x.h5")], "18 videos exported"),
        (
            ["import", str(tmp_path / "x.h5"), "--store", str(tmp_path / "b.zarr"), "--model", "r2d26"],
            "9 videos",
        ),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        out = capsys.readouterr().out
        assert left.value.code == 0 and words in out and "no frames" in out
    assert f"next: faster train-agg --store {tmp_path / 'b.zarr'}" in out


def test_the_commands_do_not_import_torch() -> None:
    code = "import faster.exchange.commands, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
