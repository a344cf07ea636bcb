"""The networks' training form against `ResNet3D.forward` of the same weights and clips."""

from __future__ import annotations

import copy

import pytest
import torch
from faster.errors import UsageError
from faster.extract.backbones import Backbone, build
from faster.extract.train_backbone.resnet3d_training import train_forward
from faster.extract.video.transforms import normalise
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5


def smooth_clips(count: int, frames: int = 16, size: int = 64) -> Tensor:
    """uint8 (count, frames, size, size, 3)."""
    coarse = torch.randint(0, 256, (count, 3, frames // 2, 8, 8)).float()
    fine = F.interpolate(coarse, (frames, size, size), mode="trilinear")
    return fine.permute(0, 2, 3, 4, 1).to(torch.uint8).contiguous()


def gradient(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in network.parameters() if p.grad is not None])


def reference_loss(network: Backbone, clips: Tensor, labels: Tensor) -> Tensor:
    dtype = next(network.parameters()).dtype
    return F.cross_entropy(network(normalise(clips, network.mean, network.std).to(dtype)), labels)


def relative(own: Tensor, other: Tensor) -> float:
    return float((own - other).norm() / other.norm())


@pytest.mark.parametrize("model", ["r2d14-w8", "r2plus1d14-w8", "r3d14-w8", "r2plus1d34-w4"])
def test_losses_gradients_and_statistics_are_those_of_the_plain_network(model: str) -> None:
    torch.manual_seed(0)
    exact = build(model, CLASSES)
    clips, labels = smooth_clips(6), torch.randint(CLASSES, (6,))
    ours, rounded = copy.deepcopy(exact), copy.deepcopy(exact)
    begun = copy.deepcopy(exact.state_dict())
    exact.double()
    expected = reference_loss(exact, clips, labels)
    expected.backward()
    forward = train_forward(ours, torch.float32)
    assert forward is not None
    loss = F.cross_entropy(forward(clips), labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative(gradient(ours), gradient(exact)) < 1e-5
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(
            value.double(), exact.state_dict()[name].double(), rtol=1e-4, atol=1e-5, msg=name
        )

    forward = train_forward(rounded, torch.bfloat16)
    assert forward is not None
    with torch.autocast("cpu", torch.bfloat16):
        logits = forward(clips)
    assert logits.dtype == torch.float32
    F.cross_entropy(logits, labels).backward()
    usual = copy.deepcopy(ours)
    usual.load_state_dict(begun)
    usual.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        reference_loss(usual, clips, labels).backward()
    error = relative(gradient(rounded), gradient(exact))
    usual_error = relative(gradient(usual), gradient(exact))
    assert error < 0.3 and not error > 1.2 * usual_error  # which is NaN where the plain network's is


def test_norms_in_evaluation_mode_keep_their_statistics() -> None:
    torch.manual_seed(1)
    network = build("r2plus1d14-w4", CLASSES)
    forward = train_forward(network, torch.float32)
    assert forward is not None
    clips, labels = smooth_clips(3, size=32), torch.tensor([0, 1, 2])
    F.cross_entropy(forward(clips), labels).backward()
    network.zero_grad()
    network.eval()
    before = copy.deepcopy(network.state_dict())
    loss = F.cross_entropy(forward(clips), labels)
    loss.backward()
    found = gradient(network)
    network.zero_grad()
    expected = reference_loss(network, clips, labels)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative(found, gradient(network)) < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("model", ["r2plus1d14-w8", "r3d14-w8"])
def test_bf16_trains_to_the_loss_of_float32_without_a_wild_gradient(model: str) -> None:
    """The convolutions over times whose gradients PyTorch's Conv3d gets wrong in bf16 are in every block."""
    clips, labels = smooth_clips(16, frames=8, size=48), torch.arange(16) % CLASSES
    last = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(2)
        network = build(model, CLASSES)
        forward = train_forward(network, dtype)
        assert forward is not None
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for step in range(40):
            rows = torch.arange(step % 2 * 8, step % 2 * 8 + 8)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                loss = F.cross_entropy(forward(clips[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            assert float(norm) < 1e3, f"step {step}"
            optimizer.step()
        last[dtype] = loss.item()
    assert last[torch.bfloat16] < 0.3 and last[torch.float32] < 0.3


def test_other_networks_and_layers_have_no_such_form() -> None:
    class Another(nn.Module):
        channels, num_classes = 4, None

        def features(self, x: Tensor) -> Tensor:
            return x

    from faster.extract.backbones.adapters import as_backbone

    assert train_forward(as_backbone(Another(), "another"), torch.float32) is None
    changed = build("r2d14-w4", CLASSES)
    changed.res3[0].residual.relu1 = nn.GELU()  # type: ignore[index, union-attr, assignment]
    assert train_forward(changed, torch.float32) is None


def test_a_clip_of_another_length_is_refused() -> None:
    forward = train_forward(build("r2d14-w4", CLASSES), torch.float32)
    assert forward is not None
    with pytest.raises(UsageError, match="a clip of 12 frames"):
        forward(torch.zeros(2, 12, 32, 32, 3, dtype=torch.uint8))
