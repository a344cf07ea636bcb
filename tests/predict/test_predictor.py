"""Live answers against plain code: the whole video decoded at once, backbones in batches, the aggregator looped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster.aggregate.data.pattern import Pattern
from faster.aggregate.runs import Run, RunConfig
from faster.errors import UsageError
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.backbones.weights.load import random_weights
from faster.extract.video.decode import load_clips
from faster.predict.predictor import ClipAnswer, Prediction, Predictor
from numpy.typing import NDArray
from stores import make_spec
from torch.utils.flop_counter import FlopCounterMode
from videos import make_video

DEAR, CHEAP = "r2plus1d14-w4", "r2d14-w4"
CLASSES = 3


def make_run(
    aggregator: str = "fast-gru",
    *,
    pattern: str = "1:2",
    clips: int = 5,
    grid: int = 5,
    sizes: Mapping[str, int] = {DEAR: 32, CHEAP: 32},
    precision: str = "float32",
) -> Run:
    """A run on backbones with random weights, and an aggregator that has something to say."""
    specs = {}
    for model, size in sizes.items():
        backbone, info = random_weights(model)
        specs[model] = make_spec(
            model,
            weights_digest=info.digest,
            weights_random=True,
            clips=grid,
            map_shape=FrozenBackbone(backbone).map_shape(8, size),
            num_classes=0,
            class_names=None,
            transform={"size": size},
            precision=precision,
        )
    config = RunConfig(
        store="s.zarr",
        store_fingerprint="",
        split="split1",
        report_part="test",
        aggregator=aggregator,
        dropout=0.0,
        reads="maps",
        map_shapes={model: spec.map_shape for model, spec in specs.items()},
        pattern=Pattern.parse(pattern),
        clips=clips,
        clip_frames=8,
        expensive=DEAR,
        cheap=CHEAP,
        class_names=("a", "b", "c"),
        models={model: {"spec": spec.to_dict(), "recorded": {}} for model, spec in specs.items()},
        validation_share=0.2,
        videos={},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        built = config.build().eval()
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return Run(path=Path("run"), config=config, aggregator=built, trained_on=frozenset())


def test_random_weights_are_told() -> None:
    assert sorted(Predictor(make_run(), device="cpu").random_models) == sorted([DEAR, CHEAP])


def plain(run: Run, path: Path, precision: str = "float32") -> list[NDArray[np.float64]]:
    """The probabilities after each clip, the obvious way."""
    config = run.config
    maps = {}
    for model, entry in config.models.items():
        backbone, _ = random_weights(model)
        size = entry["spec"]["transform"]["size"]
        video = load_clips(path, clips=entry["spec"]["clips"], clip_frames=8, size=size)
        maps[model] = torch.from_numpy(FrozenBackbone(backbone, precision=precision)(video.clips)[0])
    grid, n = len(maps[DEAR]), config.clips
    state: Any = None
    answers = []
    with torch.no_grad():
        for t in range(n):
            model = DEAR if t % 3 == 0 else CHEAP
            place = math.floor(t * grid / n + 0.5)
            x = maps[model][place : place + 1]
            state = run.aggregator.step(state, x, model) if t else run.aggregator.init(x, model)
            answers.append(run.aggregator.readout(state)[0].double().softmax(-1).numpy())
    return answers


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("videos") / "new one.mp4", frames=64, numbered=False)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(make_run(), device="cpu")


def test_backbones_compute_as_they_did_for_the_store(video: Path) -> None:
    run = make_run(precision="bf16")
    clips, _ = split(list(Predictor(run, device="cpu").answers([video])))
    answers = np.array([answer.probabilities for answer in clips])
    np.testing.assert_allclose(answers, plain(run, video, "bf16"), atol=1e-6)
    assert np.abs(answers - plain(run, video)).max() > 1e-5


def split(answers: list[ClipAnswer | Prediction]) -> tuple[list[ClipAnswer], Prediction]:
    *clips, prediction = answers
    assert all(isinstance(answer, ClipAnswer) for answer in clips) and isinstance(prediction, Prediction)
    return clips, prediction  # type: ignore[return-value]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregator": "gru", "grid": 20},  # N divides M
        {"aggregator": "lstm", "grid": 8},  # it doesn't
        {"aggregator": "average", "sizes": {DEAR: 32, CHEAP: 48}},  # two decodes
    ],
)
def test_after_each_clip_the_answer_is_the_plain_one(changes: dict[str, Any], video: Path) -> None:
    run = make_run(**changes)
    predictor = Predictor(run, device="cpu")
    clips, prediction = split(list(predictor.answers([video])))
    for answer, expected in zip(clips, plain(run, video), strict=True):
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-3)
    assert [answer.model for answer in clips] == [DEAR, CHEAP, CHEAP, DEAR, CHEAP] == predictor.models
    assert [(answer.clip, answer.clips, answer.last) for answer in clips] == [
        (t, 5, t == 4) for t in range(5)
    ]
    if changes.get("grid", 5) % 5 == 0:
        starts = [min(t * 64 // 5, 56) for t in range(5)]
        assert [answer.time_seconds for answer in clips] == pytest.approx([start / 25 for start in starts])
    assert prediction.probabilities is clips[-1].probabilities  # the stream's last line is the whole answer
    assert prediction.gflops == prediction.whole_gflops == clips[-1].gflops
    assert prediction.clips_of == {DEAR: 2, CHEAP: 3}
    assert (prediction.stopped_by, prediction.saved_gflops, prediction.saved_clips) == ("", 0, 0)


def test_another_mixture_is_answered_as_a_run_of_it_would(video: Path) -> None:
    asked = Predictor(make_run(pattern="1:2", clips=5), pattern="1:1", clips=4, device="cpu")
    own = Predictor(make_run(pattern="1:1", clips=4), device="cpu")
    assert asked.models == own.models == [DEAR, CHEAP, DEAR, CHEAP]
    answers = [[a.probabilities for a in predictor.answers([video])] for predictor in (asked, own)]
    np.testing.assert_array_equal(*answers)
    assert asked.gflops_after.tolist() == own.gflops_after.tolist()
    cheap = Predictor(make_run(), pattern="all-C", device="cpu")
    assert cheap.models == [CHEAP] * 5 and cheap.random_models == [CHEAP]
    with pytest.raises(UsageError, match="--clips 6: the run's store has 5"):
        Predictor(make_run(), clips=6, device="cpu")


@pytest.mark.parametrize("aggregator", ["fast-gru", "gru", "concat", "average"])
@pytest.mark.parametrize("clips", [5, 2])
def test_the_gflops_charged_are_those_that_a_counter_measures(
    aggregator: str, clips: int, video: Path
) -> None:
    """Also when a video is left early: nothing is computed that is not charged."""
    predictor = Predictor(make_run(aggregator), device="cpu")
    budget = float(predictor.gflops_after[clips - 1])
    with FlopCounterMode(display=False) as counter:
        (prediction,) = predictor.predict([video], budget_gflops=budget)
    channels = predictor.run.config.map_shapes[DEAR][3]
    # The paper counts no classifier: of the recurrent ones, that is the readout after each clip.
    readouts = 0 if aggregator == "average" else clips * channels * CLASSES
    assert prediction.gflops * 1e9 == pytest.approx(counter.get_total_flops() / 2 - readouts, rel=1e-12)
    assert sum(prediction.clips_of.values()) == clips


def test_it_leaves_a_video_when_it_is_confident_and_says_what_that_saved(
    video: Path, predictor: Predictor
) -> None:
    whole, _ = split(list(predictor.answers([video])))
    sure = [float(answer.probabilities.max()) for answer in whole]
    for threshold in (min(sure), sorted(sure)[3], 1.0):
        reached = [t for t, probability in enumerate(sure) if probability >= threshold]
        stop = reached[0] if reached else len(sure) - 1
        early = stop < len(sure) - 1
        clips, prediction = split(list(predictor.answers([video], exit_probability=threshold)))
        assert [answer.probabilities.tolist() for answer in clips] == [
            answer.probabilities.tolist() for answer in whole[: stop + 1]
        ]
        assert [answer.last for answer in clips] == [False] * stop + [True]
        assert prediction.stopped_by == ("confident" if early else "")
        assert prediction.gflops == whole[stop].gflops
        assert prediction.saved_gflops == pytest.approx(whole[-1].gflops - whole[stop].gflops)
        assert prediction.saved_clips == len(sure) - 1 - stop
        assert prediction.to_dict()["saved"] == {
            "gflops": prediction.saved_gflops,
            "clips": prediction.saved_clips,
        }


def test_a_budget_is_never_exceeded_and_one_below_the_first_clip_is_refused(
    video: Path, predictor: Predictor
) -> None:
    after = predictor.gflops_after.tolist()
    assert after == sorted(after) and after[0] > after[1] - after[0]  # the first clip is a dear one
    budgets = {after[0]: 1, after[3] - 1e-9: 3, after[4]: 5}
    for budget, clips in budgets.items():
        answers, prediction = split(list(predictor.answers([video], budget_gflops=budget)))
        assert len(answers) == clips and answers[-1].last
        assert prediction.gflops == after[clips - 1] <= budget
        assert prediction.stopped_by == ("budget" if clips < 5 else "")
        assert prediction.saved_clips == 5 - clips
    with pytest.raises(UsageError, match=f"the first clip alone costs .*{DEAR}"):
        predictor.answers([video], budget_gflops=after[0] * 0.999)
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=f"--budget-gflops is {budget}; it must be above 0"):
            predictor.answers([video], budget_gflops=budget)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.01, float("nan")])
def test_an_exit_that_means_nothing_is_refused(probability: float, video: Path, predictor: Predictor) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        predictor.predict([video], exit_probability=probability)


def test_bad_videos_cost_only_themselves_also_with_two_decodes(video: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    predictor = Predictor(make_run("average", sizes={DEAR: 32, CHEAP: 48}), device="cpu")
    (alone,) = predictor.predict([video])
    paths = [tmp_path / "broken.mp4", video, tmp_path / "absent.mp4", video]
    for options in ({}, {"exit_probability": 0.01}):
        predictions = list(predictor.predict(paths, **options))
        assert [bool(prediction.reason) for prediction in predictions] == [True, False, True, False]
        assert predictions[0].gflops == 0 and predictions[0].clips_of == {}
        assert "no video container" in predictions[0].reason and "broken" not in predictions[0].reason
        first, second = predictions[1].probabilities, predictions[3].probabilities
        assert first is not None and second is not None and first.tolist() == second.tolist()
        if not options:
            assert alone.probabilities is not None and first.tolist() == alone.probabilities.tolist()


def test_frames_from_anywhere_give_the_same_answers(video: Path, predictor: Predictor) -> None:
    """A camera's clips, say: no file is involved, and what follows the run's last clip is left alone."""
    whole, _ = split(list(predictor.answers([video])))
    loaded = load_clips(video, clips=5, clip_frames=8, size=32).clips
    camera = iter([loaded[t : t + 1] for t in (0, 1, 2, 3, 4, 0)])
    scores = list(predictor.scores(camera))
    assert [score.tolist() for score in scores] == [answer.probabilities.tolist() for answer in whole]
    assert next(camera) is not None
