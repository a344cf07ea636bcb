"""Products through oneDNN against torch's own, and the gradients that are written out for them."""

from __future__ import annotations

import copy

import pytest
import torch
from batches import MODELS, NUM_CLASSES, make_batch
from faster.aggregate.models.cpu_kernels import linear, product
from faster.aggregate.models.pooling import temporal_conv
from faster.aggregate.models.recurrent import gru, lstm
from faster.aggregate.models.registry import build
from torch.nn import functional as F

REFERENCE = {"gru": gru.reference, "lstm": lstm.reference, "temporal-conv": temporal_conv.reference}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 7, 64])
def test_a_product_is_torchs_own(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 48).to(dtype), torch.randn(33, 48).to(dtype)
    bias = torch.randn(33).to(dtype)
    torch.testing.assert_close(product(x, weight), F.linear(x, weight))
    torch.testing.assert_close(product(x, weight, bias), F.linear(x, weight, bias))
    d = torch.randn(33, rows).to(dtype).t()  # neither lies in order
    torch.testing.assert_close(product(d, weight.t()), d @ weight)
    torch.testing.assert_close(product(d.t(), x.t()), d.t() @ x)


def test_linear_has_torchs_gradients() -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((3, 5, 48), (33, 48), (33,)))
    given = torch.randn(3, 5, 33)
    ours = torch.autograd.grad(linear(x, weight, bias), (x, weight, bias), given)
    theirs = torch.autograd.grad(F.linear(x, weight, bias), (x, weight, bias), given)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_one_clip_trains_the_classifier_alone(name: str) -> None:
    """No step, so no row in any product: the gradients of the steps' weights are zeros."""
    aggregator = build(name, map_shapes=dict.fromkeys(MODELS, (1, 2, 2, 8)), num_classes=NUM_CLASSES)
    batch = make_batch(1, shapes=dict.fromkeys(MODELS, (1, 2, 2, 8)), dtype=torch.float32)
    aggregator.loss(batch).backward()  # type: ignore[no-untyped-call]
    for key, value in aggregator.named_parameters():
        assert value.grad is not None and bool(value.grad.any()) == key.startswith("fc."), key


# In bf16 temporal-conv's products and gradients are torch's own.
@pytest.mark.parametrize(
    ("name", "bf16"),
    [("gru", False), ("gru", True), ("lstm", False), ("lstm", True), ("temporal-conv", False)],
)
def test_gradients_on_pooled_maps_are_the_plain_versions(name: str, bf16: bool) -> None:
    """In the types that train, against float64: float32, and bf16, whose values have 8 bits."""
    torch.manual_seed(0)
    shape = (1, 2, 2, 48)
    aggregator = build(name, map_shapes=dict.fromkeys(MODELS, shape), num_classes=NUM_CLASSES)
    batch = make_batch(6, videos=4, shapes=dict.fromkeys(MODELS, shape), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        aggregator.loss(batch).backward()  # type: ignore[no-untyped-call]
    exact = copy.deepcopy(aggregator).double()
    exact.zero_grad()
    F.cross_entropy(REFERENCE[name](exact, batch.dense(torch.float64)), batch.labels).backward()  # type: ignore[operator]
    for (key, ours), reference in zip(aggregator.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None and reference.grad is not None and ours.grad.dtype == torch.float32, key
        error = (ours.grad - reference.grad).norm() / reference.grad.norm()
        assert error <= (0.03 if bf16 else 1e-5), (key, error)
