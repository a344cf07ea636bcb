"""`verify` finds every corruption and nothing else; `--repair` removes exactly that."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faster import store as stores
from faster.errors import StorageError, StoreError
from faster.store.format.checksummed_json import decode_checksummed, encode_checksummed
from faster.store.maintain.verify import verify
from faster.store.write import create as writer
from stores import make_spec, make_store, make_videos, write_shard

CORRUPTIONS = 1200


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> stores.Store:
    path = tmp_path_factory.mktemp("sound") / "s.zarr"
    specs = [
        make_spec("r2d26"),
        make_spec("r2plus1d50", num_classes=0, class_names=None, dtype="uint8", codec="zstd"),
    ]
    return make_store(path, specs, make_videos(11), failed={5: "audio only"})


@pytest.fixture
def copied(sound: stores.Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound.path, tmp_path / "copy.zarr"))


def flip_bit(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def truncate(file: Path, rng: np.random.Generator) -> None:
    file.write_bytes(file.read_bytes()[: rng.integers(file.stat().st_size)])


def delete(file: Path, rng: np.random.Generator) -> None:
    file.unlink()


def empty(file: Path, rng: np.random.Generator) -> None:
    file.write_bytes(b"")


def swap(file: Path, rng: np.random.Generator) -> None:
    """With the same file of another shard; of receipts and data alike."""
    name = file.as_posix()
    other = Path(name.replace("/c/0/", "/c/1/") if "/c/0/" in name else name.replace("/c/1/", "/c/0/"))
    if "receipts" in name:
        other = file.with_name("000000.v0.json" if file.name != "000000.v0.json" else "000001.v0.json")
    if other == file:
        other = Path(name.replace("/c/2/", "/c/0/"))
    mine, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(mine)


def parts_of(store: Path) -> list[Path]:
    """Every file that a receipt speaks of; deleting a receipt only makes its shard undone."""
    return sorted(
        p
        for p in store.rglob("*")
        if p.is_file()
        and "/c/" in p.as_posix()
        and "/features/" in p.as_posix()
        and "/index/" not in p.as_posix()
    )


def test_a_sound_store_is_sound(sound: stores.Store) -> None:
    found = verify(sound.path, progress=False)
    assert found.shards == 6 and not found.bad and not found.leftovers
    assert found.size_bytes == sum(file.stat().st_size for file in parts_of(sound.path))


@pytest.mark.parametrize("corrupt", [flip_bit, truncate, delete, empty, swap])
def test_corruption_is_found_and_repair_leaves_the_rest(
    copied: Path, corrupt: Callable[[Path, np.random.Generator], None]
) -> None:
    file = copied / make_spec().folder / "maps/c/1/0/0/0/0/0/0"
    corrupt(file, np.random.default_rng(1))
    found = verify(copied, progress=False, processes=1)
    wrong = {(bad.model, bad.shard) for bad in found.bad}
    assert wrong == ({("r2d26", 1), ("r2d26", 0)} if corrupt is swap else {("r2d26", 1)})
    repaired = verify(copied, repair=True, progress=False, processes=1)
    assert repaired.repaired and len(repaired.bad) == len(wrong)
    assert not verify(copied, progress=False, processes=1).bad
    store = stores.open(copied)
    missing = {row for row in range(11) if not store.features("r2d26", 8).ok[row, 0]} - {5}
    assert missing == {row for _, shard in wrong for row in range(4 * shard, 4 * shard + 4)} - {5}
    assert store.features("r2plus1d50", 8).ok.sum() == 10
    for shard in {shard for _, shard in wrong}:
        write_shard(copied, make_spec(), store.videos, shard, 4, failed={5: "audio only"})
    assert stores.open(copied).features("r2d26", 8).ok.sum() == 10


def test_a_receipt_of_other_videos_or_other_maps_does_not_hold(copied: Path) -> None:
    for shard, field in ((0, "fingerprint"), (1, "ids_digest")):
        file = copied / make_spec().folder / f"receipts/00000{shard}.v0.json"
        value = decode_checksummed(file.read_bytes(), name="receipt")
        file.write_bytes(encode_checksummed({**value, field: "0" * 64}))
    assert [bad.shard for bad in verify(copied, progress=False, processes=1).bad] == [0, 1]


@pytest.mark.parametrize(
    "name",
    ["maps/zarr.json", "logits/zarr.json", "head/weight/c/0/0", "head/bias/zarr.json", "head/zarr.json"],
)
@pytest.mark.parametrize("damage", [flip_bit, delete, empty])
def test_what_only_other_readers_need_is_verified_too(
    tmp_path: Path, name: str, damage: Callable[[Path, np.random.Generator], None]
) -> None:
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [], make_videos(4))
    head = (np.ones((3, 16), np.float32), np.zeros(3, np.float32))

    def declare() -> None:
        writer.declare(store.path, spec, recorded={}, trained_on=[], head=head)
        writer.fit_arrays(store.path, spec, store.videos, 4)

    declare()
    assert verify(store.path, progress=False).descriptions == ()
    before = {f: f.read_bytes() for f in (store.path / spec.folder).rglob("*") if f.is_file()}
    damage(store.path / spec.folder / name, np.random.default_rng(0))
    found = "head" if name.startswith("head") else name  # a part of a classifier means nothing
    assert verify(store.path, progress=False).descriptions == (f"{spec.folder}/{found}",)
    verify(store.path, progress=False, repair=True)
    assert verify(store.path, progress=False).descriptions in ((), (f"{spec.folder}/trained_on.json",))
    declare()
    assert {f: f.read_bytes() for f in before} == before


def test_an_index_that_is_not_what_the_receipts_say_is_found_and_made_again(
    copied: Path, tmp_path: Path
) -> None:
    """As after another store's index was restored, or receipts came that look older than it."""
    other = make_store(tmp_path / "other.zarr", [make_spec()], make_videos(11), failed={2: "cut off"})
    name = f"{make_spec().folder}/index"
    whole = {f.relative_to(copied): f.read_bytes() for f in (copied / name).rglob("*") if f.is_file()}
    shutil.copytree(other.path / name, copied / name, dirs_exist_ok=True)
    assert not stores.open(copied).features("r2d26", 8).ok[2, 0]
    found = verify(copied, progress=False, processes=1)
    assert not found.bad and found.descriptions == (f"{name}/zarr.json",) and not found.remake
    verify(copied, repair=True, progress=False, processes=1)
    assert stores.open(copied).features("r2d26", 8).ok[2, 0]
    assert not verify(copied, progress=False, processes=1).descriptions
    assert {file: (copied / file).read_bytes() for file in whole} == whole


def test_leftovers_of_killed_runs_are_named_and_removed(copied: Path) -> None:
    folder = copied / make_spec().folder
    (folder / "maps/c/2/0/0/0/0/0/.0.123-abc.tmp").write_bytes(b"half")
    (folder / "receipts/000001.v0.json").unlink()
    found = verify(copied, progress=False, processes=1)
    assert not found.bad and len(found.leftovers) == 3  # the temporary file, and shard 1's maps and logits
    verify(copied, repair=True, progress=False, processes=1)
    assert not any((copied / name).exists() for name in found.leftovers)
    assert not verify(copied, progress=False, processes=1).leftovers


def test_a_file_that_may_not_be_read_is_no_bad_shard(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it one, --repair would remove what is whole."""

    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("faster.store.maintain.verify.open_regular", refused)
    with pytest.raises(StorageError, match="Permission denied"):
        verify(copied, repair=True, progress=False, processes=1)
    monkeypatch.undo()
    assert not verify(copied, progress=False).bad


@pytest.mark.stress
def test_every_one_of_many_seeded_corruptions_is_found(sound: stores.Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = [flip_bit, truncate, delete, empty, swap]
    counts = dict.fromkeys((kind.__name__ for kind in kinds), 0)
    base = Path(shutil.copytree(sound.path, tmp_path / "base.zarr"))
    shards = parts_of(base) + sorted(base.glob("features/*/L8/receipts/*.json"))
    others = [base / "manifest/000000.json", base / "zarr.json"]
    others += [*base.glob("features/*/L8/*.json"), *base.glob("features/*/L8/maps/zarr.json")]

    def found() -> bool:
        try:
            result = verify(base, processes=1, progress=False)
        except StoreError:
            return True
        return bool(result.bad or result.descriptions or result.leftovers)

    while sum(counts.values()) < CORRUPTIONS:
        total = sum(counts.values())
        if total % 10:
            kind, files = kinds[total % len(kinds)], shards
        else:  # what is not of one shard has no like to be swapped with
            kind, files = kinds[int(rng.integers(4))], others
        before = {p: p.read_bytes() for p in shards + others}
        kind(files[int(rng.integers(len(files)))], rng)
        changed = [p for p, data in before.items() if not p.exists() or p.read_bytes() != data]
        assert not changed or found(), f"{kind.__name__} of {changed} was not found (corruption {total})"
        counts[kind.__name__] += bool(changed)
        for path, data in before.items():
            path.write_bytes(data)
    assert not found()
    print(f"\n{sum(counts.values())} corruptions, all found: {counts}; none in the sound store")
