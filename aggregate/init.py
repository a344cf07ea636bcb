"""Start from another data set's aggregator, with a new classifier (FASTER §4.4, Table 8)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..store import Store
from ..terminal.text import agreeing, counted
from ..training.run_folder import read_json, run_began
from .data.partition import Subsets
from .models.base import Aggregator
from .models.score_skip import SCORES
from .runs import Run, RunConfig


def start_from(run: Run, aggregator: Aggregator[Any], config: RunConfig) -> str:
    """Load the run's weights into a fresh aggregator of `config`; return a line that says what was loaded.

    If the class names differ, the classifier keeps its fresh weights: all tensors whose size depends on the
    number of classes.

    Raises:
        DataError: the run has another aggregator, or maps of another shape, or only a classifier.
    """
    theirs = run.config
    if theirs.aggregator != config.aggregator:
        raise DataError(
            f"{run.path} trained {theirs.aggregator}, and {config.aggregator} is asked; "
            f"add --aggregator {theirs.aggregator}"
        )
    if theirs.skip_scores != config.skip_scores:
        fix = "add" if theirs.skip_scores else "leave out"
        raise DataError(
            f"{run.path} was trained with{'' if theirs.skip_scores else 'out'} --skip-scores; {fix} it"
        )
    same_classes = theirs.class_names == config.class_names
    fresh = classifier_names(config)
    taken = {
        name: value
        for name, value in run.aggregator.state_dict().items()
        if (name not in fresh or same_classes) and not name.startswith(SCORES)
    }
    if not taken.keys() - fresh:
        raise DataError(
            f"{run.path}: {theirs.aggregator} has nothing but a classifier, "
            "so there is nothing to start from; leave "
            "out --init, or train another --aggregator there"
        )
    own = aggregator.state_dict()
    if any(name not in own or own[name].shape != value.shape for name, value in taken.items()):
        shapes = [" and ".join(str(tuple(s)) for s in c.map_shapes.values()) for c in (theirs, config)]
        raise DataError(
            f"{run.path} was trained on maps of {shapes[0]}, the store's are {shapes[1]} (l, h, w, c); "
            "start from a run on the same backbones' maps"
        )
    aggregator.load_state_dict({**own, **taken})
    classifier = "its classifier too, the classes are the same" if same_classes else "with a new classifier"
    others = [
        model
        for model, entry in config.models.items()
        if entry["spec"]["weights_digest"]
        not in [theirs_["spec"]["weights_digest"] for theirs_ in theirs.models.values()]
    ]
    note = f"; it never saw maps of {', '.join(others)} with these weights" if others else ""
    return f"starts from {run.path}, {counted(len(taken), 'tensor')}, {classifier}{note}"


def require_unseen_by(run: Run, store: Store, subsets: Subsets, split: str) -> None:
    """Refuse to start from a run that has seen videos of the report, compared by id.

    Raises:
        DataError: it has.
    """
    ids = [store.videos.ids[row] for row in subsets.report]
    seen = [name for name in ids if name in run.trained_on]
    if seen:
        raise DataError(
            f"{len(seen)} of the {len(ids)} {subsets.report_part} videos of {split} "
            f"{agreeing(len(seen), 'was', 'were')} in the training of {run.path} "
            f"({seen[0]}, …), so it must not be started from; start from a run on the same split, "
            "or on other videos"
        )


def identity(run: Run, *, begun: Path) -> dict[str, str]:
    """Return which run it was, for the new run's config.json.

    The weights identify it, in any folder. If the new run began from the same weights, the recorded path is
    kept. Raises RunError if the new run's config.json is not JSON.
    """
    sha256 = hashlib.sha256((run.path / "best.safetensors").read_bytes()).hexdigest()
    recorded = read_json(begun / "config.json").get("init") if run_began(begun) else None
    if isinstance(recorded, dict) and recorded.get("sha256") == sha256:
        return {"run": str(recorded.get("run")), "sha256": sha256}
    return {"run": str(run.path.resolve()), "sha256": sha256}


def classifier_names(config: RunConfig) -> set[str]:
    """Return the names of the tensors whose size depends on the number of classes."""
    wider = replace(config, class_names=(*config.class_names, ""))
    with torch.device("meta"):  # sizes only, no weights
        sizes, other = config.build().state_dict(), wider.build().state_dict()
    return {name for name in sizes if sizes[name].shape != other[name].shape}
