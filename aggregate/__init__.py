"""Train and evaluate aggregators on the feature maps of a store.

    from faster.aggregate import TrainConfig, train_agg

    result = train_agg(TrainConfig(store="kinetics.zarr", pattern="1:7", clips=16))

Each public name is imported when it is first used; the package itself imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.lazy import lazy_names

if TYPE_CHECKING:
    from .all_splits import SplitsResult, evaluate_splits, train_splits
    from .config import TrainConfig
    from .data.clip_maps import ClipMaps
    from .evaluation.confusion import ConfusionMatrix
    from .evaluation.evaluate import Evaluation, evaluate
    from .evaluation.metrics import Metrics
    from .export import ExportedModel, export_model
    from .models.base import Aggregator
    from .models.batch import ClipBatch
    from .models.conformance import check_aggregator
    from .models.registry import register
    from .report.write import ReportFiles, write_report
    from .runs import Run, RunConfig, load_run
    from .sweep.config import Grid, SweepConfig
    from .sweep.run import SweepResult, run_sweep
    from .train import TrainResult, train_agg

__all__ = [
    "Aggregator",
    "ClipBatch",
    "ClipMaps",
    "ConfusionMatrix",
    "Evaluation",
    "ExportedModel",
    "Grid",
    "Metrics",
    "ReportFiles",
    "Run",
    "RunConfig",
    "SplitsResult",
    "SweepConfig",
    "SweepResult",
    "TrainConfig",
    "TrainResult",
    "check_aggregator",
    "evaluate",
    "evaluate_splits",
    "export_model",
    "load_run",
    "register",
    "run_sweep",
    "train_agg",
    "train_splits",
    "write_report",
]

_MODULES = {
    "Aggregator": ".models.base",
    "ClipBatch": ".models.batch",
    "ClipMaps": ".data.clip_maps",
    "ConfusionMatrix": ".evaluation.confusion",
    "Evaluation": ".evaluation.evaluate",
    "ExportedModel": ".export",
    "Grid": ".sweep.config",
    "Metrics": ".evaluation.metrics",
    "ReportFiles": ".report.write",
    "Run": ".runs",
    "RunConfig": ".runs",
    "SplitsResult": ".all_splits",
    "SweepConfig": ".sweep.config",
    "SweepResult": ".sweep.run",
    "TrainConfig": ".config",
    "TrainResult": ".train",
    "check_aggregator": ".models.conformance",
    "evaluate": ".evaluation.evaluate",
    "evaluate_splits": ".all_splits",
    "export_model": ".export",
    "load_run": ".runs",
    "register": ".models.registry",
    "run_sweep": ".sweep.run",
    "train_agg": ".train",
    "train_splits": ".all_splits",
    "write_report": ".report.write",
}

if not TYPE_CHECKING:  # type checkers see the imports above
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
