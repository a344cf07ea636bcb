"""The contract of an aggregator, as checks for a test or for the author of a new aggregator.

Example:

    from faster.aggregate import check_aggregator

    check_aggregator("my_module:MyAggregator")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from ...runtime.flop_counter import MapShape
from .base import Aggregator
from .batch import ClipBatch
from .registry import class_of

MODELS = ("dear", "cheap")
MAP_SHAPE: MapShape = (2, 3, 3, 8)
NUM_CLASSES = 5
FRESH = 0
"""The seed for an aggregator as built: float32, with its initial weights."""

Make = Callable[[int], Aggregator[Any]]
"""Makes an aggregator of both models' maps: float64, parameters drawn by the seed; as built if FRESH."""


def check_aggregator(aggregator: str | type[Aggregator[Any]], *, map_shape: MapShape = MAP_SHAPE) -> None:
    """Check everything that training, evaluation and prediction require of an aggregator.

    Steps give the same as the complete sequence, with the same gradients. Every clip affects its own video
    and no other. The loss reaches every parameter. The cost is what torch counts. The state does not grow.
    Logits are finite for all maps. Saving and loading changes nothing.

    Args:
        aggregator: a name that `--aggregator` takes, or the class.
        map_shape: (l, h, w, c) of the maps to check it on.

    Raises:
        UsageError: no aggregator has this name.
        AssertionError: a check failed; the message says which.
    """
    cls = class_of(aggregator) if isinstance(aggregator, str) else aggregator

    def make(seed: int) -> Aggregator[Any]:
        shapes = dict.fromkeys(MODELS, map_shape)
        return randomised(lambda: cls(map_shapes=shapes, num_classes=NUM_CLASSES, dropout=0.0), seed)

    for check in CHECKS:
        try:
            check(make, map_shape)
        except AssertionError as error:
            name = aggregator if isinstance(aggregator, str) else cls.__qualname__
            raise AssertionError(f"{name}: not so: {check.__name__.replace('_', ' ')}\n{error}") from error


def randomised(build: Callable[[], Aggregator[Any]], seed: int) -> Aggregator[Any]:
    """Return what `build` gives; in float64 with all parameters drawn, unless the seed is FRESH.

    Biases of 0 would hide a mistake.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if seed == FRESH:
            return build()
        aggregator = build().double()
        for parameter in aggregator.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return aggregator


def mixed_batch(
    clips: int,
    *,
    videos: int = 3,
    shapes: dict[str, tuple[int, ...]] | None = None,
    models: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> ClipBatch:
    """Return a batch of `clips` clips per video; `models[t]` is the model of time t. Rows are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes or dict.fromkeys(MODELS, MAP_SHAPE)
    of_time = torch.tensor(models if models is not None else [int(t % 3 > 0) for t in range(clips)])
    model_of = of_time.expand(videos, clips).contiguous()
    row_of = torch.zeros(videos, clips, dtype=torch.int64)
    inputs = {}
    for index, model in enumerate(MODELS):
        rows = int((model_of == index).sum())
        row_of[model_of == index] = torch.randperm(rows, generator=generator)
        inputs[model] = torch.randn(rows, *shapes[model], dtype=dtype, generator=generator)
    labels = torch.randint(NUM_CLASSES, (videos,), generator=generator)
    return ClipBatch(
        models=MODELS,
        inputs=inputs,
        model_of=model_of,
        row_of=row_of,
        labels=labels,
        videos=torch.arange(videos),
    )


def outcome(
    aggregator: Aggregator[Any], logits: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the logits, and the gradients of a loss that weights them all differently."""
    wanted = [*aggregator.parameters(), *inputs]
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits).sin()
    grads = torch.autograd.grad((logits * weights).sum(), wanted, allow_unused=True)
    return logits.detach(), list(grads)


def assert_same(
    a: tuple[Tensor, list[Tensor | None]], b: tuple[Tensor, list[Tensor | None]], count: int
) -> None:
    """Check that two outcomes of `count` gradients are the same to rounding."""
    assert_close(a[0], b[0], rtol=1e-9, atol=1e-9)
    _require(len(a[1]) == len(b[1]) == count, "as many gradients")
    for x, y in zip(a[1], b[1], strict=True):
        # An unused input has no gradient in one implementation and a zero gradient in the other.
        x = torch.zeros(()) if x is None else x
        y = torch.zeros_like(x) if y is None else y
        assert_close(x.expand_as(y), y, rtol=1e-9, atol=1e-9, check_dtype=False)


def by_steps(aggregator: Aggregator[Any], batch: ClipBatch) -> Tensor:
    """Return the logits through `init`, `step` and `readout`."""
    return aggregator.readout(_state(aggregator, batch, batch.model_of.shape[1]))


def at_once(aggregator: Aggregator[Any], batch: ClipBatch) -> Tensor:
    """Return the logits through `forward`."""
    logits: Tensor = aggregator(batch)
    return logits


def batch_for(
    aggregator: Aggregator[Any], clips: int, shape: MapShape = MAP_SHAPE, **changes: Any
) -> ClipBatch:
    """Return a batch of what it reads: maps of this shape, or logits."""
    read: tuple[int, ...] = shape if aggregator.reads == "maps" else (NUM_CLASSES,)
    return mixed_batch(clips, shapes=dict.fromkeys(MODELS, read), **changes)


def steps_give_what_the_whole_sequence_gives(make: Make, shape: MapShape) -> None:
    """Compare logits, gradients and running statistics, for several N, in training and in evaluation."""
    for clips in (1, 2, 5):
        for training in (False, True):
            aggregators = [make(1).train(training) for _ in range(2)]
            outcomes = []
            for aggregator, run in zip(aggregators, (by_steps, at_once), strict=True):
                batch = batch_for(aggregator, clips, shape)
                inputs = [tensor.requires_grad_() for tensor in batch.inputs.values()]
                logits = run(aggregator, batch)
                _require(
                    logits.shape == (3, NUM_CLASSES) and logits.dtype == torch.float64,
                    f"logits of 3 videos are {tuple(logits.shape)} {logits.dtype}, not (3, "
                    f"{NUM_CLASSES}) float64",
                )
                outcomes.append(outcome(aggregator, logits, inputs))
            assert_same(outcomes[0], outcomes[1], len(list(aggregators[0].parameters())) + 2)
            for x, y in zip(aggregators[0].buffers(), aggregators[1].buffers(), strict=True):
                assert_close(x, y, rtol=1e-9, atol=1e-9)


def every_clip_matters_to_its_video_alone(make: Make, shape: MapShape) -> None:
    """Check that changing any one clip changes its video's answer, and no other."""
    aggregator = make(1).eval()
    batch = batch_for(aggregator, 4, shape)
    before = aggregator(batch)
    generator = torch.Generator().manual_seed(7)
    for index, model in enumerate(MODELS):
        for row, clip in enumerate(batch.inputs[model]):
            changed = batch.inputs[model].clone()
            changed[row] += 10 * torch.randn(clip.shape, dtype=clip.dtype, generator=generator)
            after = aggregator(replace(batch, inputs={**batch.inputs, model: changed}))
            moved = (after - before).abs().amax(1) > 1e-6
            owner = ((batch.model_of == index) & (batch.row_of == row)).any(1)
            _require(
                torch.equal(moved, owner),
                f"clip {row} of {model} is of video {owner.tolist()}; moved {moved.tolist()}",
            )


def the_loss_reaches_every_parameter(make: Make, shape: MapShape) -> None:
    """Check that every parameter has a gradient. An aggregator without parameters has nothing to train."""
    aggregator = make(1).train()
    if not list(aggregator.parameters()):
        return
    aggregator.loss(batch_for(aggregator, 4, shape)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in aggregator.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 1e-9)
        _require(reached, f"{name} has no gradient")


def videos_do_not_see_each_other_in_evaluation(make: Make, shape: MapShape) -> None:
    """Check that a video has the same answer alone as in a batch."""
    aggregator = make(1).train()
    with torch.no_grad():
        aggregator(
            batch_for(aggregator, 4, shape, seed=5)
        )  # running statistics that are not the initial ones
    aggregator.eval()
    batch = batch_for(aggregator, 4, shape, models=[0] * 4)
    together = aggregator(batch)
    x = batch.dense(torch.float64)
    for video in range(3):
        alone = ClipBatch(
            models=MODELS,
            inputs={MODELS[0]: x[video]},
            model_of=torch.zeros(1, 4, dtype=torch.int64),
            row_of=torch.arange(4)[None],
            labels=batch.labels[:1],
            videos=batch.videos[:1],
        )
        assert_close(aggregator(alone)[0], together[video], rtol=1e-9, atol=1e-9)


def its_cost_is_what_torch_counts(make: Make, shape: MapShape) -> None:
    """Check that `gflops` and `step_gflops` are the multiply-adds of all but the last layer `fc`."""
    aggregator = make(1).eval()
    fc = getattr(aggregator, "fc", None)
    last_layer = fc.weight.numel() if isinstance(fc, torch.nn.Linear) else 0
    for clips in (1, 2, 5):
        batch = batch_for(aggregator, clips, shape, videos=1)
        counted = _multiply_adds(by_steps, aggregator, batch)
        _require_cost("gflops", clips, aggregator.gflops(clips, shape), counted - last_layer)
        at_once_cost = _multiply_adds(aggregator, batch)
        _require(
            at_once_cost == counted,
            f"of {clips} clips, the whole sequence costs {at_once_cost}, by steps {counted}",
        )
        state = _state(aggregator, batch, clips)
        step = _multiply_adds(aggregator.step, state, *batch.at(0))
        _require_cost("step_gflops", clips, aggregator.step_gflops(shape), step)


def its_state_does_not_grow_with_the_clips(make: Make, shape: MapShape) -> None:
    """Check that it has the same size after two clips as after twelve."""
    aggregator = make(1).eval()
    batch = batch_for(aggregator, 12, shape)
    state, sizes = aggregator.init(*batch.at(0)), []
    for t in range(1, 12):
        state = aggregator.step(state, *batch.at(t))
        sizes.append([part.numel() for part in pytree.tree_leaves(state) if isinstance(part, Tensor)])
    _require(bool(sizes[0]) and sizes == [sizes[0]] * 11, f"numbers of values after each clip: {sizes}")


def the_emptiest_and_the_largest_maps_stay_finite(make: Make, shape: MapShape) -> None:
    """Check maps that a ReLU left empty, and maps of float16's largest value, with initial weights."""
    for value in (0.0, 65504.0):
        aggregator = make(FRESH)
        batch = batch_for(aggregator, 4, shape, dtype=torch.float16)
        batch = replace(batch, inputs={model: torch.full_like(x, value) for model, x in batch.inputs.items()})
        loss = aggregator.loss(batch)
        finite = bool(loss.isfinite()) and bool(by_steps(aggregator, batch).isfinite().all())
        _require(finite, f"of maps that are {value} all over, the loss is {loss.item()}")
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in aggregator.named_parameters():
            ok = parameter.grad is not None and bool(parameter.grad.isfinite().all())
            _require(ok, f"of maps that are {value} all over, the gradient of {name} is not finite")


def half_precision_maps_are_computed_in_its_own_type(make: Make, shape: MapShape) -> None:
    """Check that float16 maps give the same as these maps in float32."""
    aggregator = make(1).float().eval()
    batch = batch_for(aggregator, 3, shape, dtype=torch.float16)
    exact = aggregator(batch.map(lambda _, tensor: tensor.float()))
    logits = aggregator(batch)
    _require(logits.dtype == torch.float32, f"logits are {logits.dtype}, not float32")
    assert_close(logits, exact, rtol=1e-6, atol=1e-6)
    assert_close(by_steps(aggregator, batch), exact, rtol=1e-5, atol=1e-5)


def saved_and_loaded_it_is_the_same(make: Make, shape: MapShape) -> None:
    """Check that the state dict holds all that decides its answers."""
    aggregator = make(1)
    aggregator(batch_for(aggregator, 4, shape))  # updates running statistics, if there are any
    other = make(2)
    other.load_state_dict(load(save(aggregator.state_dict())))
    batch = batch_for(aggregator, 4, shape)
    same = torch.equal(aggregator.eval()(batch), other.eval()(batch))
    _require(same, "the answers differ")


CHECKS = (
    steps_give_what_the_whole_sequence_gives,
    every_clip_matters_to_its_video_alone,
    the_loss_reaches_every_parameter,
    videos_do_not_see_each_other_in_evaluation,
    its_cost_is_what_torch_counts,
    its_state_does_not_grow_with_the_clips,
    the_emptiest_and_the_largest_maps_stay_finite,
    half_precision_maps_are_computed_in_its_own_type,
    saved_and_loaded_it_is_the_same,
)


def _multiply_adds(run: Callable[..., object], *arguments: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run(*arguments)
    return float(counter.get_total_flops() / 2)


def _require_cost(name: str, clips: int, gflops: float, counted: float) -> None:
    said = gflops * 1e9
    _require(
        abs(said - counted) <= 1e-12 * abs(counted),
        f"of {clips} clips, {name} says {said:.0f} multiply-adds, and torch counts {counted:.0f}",
    )


def _state(aggregator: Aggregator[Any], batch: ClipBatch, clips: int) -> Any:
    state = aggregator.init(*batch.at(0))
    for t in range(1, clips):
        state = aggregator.step(state, *batch.at(t))
    return state


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)
