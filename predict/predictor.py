"""From raw video to classes: per clip the backbone that the pattern names, then the aggregator.

Example:

    from faster.predict import Predictor

    predictor = Predictor("runs/kinetics-fast-gru-1-7-n32-s0")
    for prediction in predictor.predict(["new.mp4"]):
        print(prediction.path, prediction.top(5), prediction.gflops)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..aggregate.data.clip_grid import uniform_subset
from ..aggregate.runs import Run, load_run
from ..errors import UsageError, VideoError, WeightsError
from ..extract.backbones.inference.frozen import FrozenBackbone
from ..extract.backbones.inference.precision import as_asked
from ..extract.backbones.weights.load import find_weights, load_weights, random_weights
from ..extract.specs import gflops_a_clip
from ..extract.video.decode import LoadedVideo
from ..runtime.devices import choose_device
from ..runtime.file_names import as_text
from ..store import FeatureSpec
from ..terminal.suggest import did_you_mean
from ..terminal.text import counted
from .clip_stream import ClipRequest, ClipStream
from .options import PredictOptions
from .results import BUDGET, CONFIDENT, ClipAnswer, Prediction, write_predictions

__all__ = ["ClipAnswer", "Prediction", "Predictor", "write_predictions"]


class Predictor:
    """A trained run, ready to classify raw videos. `faster predict` calls it.

    The backbones use the weights that the run's store was extracted with, checked by their digest, and the
    precision that the store's maps were computed in. Clips run one at a time, so no clip is computed that an
    early stop would skip. Compared with the store's batches, maps may differ in the last float16 bit.

    Args:
        run: a run folder of `faster train-agg`, or a loaded run.
        weights: model → file, for files that moved since extraction.
        device: where backbones and aggregator run; None takes the first GPU, or the CPU.
        pattern, clips: another mixture of the same models; mainly for a run of any pattern.

    Raises:
        UsageError: the run's models or its store's clips do not allow the other mixture.
        RunError: the run is not complete.
        WeightsError: the weights are not found, or differ from the run's; or the run's features were
            imported.
    """

    def __init__(
        self,
        run: str | Path | Run,
        *,
        weights: Mapping[str, str] | None = None,
        device: str | None = None,
        pattern: str | None = None,
        clips: int | None = None,
    ) -> None:
        PredictOptions(pattern=pattern, clips=clips)  # checks the values
        run = run if isinstance(run, Run) else load_run(run)
        config = run.config.on(pattern, clips)
        self.run = replace(run, config=config)
        self.device = choose_device(device)
        unknown = set(weights or {}) - set(config.models)
        if unknown:
            hint = did_you_mean(min(unknown), config.models)
            raise UsageError(
                f"the run has no model {min(unknown)!r}; it has: {', '.join(config.models)}{hint}"
            )
        mask = config.pattern.expensive_mask(config.clips)
        self.models: list[str] = [
            str(config.expensive if is_expensive else config.cheap) for is_expensive in mask
        ]
        """The model of each of the N clips, in time order."""
        self._specs = {
            model: FeatureSpec.from_dict(entry["spec"])
            for model, entry in config.models.items()
            if model in self.models
        }
        self._networks = {
            model: _load(
                spec, config.models[model]["recorded"].get("weights_path"), weights or {}, str(self.device)
            )
            for model, spec in self._specs.items()
        }
        self._aggregator = self.run.aggregator.to(self.device).eval()
        grid = next(iter(self._specs.values())).clips
        if config.clips > grid:
            raise UsageError(
                f"--clips {config.clips}: the run's store has {counted(grid, 'clip')} a video; at most these"
            )
        places, exact = uniform_subset(grid, config.clips)
        # If N divides the store's M, a grid of N clips gives exactly clips of the store.
        self._grid = config.clips if exact else grid
        self._places = range(config.clips) if exact else places.tolist()
        self.gflops_after = self._costs()
        """(N,) float64: GFLOPs of a video after each of its clips, in multiply-adds / 1e9."""

    def predict(
        self,
        paths: Iterable[str | Path],
        *,
        exit_probability: float | None = None,
        budget_gflops: float | None = None,
    ) -> Iterator[Prediction]:
        """Classify videos one after another. A video that cannot be decoded gives a Prediction with a reason.

        Takes and raises what `answers` does.
        """
        answers = self.answers(paths, exit_probability=exit_probability, budget_gflops=budget_gflops)
        return (answer for answer in answers if isinstance(answer, Prediction))

    def answers(
        self,
        paths: Iterable[str | Path],
        *,
        exit_probability: float | None = None,
        budget_gflops: float | None = None,
    ) -> Iterator[ClipAnswer | Prediction]:
        """Classify videos clip by clip: for each video a ClipAnswer after each clip, then its Prediction.

        Memory does not grow with a video's length, except for the times of its frames. A video may fail after
        some answers.

        Args:
            paths: video files.
            exit_probability: stop a video after the clip at which a class has at least this probability, in
                (0, 1].
            budget_gflops: stop each video before the clip that would bring its total cost above this.

        Raises:
            UsageError: an option that is not allowed, or a budget below the cost of the first clip.
        """
        PredictOptions(exit_probability=exit_probability, budget_gflops=budget_gflops)  # checks the values
        clips = len(self.models)
        if budget_gflops is not None:
            clips = int((self.gflops_after <= budget_gflops).sum())
            if not clips:
                raise UsageError(
                    f"a budget of {budget_gflops:g} GFLOPs; the first clip alone costs "
                    f"{self.gflops_after[0]:.4g} ({self.models[0]})"
                )
        return self._answers([as_text(str(path)) for path in paths], exit_probability or float("inf"), clips)

    def scores(self, clips: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities (classes,) float64 after each of a video's clips, from any source of clips.

        Clip t, (1, L, size, size, 3) uint8, has the size and the frame stride that `models[t]` was extracted
        with. At most N clips are taken. Maps are rounded to float16, as in the store.

        Raises:
            VideoError: a backbone's output is not finite or does not fit float16.
        """
        state = None
        for t, clip in zip(range(len(self.models)), clips, strict=False):
            state, probabilities = self._advance(state, t, clip)
            yield probabilities

    def _advance(self, state: Any, t: int, clip: NDArray[np.uint8]) -> tuple[Any, NDArray[np.float64]]:
        """Return the state after clip t, and the probabilities (classes,) that it gives."""
        model = self.models[t]
        try:
            maps, logits = self._networks[model](clip)
        except VideoError as error:
            raise VideoError(
                f"clip {t}: the map or the logits of {model} are not finite, or beyond float16"
            ) from error
        values = logits if self._aggregator.reads == "logits" else maps
        assert values is not None  # the store that the run was trained on had logits
        with torch.inference_mode():
            x = torch.from_numpy(values).to(self.device)
            state = self._aggregator.step(state, x, model) if t else self._aggregator.init(x, model)
            return state, self._aggregator.readout(state)[0].double().softmax(-1).cpu().numpy()

    def _answers(self, paths: list[str], enough: float, clips: int) -> Iterator[ClipAnswer | Prediction]:
        """Yield what `answers` does; stop at the probability `enough`, and after the first `clips`."""
        class_names, planned = self.run.config.class_names, len(self.models)
        with ExitStack() as stack:
            streams = {
                frames: stack.enter_context(ClipStream([Path(path) for path in paths], request))
                for frames, request in self._requests(clips).items()
            }
            for video, path in enumerate(paths):
                done, state, probabilities, reason, stopped_by, left_out = 0, None, None, "", "", 0
                try:
                    for loaded in self._clips(streams, video, clips):
                        state, probabilities = self._advance(state, done, loaded.clips)
                        left_out = loaded.left_out
                        done += 1
                        if done < planned and probabilities.max() >= enough:
                            stopped_by = CONFIDENT
                        elif done == clips < planned:
                            stopped_by = BUDGET
                        yield ClipAnswer(
                            path=path,
                            clip=done - 1,
                            clips=planned,
                            time_seconds=float(loaded.times_seconds[0]),
                            model=self.models[done - 1],
                            class_names=class_names,
                            probabilities=probabilities,
                            gflops=float(self.gflops_after[done - 1]),
                            last=bool(stopped_by) or done == planned,
                        )
                        if stopped_by:
                            break
                except VideoError as error:
                    probabilities, reason = None, str(error).removeprefix(f"{Path(path).name}: ")
                yield Prediction(
                    path=path,
                    class_names=class_names,
                    probabilities=probabilities,
                    gflops=float(self.gflops_after[done - 1]) if done else 0.0,
                    clips_of=dict(Counter(self.models[:done])),
                    whole_gflops=float(self.gflops_after[-1]),
                    whole_clips=planned,
                    stopped_by=stopped_by,
                    reason=reason,
                    left_out=left_out,
                )

    def _requests(self, clips: int) -> dict[tuple[int, int], ClipRequest]:
        """Return what to decode for the first `clips`. Models that see the same frames share a decode."""
        places: dict[tuple[int, int], list[int]] = {}
        for place, model in zip(self._places, self.models[:clips], strict=False):
            places.setdefault(self._frames_of(model), []).append(place)
        return {
            (size, stride): ClipRequest(
                grid=self._grid,
                places=tuple(found),
                clip_frames=self.run.config.clip_frames,
                frame_stride=stride,
                size=size,
            )
            for (size, stride), found in places.items()
        }

    def _clips(
        self, streams: Mapping[tuple[int, int], ClipStream], video: int, clips: int
    ) -> Iterator[LoadedVideo]:
        """Yield a video's first clips in time order, each in its model's frames."""
        given: Counter[tuple[int, int]] = Counter()
        for model in self.models[:clips]:
            frames = self._frames_of(model)
            yield streams[frames].clip(video, given[frames])
            given[frames] += 1

    def _costs(self) -> NDArray[np.float64]:
        of_clip = {
            model: gflops_a_clip(network, self._specs[model]) for model, network in self._networks.items()
        }
        shapes = self.run.config.map_shapes
        aggregator = [
            self._aggregator.video_gflops(shapes, self.models[: t + 1]) for t in range(len(self.models))
        ]
        spent: NDArray[np.float64] = np.cumsum([of_clip[model] for model in self.models]) + aggregator
        return spent

    @property
    def random_models(self) -> list[str]:
        """The models whose weights are random. Their answers mean nothing."""
        return [model for model, spec in self._specs.items() if spec.weights_random]

    def _frames_of(self, model: str) -> tuple[int, int]:
        """Return (size, frame stride): what decides the frames that a model sees."""
        return int(self._specs[model].transform["size"]), self._specs[model].frame_stride


def _load(spec: FeatureSpec, recorded: str | None, weights: Mapping[str, str], device: str) -> FrozenBackbone:
    """Return the backbone with exactly the weights that the store's maps were made with."""
    if spec.transform.keys() & {"imported", "pooled"}:
        raise WeightsError(
            f"the run's maps of {spec.model} were imported, and no backbone here makes them from raw videos; "
            "live "
            "prediction needs a run on maps of faster extract (faster models lists its backbones). For new "
            "videos, import their features too: faster evaluate RUN --store THEIR-STORE"
        )
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
    return FrozenBackbone(backbone, device=device, batch_clips=1, precision=as_asked(spec.precision))
