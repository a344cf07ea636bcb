"""What every aggregator owes; a new one is tested by being registered."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import MAP_SHAPE, MODELS, NUM_CLASSES, make_batch
from faster.aggregate.models.base import Aggregator
from faster.aggregate.models.batch import ClipBatch
from faster.aggregate.models.pooling.average import Average
from faster.aggregate.models.registry import build, known_names
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

CASES = [(name, "maps") for name in known_names()] + [("average", "logits"), ("tsn", "logits")]
pytestmark = pytest.mark.parametrize(("name", "reads"), CASES)


def make(name: str, reads: str, seed: int = 1) -> Aggregator[Any]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        aggregator = build(
            name, map_shapes=dict.fromkeys(MODELS, MAP_SHAPE), num_classes=NUM_CLASSES, reads=reads
        ).double()
        for parameter in aggregator.parameters():  # biases that start at 0 would hide a mistake
            torch.nn.init.normal_(parameter, std=0.4)
    return aggregator


def batch_for(aggregator: Aggregator[Any], clips: int, **changes: Any) -> ClipBatch:
    shape = MAP_SHAPE if aggregator.reads == "maps" else (NUM_CLASSES,)
    return make_batch(clips, shapes=dict.fromkeys(MODELS, shape), **changes)


def by_steps(aggregator: Aggregator[Any], batch: ClipBatch) -> Tensor:
    state = aggregator.init(*batch.at(0))
    for t in range(1, batch.model_of.shape[1]):
        state = aggregator.step(state, *batch.at(t))
    return aggregator.readout(state)


def outcome(
    aggregator: Aggregator[Any], logits: Tensor, inputs: list[Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    """The logits, and the gradients of a loss that weighs them all differently."""
    wanted = [*aggregator.parameters(), *inputs]
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits).sin()
    grads = torch.autograd.grad((logits * weights).sum(), wanted, allow_unused=True)
    return logits.detach(), list(grads)


def assert_same(
    a: tuple[Tensor, list[Tensor | None]], b: tuple[Tensor, list[Tensor | None]], count: int
) -> None:
    torch.testing.assert_close(a[0], b[0], rtol=1e-9, atol=1e-9)
    assert len(a[1]) == len(b[1]) == count
    for x, y in zip(a[1], b[1], strict=True):
        # An input that nothing used has no gradient in one way of writing it and a zero one in the other.
        x = torch.zeros(()) if x is None else x
        y = torch.zeros_like(x) if y is None else y
        torch.testing.assert_close(x.expand_as(y), y, rtol=1e-9, atol=1e-9, check_dtype=False)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("clips", [1, 2, 5])
def test_steps_give_what_the_whole_sequence_gives(name: str, reads: str, clips: int, training: bool) -> None:
    aggregators = [make(name, reads).train(training) for _ in range(2)]
    outcomes = []
    for aggregator, run in zip(aggregators, (by_steps, lambda a, b: a(b)), strict=True):
        batch = batch_for(aggregator, clips)
        inputs = [tensor.requires_grad_() for tensor in batch.inputs.values()]
        logits = run(aggregator, batch)
        assert logits.shape == (3, NUM_CLASSES) and logits.dtype == torch.float64
        outcomes.append(outcome(aggregator, logits, inputs))
    assert_same(outcomes[0], outcomes[1], len(list(aggregators[0].parameters())) + 2)
    for x, y in zip(aggregators[0].buffers(), aggregators[1].buffers(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("clips", [1, 2, 5])
def test_it_is_the_equations(name: str, reads: str, clips: int, training: bool) -> None:
    aggregator = make(name, reads).train(training)
    plain = sys.modules[type(aggregator).__module__].plain
    batch = batch_for(aggregator, clips)
    inputs = [tensor.requires_grad_() for tensor in batch.inputs.values()]
    whole = outcome(aggregator, aggregator(batch), inputs)
    x = batch.dense(torch.float64)
    models = [MODELS[index] for index in batch.model_of[0]]
    by_hand = plain(aggregator, x, models) if isinstance(aggregator, Average) else plain(aggregator, x)
    assert_same(whole, outcome(aggregator, by_hand, inputs), len(list(aggregator.parameters())) + 2)


def test_every_clip_matters_to_the_answer(name: str, reads: str) -> None:
    aggregator = make(name, reads).eval()
    batch = batch_for(aggregator, 4)
    before = aggregator(batch)
    generator = torch.Generator().manual_seed(7)
    for index, model in enumerate(MODELS):
        for row, clip in enumerate(batch.inputs[model]):
            changed = batch.inputs[model].clone()
            changed[row] += 10 * torch.randn(clip.shape, dtype=clip.dtype, generator=generator)
            after = aggregator(replace(batch, inputs={**batch.inputs, model: changed}))
            moved = (after - before).abs().amax(1) > 1e-6
            owner = ((batch.model_of == index) & (batch.row_of == row)).any(1)
            assert torch.equal(moved, owner), (model, row)


def test_the_loss_reaches_every_parameter(name: str, reads: str) -> None:
    aggregator = make(name, reads).train()
    if not list(aggregator.parameters()):
        assert reads == "logits"  # the backbones' own scores: nothing to train
        return
    aggregator.loss(batch_for(aggregator, 4)).backward()
    for parameter_name, parameter in aggregator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, parameter_name


def test_videos_do_not_see_each_other_in_evaluation(name: str, reads: str) -> None:
    aggregator = make(name, reads)
    if name == "concat":
        aggregator(batch_for(aggregator, 4, seed=5))  # running statistics that are not the initial ones
    aggregator.eval()
    batch = batch_for(aggregator, 4, models=[0] * 4)
    together = aggregator(batch)
    x = batch.dense(torch.float64)
    for video in range(3):
        alone = ClipBatch(
            models=MODELS,
            inputs={"dear": x[video]},
            model_of=torch.zeros(1, 4, dtype=torch.int64),
            row_of=torch.arange(4)[None],
            labels=batch.labels[:1],
            videos=batch.videos[:1],
        )
        torch.testing.assert_close(aggregator(alone)[0], together[video], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clips", [1, 2, 5])
def test_its_cost_is_what_torch_counts(name: str, reads: str, clips: int) -> None:
    aggregator = make(name, reads).eval()
    batch = batch_for(aggregator, clips, videos=1)
    with FlopCounterMode(display=False) as counter:
        state = aggregator.init(*batch.at(0))
        for t in range(1, clips):
            state = aggregator.step(state, *batch.at(t))
        aggregator.readout(state)
    last_layer = 0 if isinstance(aggregator, Average) else aggregator.fc.weight.numel()
    multiply_adds = counter.get_total_flops() / 2
    assert aggregator.gflops(clips, MAP_SHAPE) * 1e9 == pytest.approx(multiply_adds - last_layer, rel=1e-12)
    whole = FlopCounterMode(display=False)
    with whole:
        aggregator(batch)
    assert whole.get_total_flops() / 2 == multiply_adds
    with FlopCounterMode(display=False) as counter:
        aggregator.step(state, *batch.at(0))
    assert aggregator.step_gflops(MAP_SHAPE) * 1e9 == pytest.approx(counter.get_total_flops() / 2, rel=1e-12)


def test_its_state_does_not_grow_with_the_clips(name: str, reads: str) -> None:
    aggregator = make(name, reads).eval()
    batch = batch_for(aggregator, 12)
    state, sizes = aggregator.init(*batch.at(0)), []
    for t in range(1, 12):
        state = aggregator.step(state, *batch.at(t))
        parts = state if isinstance(state, tuple) else (state,)
        sizes.append([part.numel() for part in parts if isinstance(part, Tensor)])
    assert sizes[0] and sizes == [sizes[0]] * 11


@pytest.mark.parametrize("value", [0.0, 65504.0])  # a map that a ReLU left empty, and float16's largest
def test_the_emptiest_and_the_largest_maps_stay_finite(name: str, reads: str, value: float) -> None:
    torch.manual_seed(0)
    aggregator = build(
        name, map_shapes=dict.fromkeys(MODELS, MAP_SHAPE), num_classes=NUM_CLASSES, reads=reads
    )
    batch = batch_for(aggregator, 4, dtype=torch.float16).map(lambda _, x: torch.full_like(x, value))
    loss = aggregator.loss(batch)
    assert loss.isfinite() and by_steps(aggregator, batch).isfinite().all()
    if loss.requires_grad:
        loss.backward()
    for parameter_name, parameter in aggregator.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


def test_half_precision_maps_are_computed_in_its_own_type(name: str, reads: str) -> None:
    aggregator = make(name, reads).float().eval()
    batch = batch_for(aggregator, 3, dtype=torch.float16)
    exact = aggregator(batch.map(lambda _, tensor: tensor.float()))
    logits = aggregator(batch)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_steps(aggregator, batch), exact, rtol=1e-5, atol=1e-5)


def test_saved_and_loaded_it_is_the_same(name: str, reads: str, tmp_path: Path) -> None:
    aggregator = make(name, reads)
    aggregator(batch_for(aggregator, 4))  # moves what running statistics there are
    save_file(aggregator.state_dict(), tmp_path / "a.safetensors")
    other = make(name, reads, seed=2)
    other.load_state_dict(load_file(tmp_path / "a.safetensors"))
    batch = batch_for(aggregator, 4)
    assert torch.equal(aggregator.eval()(batch), other.eval()(batch))
