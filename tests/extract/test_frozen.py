import numpy as np
import pytest
import torch
from faster.errors import UsageError, VideoError
from faster.extract.backbones.adapters import Adapted
from faster.extract.frozen import FrozenBackbone, fold_norms
from networks import on_meta, randomised
from torch import nn

NAMES = ("r2d14-w8", "r2plus1d14-w8", "r3d14-w8", "r2plus1d34-w8")


def clips(n: int, *, frames: int = 8, size: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, frames, size, size, 3), dtype=np.uint8)


def plain(backbone, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and logits, one clip at a time, unfolded."""
    mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
    x = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        maps = torch.cat([backbone.features(clip[None]) for clip in x])
        return maps, backbone.classify(maps)


def relative_rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


@pytest.mark.parametrize("name", NAMES)
def test_folding_keeps_the_maps(name):
    backbone, folded = randomised(name), randomised(name)
    fold_norms(folded)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    x = torch.randn(2, 3, 8, 48, 48)
    with torch.no_grad():
        assert relative_rms(folded.features(x), backbone.features(x)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_maps_and_logits_are_the_plain_networks(name):
    backbone, pixels = randomised(name, 5), clips(5)
    maps, logits = FrozenBackbone(backbone, batch_clips=2)(pixels)
    expected_maps, expected_logits = plain(backbone, pixels)
    assert maps.dtype == np.float16 and maps.shape == tuple(expected_maps.shape) and maps.flags.c_contiguous
    assert logits.dtype == np.float32 and logits.shape == (5, 5)
    # float16 keeps 11 bits: 2**-11 of each value at most, plus what folding does.
    assert relative_rms(torch.from_numpy(maps).float(), expected_maps) < 2**-11
    assert relative_rms(torch.from_numpy(logits), expected_logits) < 1e-5


@pytest.mark.parametrize("name", ["r2d14-w8", "r2plus1d14-w8"])
def test_a_clips_result_does_not_depend_on_what_else_is_in_the_call(name):
    frozen, pixels = FrozenBackbone(randomised(name, 5), batch_clips=4), clips(9)
    maps, logits = frozen(pixels)
    for order in ([8, 3, 0, 5, 1, 7], [2], [6, 6, 6, 6, 4]):
        again_maps, again_logits = frozen(torch.from_numpy(pixels[order]))
        assert again_maps.tobytes() == maps[order].tobytes()
        assert again_logits.tobytes() == logits[order].tobytes()


def test_the_backbone_given_stays_as_it_was():
    backbone = randomised("r2plus1d14-w8").train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    FrozenBackbone(backbone)(clips(1))
    assert backbone.training and all(p.requires_grad for p in backbone.parameters())
    after = backbone.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_without_a_classifier_there_are_no_logits():
    assert FrozenBackbone(randomised("r2d14-w8"))(clips(1))[1] is None


def test_map_shape_and_gflops():
    backbone = randomised("r2plus1d14-w8")
    frozen = FrozenBackbone(backbone)
    assert frozen.map_shape(16, 48) == (2, 2, 2, 256) and frozen.precision == "float32"
    assert frozen(clips(1, frames=16))[0].shape == (1, *frozen.map_shape(16, 48))
    multiply_adds = 0
    meta = on_meta("r2plus1d14-w8")

    def count(conv, args, out):
        nonlocal multiply_adds
        multiply_adds += out.numel() * conv.weight[0].numel()

    for module in meta.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(count)
    meta.features(torch.empty(1, 3, 16, 48, 48, device="meta"))
    assert frozen.gflops(16, 48) == pytest.approx(multiply_adds / 1e9, rel=1e-12)


class Scaled(nn.Module):
    """Maps that are the first pixel of each clip times `scale`."""

    channels, mean, std = 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def features(self, x):
        return (x[:, :, :1, :1, :1] * self.scale).permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (7e4, "clip 4 overflows float16: its largest value is 7e\\+04"),
        (float("nan"), "clip 0 holds"),
        (float("inf"), "not finite"),
    ],
)
def test_values_that_float16_cannot_hold_name_their_clip(scale, message):
    pixels = np.zeros((6, 8, 8, 8, 3), dtype=np.uint8)
    pixels[4] = 255
    with pytest.raises(VideoError, match=message):
        FrozenBackbone(Adapted(Scaled(scale)), batch_clips=3)(pixels)


def test_the_largest_float16_is_kept():
    pixels = np.full((1, 8, 8, 8, 3), 255, dtype=np.uint8)
    assert FrozenBackbone(Adapted(Scaled(65504.0)))(pixels)[0].max() == 65504


@pytest.mark.parametrize(
    "pixels", [clips(1).astype(np.float32), clips(1)[0], clips(1)[:0], np.moveaxis(clips(1), -1, 1)]
)
def test_other_clips_are_refused(pixels):
    with pytest.raises(UsageError, match=r"uint8 \(n, L, H, W, 3\)"):
        FrozenBackbone(randomised("r2d14-w8"))(pixels)


def test_a_batch_has_at_least_one_clip():
    with pytest.raises(UsageError, match="batch_clips is 0"):
        FrozenBackbone(randomised("r2d14-w8"), batch_clips=0)


def test_only_neighbours_in_a_sequence_are_folded():
    relu = nn.ReLU()
    conv, norm = nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2)
    norm.running_var.fill_(4.0)
    sequence = nn.Sequential(relu, conv, relu, norm).eval()
    x = torch.randn(1, 2, 3, 3, 3)
    with torch.no_grad():
        before = sequence(x)
        fold_norms(sequence)
        assert torch.equal(sequence(x), before)
    assert sequence[3] is norm


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_as_on_the_cpu():
    backbone, pixels = randomised("r2plus1d14-w8", 5), clips(5)
    frozen = FrozenBackbone(backbone, device="cuda", batch_clips=2)
    maps, _ = frozen(pixels)
    assert relative_rms(torch.from_numpy(maps).float(), plain(backbone, pixels)[0]) < 5e-3  # TF32
    assert frozen(pixels[3:4])[0].tobytes() == maps[3:4].tobytes()
