"""FAST-GRU's packed weights and written-out gradient: the equations still, whatever has happened to the weights."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from batches import MODELS, NUM_CLASSES, make_batch
from faster.aggregate.models import cpu_kernels
from faster.aggregate.models.batch import ClipBatch
from faster.aggregate.models.cpu_kernels import pack, pack_once, product
from faster.aggregate.models.recurrent.fast_gru import FastGRU, reference
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

SHAPE = (1, 3, 3, 64)
SHAPES = dict.fromkeys(MODELS, SHAPE)


def make(seed: int = 0) -> FastGRU:
    torch.manual_seed(seed)
    aggregator = FastGRU(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).eval()
    for parameter in aggregator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return aggregator


def make_maps(clips: int = 5) -> ClipBatch:
    return make_batch(clips, shapes=dict(SHAPES), dtype=torch.float16)


def at_once(aggregator: FastGRU, batch: ClipBatch) -> Tensor:
    return aggregator(batch)


def by_steps(aggregator: FastGRU, batch: ClipBatch) -> Tensor:
    state = aggregator.init(*batch.at(0))
    for t in range(1, batch.model_of.shape[1]):
        state = aggregator.step(state, *batch.at(t))
    return aggregator.readout(state)


def exact(aggregator: FastGRU, batch: ClipBatch) -> Tensor:
    return reference(copy.deepcopy(aggregator).double(), batch.dense(torch.float64)).detach()


@pytest.mark.parametrize("run", [at_once, by_steps])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("clips", [1, 2, 5])
def test_without_a_gradient_it_is_the_equations(
    run: Callable[[FastGRU, ClipBatch], Tensor], mode: Callable[[], torch.no_grad], clips: int
) -> None:
    batch, right, half, plainly = make_maps(clips), [], [], []
    for seed in range(8):  # of one draw's few logits, either may have been rounded the luckier way
        aggregator = make(seed)
        right.append(exact(aggregator, batch))
        with mode():
            single = run(aggregator, batch)
            with torch.autocast("cpu", torch.bfloat16):
                half.append(run(aggregator, batch))
                plainly.append(reference(aggregator, batch.dense(torch.float32)))
        torch.testing.assert_close(single.double(), right[-1], rtol=1e-5, atol=1e-5)
    error = (torch.cat(half) - torch.cat(right)).norm()
    assert error < 0.02 * torch.cat(right).norm()
    assert error < 1.5 * (torch.cat(plainly) - torch.cat(right)).norm()


def in_place(aggregator: FastGRU) -> None:
    with torch.no_grad():
        aggregator.candidate_weight.mul_(2)


def by_the_optimiser(aggregator: FastGRU) -> None:
    aggregator.loss(make_maps()).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(aggregator.parameters(), lr=1.0).step()


def by_loading(aggregator: FastGRU) -> None:
    aggregator.load_state_dict({name: 2 * value for name, value in aggregator.state_dict().items()})


def by_other_memory(aggregator: FastGRU) -> None:
    for _ in range(2):  # the second may lie where the first lay
        for parameter in aggregator.parameters():
            parameter.data = parameter.data * 1.5


def by_a_fused_optimiser(aggregator: FastGRU) -> None:
    """It leaves no trace in what it changes; switching to training and back does."""
    aggregator.train()
    optimizer = torch.optim.SGD(aggregator.parameters(), lr=0.5, fused=True)
    for parameter in aggregator.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    aggregator.eval()


@pytest.mark.parametrize(
    "change", [in_place, by_the_optimiser, by_a_fused_optimiser, by_loading, by_other_memory]
)
@pytest.mark.parametrize("run", [at_once, by_steps])
def test_changed_weights_are_packed_anew(
    change: Callable[[FastGRU], None], run: Callable[[FastGRU, ClipBatch], Tensor]
) -> None:
    aggregator, batch = make(), make_maps()
    with torch.inference_mode():
        before = run(aggregator, batch)
    twin = copy.deepcopy(aggregator)
    change(aggregator)
    with torch.inference_mode():
        after, of_twin = run(aggregator, batch), run(twin, batch)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after.double(), exact(aggregator, batch), rtol=1e-5, atol=1e-5)
    assert torch.equal(of_twin, before)


def test_weights_made_in_inference_mode_may_change_without_a_trace() -> None:
    batch = make_maps()
    with torch.inference_mode():
        aggregator = make()
        aggregator(batch)
        aggregator.candidate_weight.mul_(2)
        after = aggregator(batch)
        right = reference(aggregator, batch.dense(torch.float32))
    torch.testing.assert_close(after, right, rtol=1e-5, atol=1e-5)


def test_what_is_packed_is_packed_once_and_goes_with_its_weight() -> None:
    gc.collect()
    before = len(cpu_kernels._kept)
    weight = torch.nn.Parameter(torch.randn(24, 16))
    with torch.no_grad():
        single, half = (pack_once(weight, dtype) for dtype in (torch.float32, torch.bfloat16))
        assert pack_once(weight, torch.float32) is single and pack_once(weight, torch.bfloat16) is half
    assert len(cpu_kernels._kept) == before + 1
    del weight, half  # which is the weight itself where oneDNN does not pack bf16
    gc.collect()
    assert len(cpu_kernels._kept) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_packed_weight_multiplies_as_the_unpacked_one(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 48, generator=generator).to(dtype)
    wide = torch.randn(48, 40, generator=generator).to(dtype)
    weight, bias = wide[:, :24].t(), torch.randn(24, generator=generator).to(dtype)  # a slice, turned
    right = x.double() @ weight.double().t() + bias.double()
    for ready in (weight, pack(weight), pack_once(torch.nn.Parameter(weight), dtype)):
        with torch.no_grad():
            ours = product(x, ready, bias)
        assert ours.dtype == dtype
        torch.testing.assert_close(
            ours.double(), right, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
        )


@pytest.mark.parametrize("run", [at_once, by_steps])
def test_its_cost_is_counted_in_float32_too(run: Callable[[FastGRU, ClipBatch], Tensor]) -> None:
    aggregator, batch = make(), make_maps()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run(aggregator, batch)
    last_layer = 3 * aggregator.fc.weight.numel()
    assert counter.get_total_flops() / 2 == pytest.approx(3e9 * aggregator.gflops(5, SHAPE) + last_layer)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_way_back_can_be_gone_twice(bf16: bool) -> None:
    aggregator = make().train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = aggregator.loss(make_maps())
    parameters = list(aggregator.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.equal(a, b)
