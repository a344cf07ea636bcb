"""The two stages live: raw video → on each clip the backbone that the pattern names → aggregator → classes.

from faster.predict import Predictor

predictor = Predictor("runs/kinetics-fast-gru-1-7-n32-s0")
for prediction in predictor.predict(["new.mp4"]):
    print(prediction.path, prediction.top(5), prediction.gflops)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .aggregate.evaluate import aggregator_gflops_of
from .aggregate.pattern import Pattern
from .aggregate.runs import Run, load_run
from .devices import choose_device
from .errors import UsageError, VideoError, WeightsError
from .extract.decode import LoadedVideo
from .extract.decoders import DecodeJob, DecoderPool, VideoFailure
from .extract.frozen import FrozenBackbone
from .extract.weights import find_weights, load_weights, random_weights
from .store.commit import replace
from .store.grid import uniform_subset
from .store.schema import FeatureSpec

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One video's answer, or why there is none.

    Attributes:
        path: the video as it was named.
        probabilities: (classes,) float64, sums to 1; None where the video failed.
        class_names: what they stand for.
        gflops: spent on it, backbones and aggregator, in multiply-adds / 1e9.
        clips_of: model → clips that it ran on.
        reason: why there is no answer, else "".
    """

    path: str
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float64] | None = None
    gflops: float = 0.0
    clips_of: Mapping[str, int]
    reason: str = ""

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the best first; empty where the video failed."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.class_names[i], float(self.probabilities[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "path": self.path,
            "top": [{"class": name, "probability": p} for name, p in self.top()],
            "gflops": self.gflops,
            "clips": dict(self.clips_of),
            "reason": self.reason,
        }


class Predictor:
    """A trained run, ready to classify raw videos: what `faster predict` calls.

    The backbones' weights are those that the run's store was extracted with, told by their digest.

    Args:
        run: a run folder of `faster train-agg`, or a loaded run.
        weights: model → file, where a file moved since extraction.
        device: where backbones and aggregator run; None takes the first GPU, or the CPU.

    Raises:
        RunError: not a whole run.
        WeightsError: the weights are not found, or are others than the run's.
    """

    def __init__(
        self, run: str | Path | Run, *, weights: Mapping[str, str] | None = None, device: str | None = None
    ) -> None:
        self.run = run if isinstance(run, Run) else load_run(run)
        self.device = choose_device(device)
        config = self.run.config
        unknown = set(weights or {}) - set(config.models)
        if unknown:
            raise UsageError(f"the run has no model {min(unknown)!r}; it has: {', '.join(config.models)}")
        self._specs = {model: FeatureSpec.from_dict(entry["spec"]) for model, entry in config.models.items()}
        self._networks = {
            model: _load(
                spec, config.models[model]["recorded"].get("weights_path"), weights or {}, str(self.device)
            )
            for model, spec in self._specs.items()
        }
        self._aggregator = self.run.aggregator.to(self.device).eval()
        grid = next(iter(self._specs.values())).clips
        self._chosen, exact = uniform_subset(grid, config.clips)
        self._decoded = grid
        if exact:  # where N divides the store's M, N clips asked alone are the very clips that the store has
            self._chosen, self._decoded = np.arange(config.clips), config.clips
        mask = Pattern.parse(config.pattern).expensive_mask(config.clips)
        self.models = [str(config.expensive if dear else config.cheap) for dear in mask]
        """The model of each of the N clips, in time order."""

    def predict(self, paths: Iterable[str | Path], *, decoders: int = 1) -> Iterator[Prediction]:
        """Classify videos, one after another; one that cannot be decoded gives a Prediction with a reason."""
        names = [str(path) for path in paths]
        with ExitStack() as stack:
            # Models that see the same frames share a decode.
            streams = {
                frames: self._decode(stack, names, size=frames[0], frame_stride=frames[1], decoders=decoders)
                for frames in sorted({_frames_of(spec) for spec in self._specs.values()})
            }
            for path in names:
                videos = {frames: next(stream)[1] for frames, stream in streams.items()}
                try:
                    for video in videos.values():
                        if isinstance(video, VideoFailure):
                            raise VideoError(video.reason)
                    yield self._classify(
                        path, {f: v.clips for f, v in videos.items() if isinstance(v, LoadedVideo)}
                    )
                except VideoError as error:
                    reason = str(error).removeprefix(f"{Path(path).name}: ")
                    yield Prediction(
                        path=path, class_names=self.run.config.class_names, clips_of={}, reason=reason
                    )

    def _decode(
        self, stack: ExitStack, paths: Sequence[str], *, size: int, frame_stride: int, decoders: int
    ) -> Iterator[tuple[str, LoadedVideo | VideoFailure]]:
        arguments = {
            "clips": self._decoded,
            "clip_frames": self.run.config.clip_frames,
            "frame_stride": frame_stride,
            "size": size,
        }
        jobs = (DecodeJob(key=path, path=Path(path), arguments=arguments) for path in paths)
        shape = (self._decoded, self.run.config.clip_frames, size, size, 3)
        return stack.enter_context(DecoderPool(decoders, shape=shape, slots=decoders + 1)).run(jobs)

    def _classify(self, path: str, clips: Mapping[tuple[int, int], NDArray[np.uint8]]) -> Prediction:
        """One video's clips, for each kind of frames (M or N, L, size, size, 3) uint8."""
        config, spent = self.run.config, 0.0
        inputs: dict[int, Tensor] = {}
        for model, network in self._networks.items():
            times = [t for t, name in enumerate(self.models) if name == model]
            chosen = self._chosen[times]
            maps, logits = network(clips[_frames_of(self._specs[model])][chosen])  # float16, as the store's
            values = logits if self._aggregator.reads == "logits" else maps
            assert values is not None  # the store that the run was trained on had logits
            inputs |= {t: torch.from_numpy(values[i : i + 1]).to(self.device) for i, t in enumerate(times)}
            spec = self._specs[model]
            spent += len(times) * network.gflops(spec.clip_frames, int(spec.transform["size"]))
        with torch.inference_mode():
            state = self._aggregator.init(inputs[0], self.models[0])
            for t in range(1, len(inputs)):
                state = self._aggregator.step(state, inputs[t], self.models[t])
            scores = self._aggregator.readout(state)[0].double().softmax(-1)
        return Prediction(
            path=path,
            class_names=config.class_names,
            probabilities=scores.cpu().numpy(),
            gflops=spent + aggregator_gflops_of(self._aggregator, config.map_shapes, self.models),
            clips_of={model: self.models.count(model) for model in self._networks},
        )


def _frames_of(spec: FeatureSpec) -> tuple[int, int]:
    """(size, frame stride): what decides the frames that a model sees."""
    return int(spec.transform["size"]), spec.frame_stride


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions.csv: a line a video with its best five classes, GFLOPs, and why it failed if it did."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    ranks = [f"{what}{k}" for k in range(1, TOP + 1) for what in ("class", "probability")]
    rows.writerow(["path", "predicted", *ranks, "gflops", "reason"])
    for prediction in predictions:
        best = [value for name, p in prediction.top() for value in (name, f"{p:.6f}")]
        best += [""] * (2 * TOP - len(best))
        rows.writerow([prediction.path, best[0], *best, f"{prediction.gflops:.4f}", prediction.reason])
    replace(path, text.getvalue().encode())


def _load(spec: FeatureSpec, recorded: str | None, weights: Mapping[str, str], device: str) -> FrozenBackbone:
    """The backbone with exactly the weights that the store's maps were made with."""
    path = weights.get(spec.model)
    if path is None and spec.weights_random:
        backbone, info = random_weights(spec.model)
    else:
        if path is None:
            found = Path(recorded) if recorded and Path(recorded).is_file() else find_weights(spec.model)
            if found is None:
                raise WeightsError(
                    f"the weights of {spec.model} are no longer at {recorded}, nor in weights/; name them: "
                    f"--weights {spec.model}=FILE"
                )
            path = str(found)
        backbone, info = load_weights(spec.model, path=path, num_classes=spec.num_classes or None)
    if info.digest != spec.weights_digest:
        where = info.path or "random weights of this version of torch"
        raise WeightsError(
            f"{spec.model}: {where} are not the weights that the run's store was extracted with (digest "
            f"{info.digest[:12]}, not {spec.weights_digest[:12]}); name those: --weights {spec.model}=FILE"
        )
    return FrozenBackbone(backbone, device=device, batch_clips=spec.batch_clips)
