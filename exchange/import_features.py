"""Import features from other programs into a store, with labels from annotation lists: `faster import`.

from faster.exchange.import_features import ImportConfig, import_features

import_features(ImportConfig(source="i3d_features", store="thumos.zarr", model="i3d", gflops=108,
                             clip_frames=16, annotations=("ucfTrainTestlist",)))
"""

from __future__ import annotations

import logging
import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import SourceError, StoreError, UsageError
from ..runtime.file_names import require_text
from ..runtime.flop_counter import paper_clips
from ..runtime.signals import interruptible
from ..store import ClipFacts, FeatureSpec, Store, VideoRecord
from ..store.maintain.remake import encoding_arguments
from ..store.read.features import Features
from ..store.write.create import require_writable
from ..terminal.progress_bars import tqdm
from ..terminal.text import counted
from .config import ImportConfig
from .feature_files import OwnExport, open_features
from .import_writer import (
    ImportedVideo,
    Survey,
    choose_positions,
    spec_of_export,
    spec_of_features,
    survey,
    unknown_facts,
    write_imported,
)
from .labels import Labels, labels_from_folders, labels_from_lists, labels_from_store
from .suffixes import KindOfFeatures, require_one_kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """The result of a run of `import_features`.

    Attributes:
        clips, clip_frames, map_shape: M, L and (l, h, w, c) of the maps.
        imported: videos written now. already_whole: complete from an earlier run.
        padded: videos with fewer features than M, whose last one is repeated.
        left_out: features of no listed video. missing: listed videos without features.
        absent: number of videos without maps in the export, by reason; recorded as failed.
        labelled: whether there are labels of at least two classes to train an aggregator on.
        next_command: the command to run next.
    """

    store: str
    model: str
    clips: int
    clip_frames: int
    map_shape: tuple[int, int, int, int]
    imported: int
    already_whole: int
    padded: int
    left_out: int
    missing: int
    absent: dict[str, int]
    labelled: bool
    next_command: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return asdict(self)


def import_features(config: ImportConfig, *, progress: bool = True) -> ImportSummary:
    """Write features into a store as a model's maps, one video in memory at a time.

    Everything is read and checked before anything is written. A second run continues an interrupted import.

    Args:
        config: what to import.
        progress: show progress bars.

    Raises:
        UsageError, SourceError: the options or annotations are invalid or do not fit.
        StoreError: a feature file cannot be used, or the store holds other videos or maps.
        StorageError: the store cannot be written.
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2; complete shards are kept.
    """
    place, path = Path(config.source), Path(config.store)
    require_text(place, "the folder of the features")
    source, own = open_features(place, model=config.model, clip_frames=config.clip_frames)
    if own is None and (config.gflops is None or config.clip_frames is None):
        raise UsageError(
            "features do not say what they cost and cover: give --gflops (of the backbone on one clip, in "
            "multiply-adds / 1e9) and --clip-frames (frames that one feature saw)"
        )
    require_writable(path)
    if own is not None and config.suffix is not None:
        raise UsageError(
            "--suffix is for others' features; of an export, --model and --clip-frames say what to take"
        )
    if config.suffix:
        source = KindOfFeatures(source, config.suffix)
    labels = _labels(config, source.names, own, path)
    for note in labels.notes:
        logger.info(f"note: {note}")
    names = list(labels.records)

    def bar(what: str) -> Any:
        return tqdm(total=len(names), unit="video", desc=what, disable=not progress, dynamic_ncols=True)

    with interruptible("whole shards are kept"):
        with bar("check") as shown:
            found = survey(
                source,
                names,
                channels_first=config.channels_first,
                signed=config.dtype != "uint8",
                report=shown.update,
            )
        clips = _clips(config, found, own)
        if own is not None:
            spec = spec_of_export(own.spec, found, clips=clips, pooled=own.pooled)
        else:
            assert config.clip_frames is not None
            spec = spec_of_features(config.model, found, clips=clips, clip_frames=config.clip_frames)
        spec = replace(spec, dtype=config.dtype, codec=config.codec)
        videos = []
        for name, record in labels.records.items():
            positions = choose_positions(found.lengths[name], clips)
            facts = unknown_facts(found.lengths[name], clips, spec.clip_frames)
            if own is not None:
                facts = _subset(own.videos[name][1], positions)
            videos.append(ImportedVideo(record=record, name=name, positions=positions, facts=facts))
        absent = [] if own is None or config.annotations else list(own.absent)
        failed = [absence for absence in absent if absence.status != "missing"]
        videos += [ImportedVideo(record=absence.record, reason=absence.reason) for absence in failed]
        if own is not None and not config.annotations:
            rows = own.rows
            videos.sort(key=lambda video: rows[video.record.id])
        logger.info(
            f"{path}: {counted(len(names), 'video')}, {counted(clips, 'feature')} each of "
            f"{'×'.join(map(str, found.map_shape))} (l×h×w×c)"
        )
        if own is None:
            logger.info(
                "note: nobody knows which videos the backbone was trained on; figures may be of videos it saw"
            )
        with bar("import") as shown:
            imported = write_imported(
                path,
                spec,
                videos,
                source,
                channels_first=config.channels_first,
                recorded=_recorded(config, place, found, own),
                trained_on=_trained_on(own, labels),
                missing=[*labels.missing, *(a.record for a in absent if a.status == "missing")],
                class_names=labels.class_names,
                root=place.resolve(),
                report=shown.update,
            )
    labelled = len({record.label for record in labels.records.values()} - {-1}) > 1
    return ImportSummary(
        store=str(path),
        model=spec.model,
        clips=clips,
        clip_frames=spec.clip_frames,
        map_shape=spec.map_shape,
        imported=imported,
        already_whole=len(names) - imported,
        padded=sum(length < clips for length in found.lengths.values()),
        left_out=labels.left_out,
        missing=len(labels.missing) + len(absent) - len(failed),
        absent=dict(Counter(absence.reason for absence in failed).most_common()),
        labelled=labelled,
        next_command=_next_command(path, spec) if labelled else f"faster inspect {shlex.quote(str(path))}",
    )


def _next_command(path: Path, spec: FeatureSpec) -> str:
    """Return the training command; it uses these maps alone if the second model of a mixture is not clear."""
    store = Store(path)
    others = [name for name, frames in store.models if frames == spec.clip_frames and name != spec.model]
    options = f" --clip-frames {spec.clip_frames}" if len({frames for _, frames in store.models}) > 1 else ""
    clear = len(others) == 1 and store.features(others[0], spec.clip_frames).clips == spec.clips
    if others and not clear:
        options += f" --expensive {shlex.quote(spec.model)} --pattern all-E"
    return f"faster train-agg --store {shlex.quote(str(path))}{options}"


def _labels(config: ImportConfig, names: Sequence[str], own: OwnExport | None, path: Path) -> Labels:
    """Get the records from lists, the export, the existing store, or the folders."""
    if own is None and config.suffix is None and not (config.annotations or (path / "zarr.json").is_file()):
        require_one_kind(names)
    try:
        return _labels_from(config, names, own, path)
    except SourceError:
        if own is None and config.suffix is None:
            require_one_kind(names)  # several kinds would explain the mismatch, so report that first
        raise


def _labels_from(config: ImportConfig, names: Sequence[str], own: OwnExport | None, path: Path) -> Labels:
    if config.annotations:
        return labels_from_lists(
            names,
            [Path(each) for each in config.annotations],
            format=config.annotation_format,
            allow_missing=config.allow_missing,
        )
    if own is not None:
        records: Mapping[str, VideoRecord] = {name: record for name, (record, _) in own.videos.items()}
        return Labels(records=records, class_names=own.class_names)
    if (path / "zarr.json").is_file():
        return labels_from_store(names, Store(path))
    return labels_from_folders(names)


def _clips(config: ImportConfig, found: Survey, own: OwnExport | None) -> int:
    lengths = set(found.lengths.values())
    if own is None:
        return config.clips or (lengths.pop() if len(lengths) == 1 else paper_clips(config.clip_frames or 1))
    if lengths != {own.spec.clips} or any(
        len(facts.padded) != own.spec.clips for _, facts in own.videos.values()
    ):
        raise StoreError(f"{config.source} was changed: not every video has {own.spec.clips} features")
    clips = config.clips or own.spec.clips
    if own.spec.clips % clips:
        raise UsageError(
            f"--clips is {clips}; of an export of {counted(own.spec.clips, 'clip')} it must be a divisor"
        )
    return clips


def _trained_on(own: OwnExport | None, labels: Labels) -> list[str]:
    """Return the videos that the weights were trained on, by their ids in the new store."""
    if own is None:
        return []
    ids = {own.videos[name][0].id: record.id for name, record in labels.records.items()}
    return [ids.get(name, name) for name in own.trained_on]


def _subset(facts: ClipFacts, positions: Sequence[int]) -> ClipFacts:
    return replace(
        facts,
        starts=tuple(facts.starts[i] for i in positions),
        times_seconds=tuple(facts.times_seconds[i] for i in positions),
        padded=tuple(facts.padded[i] for i in positions),
    )


def _recorded(config: ImportConfig, place: Path, found: Survey, own: OwnExport | None) -> dict[str, Any]:
    """Return the provenance: the export's own, and the source of the import."""
    gflops = config.gflops if own is None or config.gflops is not None else own.recorded["gflops_per_clip"]
    recorded = {"weights_path": None} if own is None else dict(own.recorded)
    recorded.pop("converted_from", None)  # belongs to the other store's maps
    return {
        **recorded,
        "head_sha256": {},  # an export contains no classifier
        "gflops_per_clip": gflops,
        "imported": {
            "source": str(place.resolve()),
            "digest": found.digest,
            "of_export": None if own is None else own.spec.to_dict(),
            "positions": "floor(i * T / M) of T features; of fewer than M, the last is repeated",
            "versions": {"faster": __version__, "python": platform.python_version()},
        },
    }


def importing_command(store: Store, features: Features, imported: Mapping[str, Any]) -> list[str]:
    """Return the command that imports a model's maps again; `imported` is its provenance of the import."""
    spec = features.spec
    told = (
        ["--gflops", f"{features.gflops_per_clip:g}", "--clip-frames", str(spec.clip_frames)]
        if imported.get("of_export") is None  # an export contains these values
        else []
    )
    source = str(imported.get("source", "SOURCE"))
    model = ["--model", spec.model, "--clips", str(spec.clips)]
    return ["faster", "import", source, "--store", str(store.path), *model, *told, *encoding_arguments(spec)]
