"""Open features to import: a folder of `.npy`, an HDF5 file with a dataset per video, or an export.

The files cannot execute code: pickled arrays are refused, and so are HDF5 datasets that lie in other files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError, UsageError
from ..runtime.file_names import as_text
from ..store.format.manifest import PART_NAMES, VideoRecord
from ..store.format.receipts import ClipFacts
from ..store.format.spec import FeatureSpec
from ..terminal.text import counted
from .export_hdf5 import FACTS
from .sidecar import EXPORT_FORMAT, FAILURES_FILE, INDEX_FILE, Absence, facts_from_sidecar, record_from_dict


class FeatureSource(Protocol):
    """Arrays (T, …) of videos, by name."""

    @property
    def names(self) -> Sequence[str]:
        """A name for each video, in the order of the source."""

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of a video's array from its header. Raises StoreError if there is none."""

    def read(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Read features `first` to `last` (exclusive) of a video. Raises StoreError if this fails."""


@dataclass(frozen=True, kw_only=True)
class OwnExport:
    """The metadata of one model in an export of this package.

    Attributes:
        spec, recorded, trained_on, class_names: as in the exported store.
        pooled: whether the features are the maps' means.
        videos: name in the source → its record, and facts.
        rows: id → row in that store, of all videos except those that were missing there.
        absent: videos without maps, and why.
    """

    spec: FeatureSpec
    recorded: Mapping[str, Any]
    trained_on: tuple[str, ...]
    class_names: tuple[str, ...]
    pooled: bool
    videos: Mapping[str, tuple[VideoRecord, ClipFacts]]
    rows: Mapping[str, int]
    absent: tuple[Absence, ...]


def open_features(
    place: Path, *, model: str, clip_frames: int | None
) -> tuple[FeatureSource, OwnExport | None]:
    """Open a folder or an HDF5 file; for an export of this package, also return the named model's metadata.

    Raises:
        StoreError: there is nothing that can be read.
        UsageError: an export that does not hold the model, or holds it at several clip lengths.
    """
    if place.is_file():
        with _readable(place, "HDF5 file"):
            file = h5py.File(place, "r")
        if file.attrs.get("format") == EXPORT_FORMAT:
            with _readable(place, "export"):
                return _own_hdf5(place, file, model, clip_frames)
        return Hdf5Features(place, file), None
    if not place.is_dir():
        raise StoreError(f"{place} is neither a folder of .npy files nor an HDF5 file")
    if (place / INDEX_FILE).is_file():
        with _readable(place / INDEX_FILE, "export"):
            index = json.loads((place / INDEX_FILE).read_bytes())
            if index["format"] == EXPORT_FORMAT:
                return _own_folder(place, index, model, clip_frames)
    return NpyFeatures(place), None


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Turn the errors of malformed files into a StoreError of one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{path}: no {what} that can be read ({type(error).__name__}: {reason})") from error


class NpyFeatures:
    """A folder of `.npy` files; a video's name is its path without the extension."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        paths = (path.relative_to(folder) for path in folder.rglob("*.npy") if path.is_file())
        # Names that are not UTF-8 become text as videos' ids do.
        self._paths = {
            as_text(path.as_posix().removesuffix(".npy")): path
            for path in paths
            if not any(part.startswith(".") for part in path.parts)
        }
        self.names: Sequence[str] = sorted(self._paths)
        if not self.names:
            raise StoreError(f"{folder} holds no .npy files")

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Read the file's header."""
        array = self._open(name)
        return array.shape, array.dtype

    def read(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Read through a memory map."""
        return np.asarray(self._open(name)[first:last])

    def _open(self, name: str) -> NDArray[Any]:
        path = self._folder / self._paths.get(name, f"{name}.npy")
        with _readable(path, "plain .npy array"):
            if path.stat().st_size == 0:
                raise EOFError("the file is empty")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                array.close()
                raise TypeError("an archive of several arrays")
            return array


class Hdf5Features:
    """An HDF5 file with one dataset per video, at any depth; a last name that all share is dropped."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path = path
        datasets: dict[str, Any] = {}
        with _readable(path, "HDF5 file"):
            file.visititems(
                lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None
            )
        if not datasets:
            raise StoreError(f"{path} holds no datasets; expected one a video")
        ends = {name.rpartition("/")[2] for name in datasets}
        if len(ends) == 1 and all("/" in name for name in datasets):
            datasets = {name.rpartition("/")[0]: item for name, item in datasets.items()}
        self._datasets = dict(sorted(datasets.items()))
        self.names: Sequence[str] = list(self._datasets)

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return what HDF5 declares."""
        dataset = self._datasets[name]
        if dataset.external is not None or dataset.is_virtual:
            raise StoreError(f"{self._path}: {name} lies in other files; copy it into this one")
        if dataset.shape is None:
            raise StoreError(f"{self._path}: {name} is empty")
        return dataset.shape, dataset.dtype

    def read(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Read only the chunks that contain them."""
        with _readable(self._path, f"dataset {name}"):
            return np.asarray(self._datasets[name][first:last])


class OwnHdf5Features:
    """One model's dataset of an HDF5 export; a video's name is its id."""

    def __init__(self, path: Path, maps: Any, rows: Mapping[str, int]) -> None:
        if maps.external is not None or maps.is_virtual:
            raise StoreError(f"{path}: its maps lie in other files; copy them into this one")
        self._path, self._maps, self._rows = path, maps, rows
        self.names: Sequence[str] = list(rows)

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return what HDF5 declares; the same for every video."""
        return self._maps.shape[1:], self._maps.dtype

    def read(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Read only the chunks that contain them."""
        with _readable(self._path, f"maps of {name}"):
            return np.asarray(self._maps[self._rows[name], first:last])


class _OwnNpyFeatures(NpyFeatures):
    """One model's folder of an export; only files with a sidecar count."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self.names, self._paths = folder, names, {}


def _spec(place: Path, data: Mapping[str, Any]) -> FeatureSpec:
    try:
        return FeatureSpec.from_dict(data)
    except StoreError as error:
        raise StoreError(f"{place}: {error}") from error


def _choose(place: Path, specs: Sequence[FeatureSpec], model: str, clip_frames: int | None) -> int:
    """Return the index of the requested model in an export."""
    fitting = [
        i for i, spec in enumerate(specs) if spec.model == model and clip_frames in (None, spec.clip_frames)
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{spec.model} at {counted(spec.clip_frames, 'frame')}" for spec in specs) or "none"
    which = "several" if fitting else "none"
    raise UsageError(
        f"{place} is an export, and {which} of its models fits --model {model}"
        f"{'' if clip_frames is None else f' --clip-frames {clip_frames}'}; it has: {known}"
    )


def _own_folder(
    place: Path, index: Mapping[str, Any], model: str, clip_frames: int | None
) -> tuple[FeatureSource, OwnExport]:
    specs = [_spec(place, entry["spec"]) for entry in index["models"]]
    chosen = _choose(place, specs, model, clip_frames)
    entry, spec = index["models"][chosen], specs[chosen]
    if Path(entry["folder"]).name != entry["folder"]:
        raise ValueError(f"folder {entry['folder']!r}")
    failures = place / FAILURES_FILE
    if not failures.is_file():
        raise StoreError(f"{place} is an export that was not finished; run its faster export command again")
    lines = [json.loads(line) for line in failures.read_text(encoding="utf-8").splitlines()]
    absent = [
        Absence.from_dict(line)
        for line in lines
        if (line["model"], line["clip_frames"]) == (spec.model, spec.clip_frames)
    ]
    folder = place / entry["folder"]
    found: list[tuple[int, str, tuple[VideoRecord, ClipFacts]]] = []
    for path in folder.rglob("*.json"):
        with _readable(path, "sidecar of an export"):
            data = json.loads(path.read_bytes())
            name = path.relative_to(folder).as_posix().removesuffix(".json")
            found.append((int(data["row"]), name, (record_from_dict(data), facts_from_sidecar(data))))
    found.sort(key=lambda item: item[0])
    videos = {name: video for _, name, video in found}
    rows = {record.id: row for row, _, (record, _) in found}
    rows |= {absence.record.id: absence.row for absence in absent if absence.row is not None}
    own = OwnExport(
        spec=spec,
        recorded=dict(entry["recorded"]),
        trained_on=tuple(entry["trained_on"]),
        class_names=tuple(index["class_names"]),
        pooled=bool(entry["pooled"]),
        videos=videos,
        rows=rows,
        absent=tuple(absent),
    )
    return _OwnNpyFeatures(folder, list(videos)), own


def _own_hdf5(place: Path, file: Any, model: str, clip_frames: int | None) -> tuple[FeatureSource, OwnExport]:
    groups = [group for lengths in file["features"].values() for group in lengths.values()]
    specs = [_spec(place, json.loads(group.attrs["spec"])) for group in groups]
    chosen = _choose(place, specs, model, clip_frames)
    group, spec = groups[chosen], specs[chosen]
    texts = {name: file[name].asstr()[:].tolist() for name in ("ids", "paths", "groups")}
    starts, ends = file["start_seconds"][:].tolist(), file["end_seconds"][:].tolist()
    labels, reasons = file["labels"][:].tolist(), group["reasons"].asstr()[:].tolist()
    splits = {name: subsets[:].tolist() for name, subsets in file["splits"].items()}
    status, facts = group["status"][:].tolist(), {name: group[name][:] for name in FACTS}
    absent = [Absence.from_dict(json.loads(line)) for line in group["missing"].asstr()[:].tolist()]
    rows: dict[str, int] = {}
    videos: dict[str, tuple[VideoRecord, ClipFacts]] = {}
    for row, name in enumerate(texts["ids"]):
        record = VideoRecord(
            id=name,
            path=texts["paths"][row],
            label=labels[row],
            splits={split: PART_NAMES[subsets[row]] for split, subsets in splits.items() if subsets[row]},
            group=texts["groups"][row],
            start_seconds=None if np.isnan(starts[row]) else starts[row],
            end_seconds=None if np.isnan(ends[row]) else ends[row],
        )
        if status[row] != 1:
            why = "failed" if status[row] == 2 else "waiting"
            absent.append(Absence(record=record, row=row, status=why, reason=reasons[row]))
            continue
        rows[name] = row
        videos[name] = (
            record,
            ClipFacts(
                frames=int(facts["frames"][row]),
                fps=float(facts["fps"][row]),
                starts=tuple(facts["starts"][row].tolist()),
                times_seconds=tuple(facts["times_seconds"][row].tolist()),
                padded=tuple(facts["padded"][row].tolist()),
            ),
        )
    own = OwnExport(
        spec=spec,
        recorded=json.loads(group.attrs["recorded"]),
        trained_on=tuple(group["trained_on"].asstr()[:].tolist()),
        class_names=tuple(file["class_names"].asstr()[:].tolist()),
        pooled=bool(group.attrs["pooled"]),
        videos=videos,
        rows={name: row for row, name in enumerate(texts["ids"])},
        absent=tuple(absent),
    )
    return OwnHdf5Features(place, group["maps"], rows), own
