from __future__ import annotations

import copy

import pytest
import torch
from faster.errors import RunError
from faster.extract.train_backbone.batch_norm import norm_relu
from torch import Tensor, nn


def reference(x: Tensor, norm: nn.BatchNorm3d, *, relu: bool) -> Tensor:
    y = norm(x.t().reshape(1, x.shape[1], len(x), 1, 1)).reshape(x.shape[1], len(x)).t()
    return y.relu() if relu else y


@pytest.mark.parametrize(("n", "c"), [(4096, 11), (1000, 36), (999, 512), (7, 3), (96, 600)])
@pytest.mark.parametrize("relu", [True, False])
def test_values_gradients_and_statistics_are_those_of_the_module(n: int, c: int, relu: bool) -> None:
    torch.manual_seed(n + c)
    ours = nn.BatchNorm3d(c, momentum=0.3)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = copy.deepcopy(ours).double()
    x = torch.randn(n, c) * 2 + 5
    # Where y is about 0 rounding decides whether ReLU lets the gradient through.
    sure = reference(x.double(), copy.deepcopy(theirs), relu=False).abs() > 1e-3
    gradient = torch.randn(n, c) * sure
    results = []
    for norm, function in ((ours, norm_relu), (theirs, reference)):
        leaf = x.to(norm.weight.dtype, copy=True).requires_grad_()
        y = function(leaf, norm, relu=relu)
        y.backward(gradient.to(y.dtype))
        results.append((y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad))
    for name, own, other in zip(("y", "x", "weight", "bias"), *results, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(own.double(), other, rtol=0, atol=2e-5 * scale, msg=f"of {name}")
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value.double(), theirs.state_dict()[name].double(), rtol=1e-5, atol=1e-6)


def test_statistics_of_bfloat16_are_float32() -> None:
    """Summed in bfloat16, 40,000 values around 100 would lose their mean and deviation."""
    torch.manual_seed(0)
    x = (torch.randn(40_000, 16) + 100).bfloat16()
    norm = nn.BatchNorm3d(16, momentum=1.0)
    y = norm_relu(x, norm, relu=False)
    assert y.dtype == torch.bfloat16 and norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, x.double().mean(0).float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_var, x.double().var(0).float(), rtol=1e-3, atol=0)


def test_a_single_value_is_refused_in_one_line() -> None:
    with pytest.raises(RunError, match=r"one clip is left of a batch.*raise --batch-size"):
        norm_relu(torch.randn(1, 4), nn.BatchNorm3d(4), relu=True)


def test_nothing_is_computed_for_an_input_without_gradient() -> None:
    norm = nn.BatchNorm3d(4)
    norm_relu(torch.randn(8, 4), norm, relu=True).sum().backward()
    assert norm.weight.grad is not None and norm.bias.grad is not None
