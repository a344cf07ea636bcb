"""Classify raw videos: each clip goes through only the backbone that the pattern names.

    from faster.predict import Predictor

    predictor = Predictor("runs/kinetics-fast-gru-1-7-n32-s0")
    for prediction in predictor.predict(["new.mp4"]):
        print(prediction.path, prediction.top(5), prediction.gflops)

Each public name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.lazy import lazy_names

if TYPE_CHECKING:
    from .predictor import Predictor
    from .results import ClipAnswer, Prediction, write_predictions

__all__ = [
    "ClipAnswer",
    "Prediction",
    "Predictor",
    "write_predictions",
]

_MODULES = {
    "ClipAnswer": ".results",
    "Prediction": ".results",
    "Predictor": ".predictor",
    "write_predictions": ".results",
}

if not TYPE_CHECKING:  # type checkers see the imports above
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
