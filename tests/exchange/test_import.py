"""Others' features as maps: which, labelled how, and bad files refused before a byte is written."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from exchanges import ALL, contents, features, foreign, make_original, save
from faster import store as stores
from faster.aggregate.train import TrainConfig, train_agg
from faster.cli import group, main
from faster.errors import FasterError, SourceError, StoreError, UsageError
from faster.exchange.feature_files import NpyFeatures
from faster.exchange.suffixes import suffixes_of
from faster.predict.predictor import Predictor
from faster.store.maintain.verify import verify
from faster.store.write.removal import remove_shards
from sources import write
from stores import make_spec, make_store, make_videos


@pytest.fixture
def original(tmp_path: Path) -> stores.Store:
    return make_original(tmp_path / "a.zarr")


# --- Others' features ----------------------------------------------------------------------------------


def test_vectors_of_any_length_become_the_stores_clips(tmp_path: Path) -> None:
    lengths = {"a/long": 11, "a/exact": 4, "b/short": 2}
    arrays = {name: features(t, 6, seed=t) for name, t in lengths.items()}
    for name, array in arrays.items():
        save(tmp_path / f"f/{name}.npy", array)
    summary = foreign(tmp_path / "f", tmp_path / "b.zarr", clips=4)
    store = stores.open(tmp_path / "b.zarr")
    maps = store.features("i3d", 16)
    taken = {"a/long": [0, 2, 5, 8], "a/exact": [0, 1, 2, 3], "b/short": [0, 1, 1, 1]}
    for name, places in taken.items():
        stored = maps.read_maps(store.videos.row_of[name], 0, ALL)
        np.testing.assert_array_equal(stored[:, 0, 0, 0], arrays[name][places].astype(np.float16))
    assert summary.padded == 1
    assert maps.coverage.columns["padded"][store.videos.row_of["b/short"], 0].tolist() == [0, 0, 16, 16]
    assert store.class_names == ("a", "b") and store.videos.split_names == ["auto"]
    assert maps.gflops_per_clip == 2.5 and maps.spec.transform == {"imported": True}
    assert maps.provenance["imported"]["source"] == str(tmp_path / "f")


@pytest.mark.parametrize("shape", [(3, 5, 5, 8), (3, 2, 5, 5, 8)])
def test_channels_first_gives_the_same_maps(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = features(*shape)
    save(tmp_path / "last/v.npy", array)
    save(tmp_path / "first/v.npy", np.asfortranarray(np.moveaxis(array, -1, 1)).astype(">f8"))
    foreign(tmp_path / "last", tmp_path / "a.zarr")
    foreign(tmp_path / "first", tmp_path / "b.zarr", channels_first=True)
    a, b = (stores.open(tmp_path / name).features("i3d", 16) for name in ("a.zarr", "b.zarr"))
    assert a.map_shape == (1, *shape[1:])[-4:]
    np.testing.assert_array_equal(a.read_maps(0, 0, [0, 1, 2]), b.read_maps(0, 0, [0, 1, 2]))


def test_hdf5_of_a_dataset_or_a_group_a_video(tmp_path: Path) -> None:
    arrays = {name: features(3, 6, seed=i) for i, name in enumerate(["v_a", "v_b"])}
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    with h5py.File(tmp_path / "grouped.hdf5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"{name}/c3d_features", data=array, compression="gzip")
    for source in ("plain.h5", "grouped.hdf5"):
        foreign(tmp_path / source, tmp_path / f"{source}.zarr")
        store = stores.open(tmp_path / f"{source}.zarr")
        for row, name in enumerate(["v_a", "v_b"]):
            assert store.videos.ids[row] == name
            maps = store.features("i3d", 16).read_maps(row, 0, [0, 1, 2])
            np.testing.assert_array_equal(maps[:, 0, 0, 0], arrays[name].astype(np.float16))


KINDS = {
    "words": (["v0_rgb", "v0_flow", "v1_rgb", "v1_flow"], {"_flow": 2, "_rgb": 2}),
    "folders": (["a/v0-rgb", "a/v0-flow", "b/v1-rgb"], {"-flow": 1, "-rgb": 2}),
    "two words": (
        ["v0_rgb", "v0_optical_flow", "v1_rgb", "v1_optical_flow"],
        {"_optical_flow": 2, "_rgb": 2},
    ),
    "one plain": (["v0", "v0_flow", "v1", "v1_flow"], {"": 2, "_flow": 2}),
    "groups": (["v0/rgb", "v0/flow", "v1/rgb", "v1/flow"], {"/flow": 2, "/rgb": 2}),
    "clips": (["v_Run_g08_c01", "v_Run_g08_c02", "v_Jump_g08_c01", "v_Jump_g08_c02"], {}),
    "class folders": (["run/x", "run/y", "jump/x"], {}),
    "ids": (["v_a", "v_b", "ab_cd", "ab_ef"], {}),
}


@pytest.mark.parametrize("case", KINDS)
def test_kinds_of_features_are_told_by_what_their_names_end_in(case: str) -> None:
    names, kinds = KINDS[case]
    assert suffixes_of(names) == kinds


def test_of_several_kinds_one_is_asked_for(tmp_path: Path) -> None:
    """Taken for videos, v0_rgb could land in training and v0_flow in the test."""
    for i, name in enumerate(["a/v0", "b/v1"]):
        save(tmp_path / "in" / f"{name}_rgb.npy", features(3, 6, seed=i))
        save(tmp_path / "in" / f"{name}_flow.npy", features(3, 6, seed=9 + i))
    source, store = tmp_path / "in", tmp_path / "s.zarr"
    with pytest.raises(UsageError, match=r"_flow \(2\) and _rgb \(2\): take one, --suffix _rgb"):
        foreign(source, store)
    with pytest.raises(UsageError, match=r"--suffix is '_gray', and no .* _flow \(2\) and _rgb \(2\)"):
        foreign(source, store, suffix="_gray")
    assert not store.exists()
    for model, suffix in (("rgb", "_rgb"), ("flow", "_flow")):
        assert foreign(source, store, model=model, suffix=suffix).imported == 2
    opened = stores.open(store)
    assert opened.videos.ids == ["a/v0", "b/v1"]
    for model, seed in (("rgb", 0), ("flow", 9)):
        for row in (0, 1):
            maps = opened.features(model, 16).read_maps(row, 0, [0, 1, 2])[:, 0, 0, 0]
            np.testing.assert_array_equal(maps, features(3, 6, seed=seed + row).astype(np.float16))
    assert foreign(source, tmp_path / "each.zarr", suffix="").imported == 4
    # Lists know videos, no kinds: none fits, and the reason is the same.
    listed = tmp_path / "train_list.txt"
    listed.write_text("a/v0.mp4 0\nb/v1.mp4 1\n")
    with pytest.raises(UsageError, match="--suffix _rgb"):
        foreign(source, tmp_path / "l.zarr", annotations=(str(listed),))
    assert foreign(source, tmp_path / "l.zarr", annotations=(str(listed),), suffix="_rgb").imported == 2


def test_folders_of_kinds_are_no_classes(tmp_path: Path) -> None:
    for name in ("rgb/v0", "rgb/v1", "flow/v0", "flow/v1"):
        save(tmp_path / "in" / f"{name}.npy", features(3, 6))
    with pytest.raises(UsageError, match="the folders flow and rgb hold features of the same videos"):
        foreign(tmp_path / "in", tmp_path / "s.zarr")
    assert foreign(tmp_path / "in" / "rgb", tmp_path / "s.zarr").imported == 2


def test_a_feature_file_whose_name_is_no_text_is_imported(tmp_path: Path) -> None:
    save(tmp_path / "in" / "v0.npy", features(3, 6))
    path = Path(os.fsdecode(bytes(tmp_path) + b"/in/caf\xe9.npy"))
    path.write_bytes((tmp_path / "in" / "v0.npy").read_bytes())
    assert foreign(tmp_path / "in", tmp_path / "s.zarr").imported == 2
    assert stores.open(tmp_path / "s.zarr").videos.ids == ["caf\\xe9", "v0"]


def test_labels_come_from_lists_by_id_path_or_file_name(tmp_path: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 Archery", "2 Surfing")
    write(lists / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 1", "Surfing/v_Surfing_g08_c01.avi 2")
    write(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi", "Surfing/v_Surfing_g01_c01.avi")
    for name in ("v_Archery_g08_c01", "Surfing/v_Surfing_g08_c01", "v_Archery_g01_c01.avi", "other"):
        save(tmp_path / f"f/{name}.npy", features(2, 4))
    with pytest.raises(SourceError, match=r"1 of 4 listed .*--allow-missing"):
        foreign(tmp_path / "f", tmp_path / "b.zarr", annotations=(str(lists),))
    summary = foreign(tmp_path / "f", tmp_path / "b.zarr", annotations=(str(lists),), allow_missing=True)
    assert (summary.imported, summary.left_out, summary.missing) == (3, 1, 1)
    videos = stores.open(tmp_path / "b.zarr").videos
    assert videos.ids == [
        "Archery/v_Archery_g08_c01.avi",
        "Surfing/v_Surfing_g08_c01.avi",
        "Archery/v_Archery_g01_c01.avi",
    ]
    assert videos.labels.tolist() == [0, 1, 0] and videos.split("split1").tolist() == [1, 1, 3]
    assert videos.groups[0] == "Archery/g08" and list(videos.missing) == ["Surfing/v_Surfing_g01_c01.avi"]


def test_kinetics_lists_name_features_by_their_id(tmp_path: Path) -> None:
    file = write(
        tmp_path / "k.csv",
        "label,youtube_id,time_start,time_end,split",
        "surfing,abc,1,11,train",
        "archery,def,0,10,val",
    )
    for name in ("abc_000001_000011", "def_000000_000010"):
        save(tmp_path / f"f/{name}.npy", features(2, 4))
    foreign(tmp_path / "f", tmp_path / "b.zarr", annotations=(str(file),))
    videos = stores.open(tmp_path / "b.zarr").videos
    assert videos.ids == ["abc_000001_000011", "def_000000_000010"]
    assert [videos.class_names[label] for label in videos.labels] == ["surfing", "archery"]


def test_names_that_fit_two_videos_or_none_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "train.txt", "a/v.mp4 0", "b/v.mp4 1")
    save(tmp_path / "f/v.npy", features(2, 4))
    with pytest.raises(SourceError, match="fits"):
        foreign(tmp_path / "f", tmp_path / "b.zarr", annotations=(str(file),))
    save(tmp_path / "g/w.npy", features(2, 4))
    with pytest.raises(SourceError, match=r"of 1 feature .* none is of a video"):
        foreign(tmp_path / "g", tmp_path / "b.zarr", annotations=(str(file),))
    assert not (tmp_path / "b.zarr").exists()


def test_features_join_a_store_as_another_model_of_its_videos(original: stores.Store, tmp_path: Path) -> None:
    for row, name in enumerate(original.videos.ids):
        if row != 3:
            save(tmp_path / f"f/{name.rpartition('.')[0] if row != 5 else name}.npy", features(4, 1, 1, 16))
    before = original.videos.segments
    summary = foreign(tmp_path / "f", original.path, clip_frames=8)
    store = stores.open(original.path)
    assert summary.imported == 9 and store.videos.segments == before
    assert store.features("i3d", 8).coverage.reasons == {(3, 0): "no features of it were imported"}
    assert not verify(original.path).bad


def test_an_import_goes_on_where_it_was_and_refuses_other_files(tmp_path: Path) -> None:
    for i in range(70):  # two shards of 64
        save(tmp_path / f"f/{'ab'[i % 2]}/{i}.npy", features(2, 4, seed=i))
    foreign(tmp_path / "f", tmp_path / "b.zarr")
    whole = contents(tmp_path / "b.zarr")
    remove_shards(stores.open(tmp_path / "b.zarr"), [("i3d", 16, 1, 0)])
    again = foreign(tmp_path / "f", tmp_path / "b.zarr")
    assert (again.imported, again.already_whole) == (6, 64)
    assert contents(tmp_path / "b.zarr") == whole
    save(tmp_path / "f/a/0.npy", features(2, 4, seed=99))
    with pytest.raises(StoreError, match="weights_digest"):
        foreign(tmp_path / "f", tmp_path / "b.zarr")


@pytest.mark.parametrize("aggregator", ["gru", "average"])
def test_an_aggregator_trains_on_imported_features(tmp_path: Path, aggregator: str) -> None:
    for i in range(24):
        array = features(5 + i % 3, 8, seed=i)
        array[:, i % 2] += 3
        part = "test" if i >= 16 else "train"
        save(tmp_path / f"f/{part}/{'ab'[i % 2]}/{i}.npy", array)
    foreign(tmp_path / "f", tmp_path / "b.zarr", clips=4)
    result = train_agg(
        TrainConfig(
            store=tmp_path / "b.zarr", aggregator=aggregator, out=tmp_path / "run", epochs=12, device="cpu"
        ),
        progress=False,
    )
    assert result.report.metrics.top1 == 1.0 and result.report.metrics.videos == 8
    with pytest.raises(FasterError, match=r"maps of i3d were imported, and no backbone here makes them"):
        Predictor(tmp_path / "run")


@pytest.mark.parametrize(("dtype", "codec"), [("uint8", "none"), ("uint8", "zstd"), ("float16", "zstd")])
def test_features_are_stored_as_asked(tmp_path: Path, dtype: str, codec: str) -> None:
    array = np.abs(features(4, 3, 3, 8))
    save(tmp_path / "f/v.npy", array)
    foreign(tmp_path / "f", tmp_path / "b.zarr", dtype=dtype, codec=codec)
    maps = stores.open(tmp_path / "b.zarr").features("i3d", 16)
    assert (maps.spec.dtype, maps.spec.codec) == (dtype, codec)
    exact = array.astype(np.float16)
    error = 0 if dtype == "float16" else exact.max(axis=(0, 1, 2)) / 255
    assert (np.abs(maps.read_maps(0, 0, ALL)[:, 0] - exact.astype(np.float32)) <= error).all()
    with pytest.raises(StoreError, match=r"dtype|codec"):
        foreign(tmp_path / "f", tmp_path / "b.zarr")


def test_uint8_refuses_what_goes_below_zero_before_anything_is_written(tmp_path: Path) -> None:
    array = np.abs(features(5, 4))
    save(tmp_path / "f/a.npy", array)
    array[0, 0] = -0.0  # is not below zero
    array[3, 2] = -0.5
    save(tmp_path / "f/b.npy", array)
    with pytest.raises(StoreError, match=r"^b: feature 3 goes below zero, .* --dtype float16$"):
        foreign(tmp_path / "f", tmp_path / "b.zarr", dtype="uint8")
    assert not (tmp_path / "b.zarr").exists()


def test_what_to_do_next_works_whatever_else_the_store_holds(tmp_path: Path) -> None:
    for i in range(12):
        part = "test" if i >= 8 else "train"
        save(tmp_path / f"f/{part}/{'ab'[i % 2]}/{i}.npy", features(4, 8, seed=i))

    def next_of(model: str, **options: object) -> str:
        summary = foreign(tmp_path / "f", tmp_path / "b.zarr", model=model, **options)
        _, command, *arguments = shlex.split(summary.next_command)
        done = CliRunner().invoke(
            group, [command, *arguments, "--epochs", "1", "--out", str(tmp_path / model)]
        )
        assert command == "train-agg" and done.exit_code == 0, done.output
        return summary.next_command

    start = f"faster train-agg --store {tmp_path / 'b.zarr'}"
    assert next_of("one") == start
    assert next_of("two", gflops=1) == start  # both, mixed
    assert next_of("three", clips=2) == f"{start} --expensive three --pattern all-E"
    assert next_of("a four", clip_frames=8) == f"{start} --clip-frames 8"
    assert (
        next_of("five", clip_frames=8, clips=2) == f"{start} --clip-frames 8 --expensive five --pattern all-E"
    )


def test_lists_add_labels_to_what_was_extracted_without_them(tmp_path: Path) -> None:
    """As `faster inspect` tells the user of an unlabelled store."""
    videos = [replace(video, label=-1, splits={}) for video in make_videos(6)]
    trained_on = [videos[0].id, "elsewhere.mp4"]
    spec = make_spec(num_classes=0, class_names=None)
    old = make_store(tmp_path / "s.zarr", [spec], videos, class_names=(), trained_on=trained_on)
    said = CliRunner().invoke(group, ["inspect", str(old.path)]).stdout.splitlines()[-1]
    export, _, rest = said.partition("faster export ")[2].partition(", then faster import ")
    names = [Path(video.id).stem for video in videos]
    parts = ["train", "train", "train", "train", "test", "test"]
    for part in ("train", "test"):
        lines = [f"other/{n}.mp4 {i % 2}" for i, n in enumerate(names) if parts[i] == part]
        write(tmp_path / f"lists/{part}.txt", *lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for arguments in (["export", *export.split()], ["import", *rest.replace("LISTS", "lists").split()]):
            done = CliRunner().invoke(group, arguments)
            assert done.exit_code == 0, done.output
    new = stores.open(tmp_path / "labelled.zarr")
    assert (new.videos.split(new.videos.split_names[0]) == 3).sum() == 2
    was, now = old.features("r2d26", 8), new.features("r2d26", 8)
    for row, video in enumerate(videos):
        copy = new.videos.row_of[f"other/{Path(video.id).name}"]
        assert new.videos.labels[copy] == row % 2
        np.testing.assert_array_equal(now.read_maps(copy, 0, ALL), was.read_maps(row, 0, ALL))
    # What the weights saw in training is still known, under the lists' ids.
    assert now.trained_on == {f"other/{names[0]}.mp4", "elsewhere.mp4"}


# --- Hostile input -------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it would say so."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return print, ("unpickled",)


def bad_values(value: float) -> np.ndarray:
    array = features(3, 4)
    array[1, 2] = value
    return array


def cut(path: Path) -> None:
    save(path, features(30, 4))
    path.write_bytes(path.read_bytes()[:-40])


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=features(2, 4))


def link_h5(path: Path) -> None:
    """A dataset whose bytes are another file's."""
    with h5py.File(path, "w") as file:
        file.create_dataset("v", shape=(2, 4), dtype="f4", external=[("/etc/passwd", 0, 32)])


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pickled": ("v.npy", lambda p: np.save(p, np.array([Bomb()], dtype=object)), "Python objects"),
    "cut": ("v.npy", cut, "v.npy"),
    "empty": ("v.npy", lambda p: p.touch(), "empty"),
    "text": ("v.npy", lambda p: p.write_text("hello"), "v.npy"),
    "archive": ("v.npy", archive, "archive"),
    "one axis": ("v.npy", lambda p: np.save(p, features(4)), "allowed: (T, c)"),
    "three axes": ("v.npy", lambda p: np.save(p, features(2, 3, 4)), "allowed: (T, c)"),
    "no features": ("v.npy", lambda p: np.save(p, features(0, 4)), "none of them 0"),
    "integers": ("v.npy", lambda p: np.save(p, np.ones((2, 4), dtype=np.int64)), "int64"),
    "a structure": ("v.npy", lambda p: np.save(p, np.zeros((2, 4), dtype="f4,f4")), "floating|features are"),
    "NaN": ("v.npy", lambda p: np.save(p, bad_values(np.nan)), "v: feature 1 is not finite"),
    "infinite": ("v.npy", lambda p: np.save(p, bad_values(np.inf)), "not finite"),
    "too large": ("v.npy", lambda p: np.save(p, bad_values(1e5)), "beyond float16"),
    "other channels": ("v.npy", lambda p: np.save(p, features(3, 5)), "1×1×1×5"),
    "maps among vectors": ("v.npy", lambda p: np.save(p, features(3, 2, 2, 4)), "1×2×2×4"),
    "no file": ("v.txt", lambda p: p.touch(), "no .npy"),
    "no HDF5": ("f.h5", lambda p: p.write_text("hello"), "HDF5"),
    "HDF5 without arrays": ("f.h5", lambda p: h5py.File(p, "w").close(), "no datasets"),
    "HDF5 into other files": ("f.h5", link_h5, "other files"),
}


def test_an_archive_that_is_refused_is_closed(tmp_path: Path) -> None:
    """While the error is still held, and with it all that stood in its frames."""
    archive(tmp_path / "v.npy")
    with pytest.raises(StoreError, match="archive") as error:
        NpyFeatures(tmp_path).describe("v")
    held = {fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    assert tmp_path / "v.npy" not in held and error.tb is not None


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, words = BAD[case]
    folder = tmp_path / "f"
    folder.mkdir()
    if name == "v.npy":
        save(folder / "first.npy", features(3, 4))
    make(folder / name)
    source = folder / name if name.endswith(".h5") else folder
    arguments = ["import", str(source), "--store", str(tmp_path / "b.zarr"), "--model", "i3d"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--gflops", "1", "--clip-frames", "16", "--json"])
    told = capsys.readouterr()
    assert left.value.code == 65 and "unpickled" not in told.out
    lines = [line for line in told.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and any(word in lines[0] for word in words.split("|")), told.err
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--gflops"),
        (["--gflops", "1"], "--clip-frames"),
        (["--gflops", "-1", "--clip-frames", "8"], "--gflops is -1"),
        (["--gflops", "nan", "--clip-frames", "8"], "--gflops is nan"),
        (
            ["--gflops", "1", "--clip-frames", "8", "--annotations", ".", "--format", "files"],
            "reads no lists",
        ),
    ],
)
def test_an_import_that_cannot_be_meant_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    save(tmp_path / "f/v.npy", features(3, 4))
    with pytest.raises(SystemExit) as left:
        main(
            ["import", str(tmp_path / "f"), "--store", str(tmp_path / "b.zarr"), "--model", "i3d", *arguments]
        )
    assert left.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "b.zarr").exists()
