"""Damaged or hostile stores: one clear line, soon, in little memory, and nothing outside the store is touched."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from commands import Ended, run_commands
from faster import store as stores
from faster.errors import StoreError
from faster.runtime.canonical_json import canonical_json, digest
from faster.store.format.attributes import sealed_attributes
from faster.store.format.checksummed_json import decode_checksummed, encode_checksummed
from faster.store.format.encoding import compress
from stores import make_spec, make_store, make_videos
from videos import make_video

MODEL = "features/r2d26/L8"
SECONDS_MAX, BYTES_MAX = 5.0, 1 << 30
Damage = Callable[[Path], None]


def resealed(file: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change a sealed file's value and seal it again: whoever is hostile can count digests too."""

    def damage(store: Path) -> None:
        value = decode_checksummed((store / file).read_bytes(), name=file)
        change(value)
        (store / file).write_bytes(encode_checksummed(value))

    return damage


def manifest(**columns: object) -> Damage:
    return resealed("manifest/000000.json", lambda value: value.update(columns))


def first_of(column: str, entry: object) -> Damage:
    return resealed("manifest/000000.json", lambda value: value[column].__setitem__(0, entry))


def receipt(change: Callable[[dict[str, Any]], object]) -> Damage:
    return resealed(f"{MODEL}/receipts/000000.v0.json", change)


def facts(name: str, entry: object) -> Damage:
    return receipt(lambda value: value["videos"][0]["facts"].update({name: entry}))


def regrouped(metadata: dict[str, Any]) -> dict[str, Any]:
    """A group's metadata whose attributes carry a digest that fits: what an attacker would write."""
    attributes = metadata["attributes"]["faster"]
    attributes.pop("digest", None)
    metadata["attributes"] = sealed_attributes(attributes)
    return metadata


def spec(**fields: object) -> Damage:
    def damage(store: Path) -> None:
        file = store / MODEL / "zarr.json"
        value = json.loads(file.read_bytes())
        value["attributes"]["faster"]["spec"].update(fields)
        file.write_text(json.dumps(regrouped(value)))

    return damage


def top(text: str) -> Damage:
    return lambda store: written(store / "zarr.json", text.encode())


def group(text: str) -> Damage:
    """Of our attributes in the store's `zarr.json`, as JSON text."""
    whole = '{"zarr_format": 3, "node_type": "group", "attributes": {"faster": ' + text + "}}"
    try:
        return top(json.dumps(regrouped(json.loads(whole))))
    except (ValueError, TypeError, AttributeError, RecursionError):  # what cannot be sealed
        return top(whole)


def written(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def put(file: str, data: bytes) -> Damage:
    return lambda store: written(store / file, data)


def linked(name: str, target: str) -> Damage:
    """A file or folder of the store replaced by a link; `target` may begin with OUTSIDE."""

    def damage(store: Path) -> None:
        path = store / name
        outside = store.parent / "outside"
        if path.is_dir():
            shutil.copytree(path, outside / path.name)
            shutil.rmtree(path)
        else:
            path.unlink()
        path.symlink_to(outside / path.name if target == "OUTSIDE" else target)

    return damage


def piped(name: str) -> Damage:
    def damage(store: Path) -> None:
        (store / name).unlink()
        os.mkfifo(store / name)

    return damage


def sparse(name: str, size: int = 1 << 34) -> Damage:
    return lambda store: os.truncate(store / name, size)


def shard_index(entries: dict[tuple[int, int], tuple[int, int]]) -> Damage:
    """Entries (video, clip) → (offset, size) of shard 0's index, with a checksum that fits."""

    def damage(store: Path) -> None:
        file = store / MODEL / "maps/c/0/0/0/0/0/0/0"
        data = file.read_bytes()
        length = 4 * 4 * 16
        index = np.frombuffer(data[-length - 4 : -4], dtype="<u8").reshape(4, 4, 2).copy()
        for at, entry in entries.items():
            index[at] = entry
        file.write_bytes(
            data[: -length - 4] + index.tobytes() + struct.pack("<I", google_crc32c.value(index.tobytes()))
        )

    return damage


def derived(name: str, **changes: object) -> Damage:
    """An array of `index/` whose metadata were changed."""

    def damage(store: Path) -> None:
        file = store / MODEL / "index" / name / "zarr.json"
        file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))

    return damage


def bomb_in_index(store: Path) -> None:
    """A chunk that says it holds 4 GiB of zeros, in 400 KB."""
    file = store / MODEL / "index/crc32c/c/0/0/0"
    file.write_bytes(b"".join([compress(bytes(1 << 20))] * 4096))


def recorded(**fields: object) -> Damage:
    def damage(store: Path) -> None:
        file = store / MODEL / "zarr.json"
        value = json.loads(file.read_bytes())
        value["attributes"]["faster"]["recorded"].update(fields)
        file.write_text(json.dumps(regrouped(value)))

    return damage


NESTED = "[" * 100_000 + "]" * 100_000
HUGE = 10**400

# name → the damage, and the commands that must refuse it (others may: what they do not look at, they need not see)
REFUSED: dict[str, tuple[Damage, str]] = {
    "store: empty metadata": (top(""), "inspect verify train-agg"),
    "store: nested without end": (top(NESTED), "inspect verify train-agg"),
    "store: a list": (top("[]"), "inspect verify train-agg"),
    "store: attributes null": (group("null"), "inspect verify train-agg"),
    "store: no videos a shard": (group('{"format": 1, "shard_videos": 0}'), "inspect verify train-agg"),
    "store: true videos a shard": (group('{"format": 1, "shard_videos": true}'), "inspect verify train-agg"),
    "store: NaN videos a shard": (group('{"format": 1, "shard_videos": NaN}'), "inspect verify train-agg"),
    "store: 5000 digits": (
        group('{"format": 1, "shard_videos": 1%s}' % ("0" * 5000)),
        "inspect verify train-agg",
    ),
    "store: a million videos a shard": (group('{"format": 1, "shard_videos": 1000000}'), "inspect train-agg"),
    "store: another format": (group('{"format": 2, "shard_videos": 4}'), "inspect verify train-agg"),
    "store: metadata of 16 GiB": (sparse("zarr.json"), "inspect verify train-agg"),
    "store: metadata a pipe": (piped("zarr.json"), "inspect verify train-agg"),
    "store: metadata a link to /dev/zero": (linked("zarr.json", "/dev/zero"), "inspect verify train-agg"),
    "spec: absurd map": (spec(map_shape=[1, 10**6, 10**6, 2048]), "inspect verify train-agg"),
    "spec: map of no width": (spec(map_shape=[1, 2, 0, 16]), "inspect verify train-agg"),
    "spec: map of Infinity": (spec(map_shape=[1, 2, float("inf"), 16]), "inspect verify train-agg"),
    "spec: views and clips beyond memory": (spec(clips=10**6, views=10**6), "inspect verify train-agg"),
    "spec: more clips than memory": (spec(clips=10**6), "inspect verify train-agg"),
    "spec: clips a text": (spec(clips="4"), "inspect verify train-agg"),
    "spec: a huge number": (spec(num_classes=HUGE), "inspect verify train-agg"),
    "spec: a dtype of pickles": (spec(dtype="object"), "inspect verify train-agg"),
    "spec: a codec unknown": (spec(codec="blosc"), "inspect verify train-agg"),
    "spec: a model that is a path": (spec(model="../../../outside"), "inspect verify train-agg"),
    "spec: nested transform": (spec(transform={"a": [[[0]]]}), "inspect verify train-agg"),
    "spec: a field too many": (spec(surprise=1), "inspect verify train-agg"),
    "recorded: GFLOPs NaN": (recorded(gflops_per_clip=float("nan")), "inspect train-agg"),
    "manifest: starts at a thousand million": (manifest(start=10**9), "inspect verify train-agg"),
    "manifest: starts below zero": (manifest(start=-4), "inspect verify train-agg"),
    "manifest: a label of no class": (first_of("labels", 7), "inspect verify train-agg"),
    "manifest: a huge label": (first_of("labels", HUGE), "inspect verify train-agg"),
    "manifest: a label that is a list": (first_of("labels", []), "inspect verify train-agg"),
    "manifest: an id that is a number": (first_of("ids", 5), "inspect verify train-agg"),
    "manifest: an id twice": (first_of("ids", "b/víd eo 1.mp4"), "inspect verify train-agg"),
    "manifest: an id that is no UTF-8": (
        lambda store: rewrite(store / "manifest/000000.json", "a/v\\ud800"),
        "inspect verify train-agg",
    ),
    "manifest: a path out of the root": (first_of("paths", "../../etc/passwd"), "inspect verify train-agg"),
    "manifest: an absolute path": (first_of("paths", "/etc/passwd"), "inspect verify train-agg"),
    "manifest: a split that is a path": (
        manifest(splits={"../../../x": [1] * 11}),
        "inspect verify train-agg",
    ),
    "manifest: a part of no name": (manifest(splits={"s": [900] * 11}), "inspect verify train-agg"),
    "manifest: starts at Infinity": (first_of("start_seconds", float("inf")), "inspect verify train-agg"),
    "manifest: columns of unequal length": (manifest(groups=[]), "inspect verify train-agg"),
    "manifest: nested without end": (
        put("manifest/000000.json", NESTED.encode()),
        "inspect verify train-agg",
    ),
    "manifest: of 16 GiB": (sparse("manifest/000000.json"), "inspect verify train-agg"),
    "manifest: a pipe": (piped("manifest/000000.json"), "inspect verify train-agg"),
    "receipt: a start beyond all": (facts("starts", [HUGE] * 4), "verify"),
    "receipt: frames a text": (facts("frames", "many"), "verify"),
    "receipt: a checksum below zero": (receipt(lambda v: v["videos"][0].update(crc32c=[-1] * 4)), "verify"),
    "receipt: a key out of the store": (
        receipt(lambda v: v["objects"][0].update(key="../../../../outside/precious")),
        "verify",
    ),
    "receipt: a row of another shard": (receipt(lambda v: v["videos"][0].update(row=9)), "verify"),
    "receipt: a size that is a text": (receipt(lambda v: v["objects"][0].update(size_bytes="1")), "verify"),
    "receipt: of 16 GiB": (sparse(f"{MODEL}/receipts/000000.v0.json"), "verify"),
    "receipt: a link to /dev/zero": (linked(f"{MODEL}/receipts/000000.v0.json", "/dev/zero"), "verify"),
    "trained_on: numbers": (resealed(f"{MODEL}/trained_on.json", lambda v: v.update(ids=[5])), "train-agg"),
    "trained_on: a link to /dev/zero": (linked(f"{MODEL}/trained_on.json", "/dev/zero"), "train-agg"),
    "model: a folder elsewhere": (linked(MODEL, "OUTSIDE"), "inspect verify train-agg"),
    "maps: a folder elsewhere": (linked(f"{MODEL}/maps/c", "OUTSIDE"), "verify"),
    "maps: a link to /dev/zero": (linked(f"{MODEL}/maps/c/0/0/0/0/0/0/0", "/dev/zero"), "verify train-maps"),
    "maps: an offset beyond all": (shard_index({(0, 0): (2**63, 128)}), "verify train-maps"),
    "maps: an offset behind the end": (shard_index({(0, 0): (2**40, 128)}), "verify train-maps"),
    "maps: a clip of 2**62 bytes": (shard_index({(1, 2): (0, 2**62)}), "verify train-maps"),
}

# Derived arrays: what is wrong with them is not used, and everything reads as it did.
UNUSED: dict[str, Damage] = {
    "index: absurd shape": derived("starts", shape=[10**12, 10**6, 10**6]),
    "index: chunks of 0": derived(
        "status", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 0]}}
    ),
    "index: a codec that runs code": derived("status", codecs=[{"name": "pickle", "configuration": {}}]),
    "index: a dtype unknown": derived("crc32c", data_type="complex4096"),
    "index: nested without end": put(f"{MODEL}/index/status/zarr.json", NESTED.encode()),
    "index: a bomb": bomb_in_index,
    "index: a chunk of 16 GiB": sparse(f"{MODEL}/index/status/c/0/0"),
    "index: a link to /dev/zero": linked(f"{MODEL}/index/status/c/0/0", "/dev/zero"),
    "index: group nested without end": put(f"{MODEL}/index/zarr.json", NESTED.encode()),
}


def rewrite(file: Path, first_id: str) -> None:
    """The manifest with a text in place of its first id that JSON can say and UTF-8 cannot."""
    value = {"format": 1, **decode_checksummed(file.read_bytes(), name=file.name)}
    value["ids"][0] = "PLACE"
    bare = canonical_json(value).replace(b"PLACE", first_id.encode())
    import hashlib

    seal_text = b'"digest":%s,' % canonical_json(hashlib.sha256(bare).hexdigest())
    at = bare.index(b'"end_seconds"')
    file.write_bytes(bare[:at] + seal_text + bare[at:])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "s.zarr"
    return make_store(path, [make_spec()], make_videos(11), signal=True).path


def commands_on(store: str, name: str) -> list[str]:
    train = f"train-agg --store {store} --epochs 1 --device cpu --out {store}-run --aggregator"
    return {
        "inspect": ["inspect", store],
        "verify": ["verify", store, "--processes", "1"],
        "train-agg": [*train.split(), "average"],
        "train-maps": [*train.split(), "gru"],  # the average of scores reads no maps
    }[name]


def require_one_line(ended: Ended, what: str) -> None:
    assert ended.code == 65, f"{what}: ended {ended.code}\n{ended.errors[-1500:]}"
    lines = [
        line for line in ended.errors.splitlines() if line and not line.startswith(("verify:", "epoch "))
    ]
    assert len(lines) <= 1 and all(line.startswith("faster: ") for line in lines), (
        f"{what}:\n{ended.errors[-1500:]}"
    )
    assert ended.seconds < SECONDS_MAX and ended.peak_bytes < BYTES_MAX, (
        f"{what}: {ended.seconds} s, {ended.peak_bytes}"
    )


def test_damaged_metadata_ends_in_one_line_in_little_time_and_memory(sound: Path, tmp_path: Path) -> None:
    cases = [
        (f"c{i}.zarr", name, command)
        for i, name in enumerate(REFUSED)
        for command in REFUSED[name][1].split()
    ]
    for i, (damage, _) in enumerate(REFUSED.values()):
        (tmp_path / f"c{i}").mkdir()
        damage(Path(shutil.copytree(sound, tmp_path / f"c{i}" / f"c{i}.zarr")))
    ended = run_commands(
        [commands_on(f"{store[:-5]}/{store}", command) for store, _, command in cases],
        cwd=tmp_path,
        preload=["faster.aggregate.train", "faster.store.maintain.verify"],
    )
    wrong = []
    for (_, name, command), end in zip(cases, ended, strict=True):
        try:
            require_one_line(end, f"{name}, {command}")
        except AssertionError as error:
            wrong.append(str(error)[:600])
    assert not wrong, "\n".join(wrong)
    assert len(REFUSED) >= 25


def test_damaged_derived_arrays_are_not_used(sound: Path, tmp_path: Path) -> None:
    for i, damage in enumerate(UNUSED.values()):
        damage(Path(shutil.copytree(sound, tmp_path / f"c{i}.zarr")))
    shutil.copytree(sound, tmp_path / "sound.zarr")
    stores_ = ["sound.zarr", *(f"c{i}.zarr" for i in range(len(UNUSED)))]
    commands = [commands_on(store, name) for store in stores_ for name in ("inspect", "verify", "train-agg")]
    ended = run_commands(
        commands, cwd=tmp_path, preload=["faster.aggregate.train", "faster.store.maintain.verify"]
    )
    whole = ended[0].output.replace("sound.zarr", "")
    for i, name in enumerate(["sound", *UNUSED]):
        for end in ended[3 * i : 3 * i + 3]:
            assert end.code == 0, f"{name}: {end.errors[-1500:]}"
            assert end.seconds < SECONDS_MAX and end.peak_bytes < BYTES_MAX, name
        assert ended[3 * i].output.replace(stores_[i], "") == whole, name


def test_a_bomb_in_a_compressed_shard_is_not_unpacked(tmp_path: Path) -> None:
    """A frame of 8 GiB under the size that the index allows; its receipt fits it, so only decoding can tell."""
    store = make_store(
        tmp_path / "s.zarr", [make_spec(codec="zstd", map_shape=(1, 7, 7, 64))], make_videos(4)
    )
    features = store.features("r2d26", 8)
    file = features.folder / "maps/c/0/0/0/0/0/0/0"
    plain = compress(bytes(1 << 28))
    frames = [
        plain,
        plain[:5] + struct.pack("<I", 6272) + plain[9:],
    ]  # an honest frame; one that says too little
    for frame in frames:
        shutil.copytree(store.path, tmp_path / "copy.zarr")
        copied = stores.open(tmp_path / "copy.zarr").features("r2d26", 8)
        data = bytearray(file.read_bytes())
        index = np.frombuffer(bytes(data[-260:-4]), dtype="<u8").reshape(4, 4, 2).copy()
        bomb = frame[: int(index[0, 0, 1])].ljust(int(index[0, 0, 1]), b"\0")
        data[int(index[0, 0, 0]) : int(index[0, 0, 0]) + len(bomb)] = bomb
        (copied.folder / "maps/c/0/0/0/0/0/0/0").write_bytes(bytes(data))
        path = copied.folder / "receipts/000000.v0.json"
        value = decode_checksummed(path.read_bytes(), name="receipt")
        value["videos"][0]["crc32c"][0] = google_crc32c.value(bomb)
        path.write_bytes(encode_checksummed(value))
        shutil.rmtree(copied.folder / "index")
        with pytest.raises(StoreError, match=r"zstd frame|decompressed"):
            copied.read_maps(0, 0, 0)
        shutil.rmtree(tmp_path / "copy.zarr")


def test_repair_removes_nothing_outside_the_store(sound: Path, tmp_path: Path) -> None:
    precious = tmp_path / "outside" / "precious"
    copy = tmp_path / "s.zarr"
    for name in (f"{MODEL}/maps/c", f"{MODEL}/receipts", MODEL, f"{MODEL}/logits/c/1"):
        shutil.copytree(sound, copy)
        (copy / MODEL / "receipts/000001.v0.json").write_bytes(b"damaged")
        linked(name, "OUTSIDE")(copy)
        precious.write_text("keep")
        (precious.parent / ".0.1-2.tmp").write_text("keep")
        before = sorted(str(p) for p in precious.parent.rglob("*"))
        (ended,) = run_commands([["verify", "s.zarr", "--repair", "--processes", "1"]], cwd=tmp_path)
        assert ended.code == 65 and "leads out of the store" in ended.errors, ended.errors
        assert sorted(str(p) for p in precious.parent.rglob("*")) == before
        shutil.rmtree(copy)
        shutil.rmtree(precious.parent)


def test_extract_reads_nothing_outside_its_video_root(sound: Path, tmp_path: Path) -> None:
    """A store's manifest decides which files of the root the shard in hand needs."""
    copy = Path(shutil.copytree(sound, tmp_path / "s.zarr"))
    first_of("paths", "../../etc/passwd")(copy)
    make_video(tmp_path / "a.mp4")
    line = "extract a.mp4 --model r2d14-w4 --allow-random --devices cpu --size 32 --store s.zarr"
    (ended,) = run_commands(
        [line.split()], cwd=tmp_path, preload=["faster.extract.run"], memory_bytes=8 << 30
    )
    assert ended.code == 65 and "leads out of the video root" in ended.errors, ended.errors


def test_names_cannot_speak_to_the_terminal(sound: Path, tmp_path: Path) -> None:
    """A name with a line break and an escape sequence is shown, not obeyed."""
    copy = Path(shutil.copytree(sound, tmp_path / "s.zarr"))
    first_of("paths", "/bad\n\x1b[31mred")(copy)
    (ended,) = run_commands([["inspect", "s.zarr"]], cwd=tmp_path)
    require_one_line(ended, "newline")
    assert "\x1b" not in ended.errors and "\\x1b" in ended.errors


def test_an_index_of_two_writings_is_not_used(sound: Path, tmp_path: Path) -> None:
    """One run finalises over another's arrays and is stopped half-way: each column is whole, together they lie."""
    old = make_store(
        tmp_path / "old.zarr", [make_spec()], make_videos(11), failed={2: "audio only"}, signal=True
    )
    copy = Path(shutil.copytree(sound, tmp_path / "s.zarr"))
    for name in ("crc32c", "starts"):
        shutil.rmtree(copy / MODEL / "index" / name)
        shutil.copytree(old.path / MODEL / "index" / name, copy / MODEL / "index" / name)
    features = stores.open(copy).features("r2d26", 8)
    np.testing.assert_array_equal(
        features.read_maps(2, 0, np.arange(4)),
        stores.open(sound).features("r2d26", 8).read_maps(2, 0, np.arange(4)),
    )
    assert digest(features.coverage.columns["starts"].tolist()) == digest(
        stores.open(sound).features("r2d26", 8).coverage.columns["starts"].tolist()
    )
