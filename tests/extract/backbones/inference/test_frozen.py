import numpy as np
import pytest
import torch
from faster.errors import UsageError, VideoError
from faster.extract.backbones import build
from faster.extract.backbones.adapters import ModuleBackbone, as_backbone
from faster.extract.backbones.inference.frozen import FrozenBackbone, fold_norms
from faster.extract.backbones.inference.resnet3d import fast_forward
from networks import on_meta, randomised
from torch import nn

NAMES = ("r2d14-w8", "r2plus1d14-w8", "r3d14-w8", "r2plus1d34-w8")


def clips(n: int, *, frames: int = 8, size: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, frames, size, size, 3), dtype=np.uint8)


def reference(backbone, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
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


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [*((name, 8, 48) for name in NAMES), ("r2d26-w8", 16, 50), ("r2plus1d26-w8", 16, 50)],
)
def test_maps_and_logits_are_the_plain_networks(name, frames, size, precision):
    backbone, pixels = randomised(name, 5), clips(5, frames=frames, size=size)
    maps, logits = FrozenBackbone(backbone, batch_clips=2, precision=precision)(pixels)
    expected_maps, expected_logits = reference(backbone, pixels)
    assert maps.dtype == np.float16 and maps.shape == tuple(expected_maps.shape) and maps.flags.c_contiguous
    assert logits.dtype == np.float32 and logits.shape == (5, 5)
    # float16 keeps 11 bits: 2**-11 of each value at most, plus what folding does.
    assert relative_rms(torch.from_numpy(maps).float(), expected_maps) < (
        2**-11 if precision == "float32" else 2e-2
    )
    assert relative_rms(torch.from_numpy(logits), expected_logits) < (
        1e-5 if precision == "float32" else 2e-2
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["r2d14-w8", "r2plus1d14-w8"])
def test_a_clips_result_does_not_depend_on_what_else_is_in_the_call(name, precision):
    frozen, pixels = FrozenBackbone(randomised(name, 5), batch_clips=4, precision=precision), clips(9)
    maps, logits = frozen(pixels)
    for order in ([8, 3, 0, 5, 1, 7], [2], [6, 6, 6, 6, 4]):
        again_maps, again_logits = frozen(torch.from_numpy(pixels[order]))
        assert again_maps.tobytes() == maps[order].tobytes()
        assert again_logits.tobytes() == logits[order].tobytes()


def test_clips_of_several_shapes_take_turns():
    frozen = FrozenBackbone(randomised("r2plus1d14-w8"))
    shapes = [(8, 48), (16, 48), (8, 32)]
    first = [frozen(clips(2, frames=frames, size=size))[0].tobytes() for frames, size in shapes]
    for (frames, size), maps in zip(shapes, first, strict=True):
        frozen.warm_up(frames, size)
        assert frozen(clips(2, frames=frames, size=size))[0].tobytes() == maps


@pytest.mark.parametrize(
    ("name", "frames", "precision", "expected"),
    [
        ("r2d14", 8, "bf16", 8),
        ("r2d14", 8, "float32", 4),
        ("r2d14", 32, "bf16", 2),
        ("r2plus1d14", 8, "bf16", 1),
        ("r2plus1d14", 32, "float32", 1),
    ],
)
def test_a_pass_has_as_many_clips_as_fit_the_cache(name, frames, precision, expected):
    assert FrozenBackbone(build(name), precision=precision).pass_clips(frames, 224) == expected


def test_a_pass_has_no_more_clips_than_asked():
    assert FrozenBackbone(build("r2d14-w8"), batch_clips=3).pass_clips(8, 48) == 3


def test_without_onednns_convolutions_the_maps_are_the_same(monkeypatch):
    """As on a GPU: by PyTorch's own."""

    def changed(*arguments):
        raise RuntimeError("other arguments\nmore")

    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", changed)
    for name in NAMES:
        backbone, pixels = randomised(name, 5), clips(2, size=50)
        with pytest.warns(RuntimeWarning, match=r"slower than it could: .* \(other arguments\)$"):
            frozen = FrozenBackbone(backbone)
        assert relative_rms(torch.from_numpy(frozen(pixels)[1]), reference(backbone, pixels)[1]) < 1e-5


# What torch tells its users on that one release of Python; a graph it is all the same.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_the_form_for_gpus_compiles_into_one_graph():
    backbone, pixels = randomised("r2plus1d14-w8", 5), clips(2)
    fold_norms(backbone)
    forward = fast_forward(backbone.requires_grad_(False), dtype=torch.float32, onednn=False)
    compiled = torch.compile(forward, backend="eager", fullgraph=True, dynamic=False)
    maps, logits = compiled(torch.from_numpy(pixels))
    expected_maps, expected_logits = reference(backbone, pixels)
    assert relative_rms(maps, expected_maps) < 1e-5 and relative_rms(logits, expected_logits) < 1e-5


def test_where_compilation_fails_the_network_runs_uncompiled():
    frozen, pixels = FrozenBackbone(randomised("r2d14-w8")), clips(2)
    expected = frozen(pixels)[0].tobytes()

    def broken(frames):
        raise RuntimeError("no compiler\nmore")

    frozen._compiled = broken
    with pytest.warns(RuntimeWarning, match="uncompiled, and slower: no compiler$"):
        assert frozen(pixels)[0].tobytes() == expected
    assert frozen(pixels)[0].tobytes() == expected


@pytest.mark.parametrize("extra", [nn.Tanh(), nn.Sequential(nn.Tanh(), nn.ReLU())])
def test_a_network_with_layers_of_the_users_own_is_run_as_it_is(extra):
    backbone, pixels = randomised("r2d14-w8", 5), clips(2)
    backbone.res5.append(extra)
    maps, _ = FrozenBackbone(backbone)(pixels)
    assert relative_rms(torch.from_numpy(maps).float(), reference(backbone, pixels)[0]) < 2**-11
    fold_norms(backbone)
    assert fast_forward(backbone, dtype=torch.float32, onednn=True) is None


def test_a_clip_of_other_than_whole_eights_is_refused():
    with pytest.raises(UsageError, match="a clip of 12 frames"):
        FrozenBackbone(randomised("r2plus1d14-w8"))(clips(1, frames=12))


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
        FrozenBackbone(ModuleBackbone(Scaled(scale)), batch_clips=3)(pixels)


def test_the_largest_float16_is_kept():
    pixels = np.full((1, 8, 8, 8, 3), 255, dtype=np.uint8)
    assert FrozenBackbone(ModuleBackbone(Scaled(65504.0)))(pixels)[0].max() == 65504


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
    for precision, bound in (("float32", 5e-3), ("bf16", 2e-2)):  # float32 may be TF32
        frozen = FrozenBackbone(backbone, device="cuda", batch_clips=2, precision=precision)
        maps, _ = frozen(pixels)
        assert relative_rms(torch.from_numpy(maps).float(), reference(backbone, pixels)[0]) < bound
        assert frozen(pixels[3:4])[0].tobytes() == maps[3:4].tobytes()


class _Mixing(nn.Module):
    """A user's network that gives a clip's map something of the other clips, or of chance."""

    channels = 3

    def __init__(self, how):
        super().__init__()
        self.norm = nn.BatchNorm3d(3, track_running_stats=how != "batch norm", affine=False)
        self.how = how

    def features(self, x):
        maps = nn.functional.adaptive_avg_pool3d(self.norm(x), (1, 2, 2))
        if self.how == "dropout":
            maps = nn.functional.dropout(maps, 0.5, training=True)
        return maps.permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize("batch_clips", [1, 4])
@pytest.mark.parametrize("how", ["batch norm", "dropout", "neither"])
def test_a_network_that_mixes_clips_is_refused(how, batch_clips):
    frozen = FrozenBackbone(as_backbone(_Mixing(how), "own"), batch_clips=batch_clips)
    if how == "neither" or (how == "batch norm" and batch_clips == 1):  # alone, a norm is of the clip
        frozen.require_clips_apart(8, 16)
    else:
        with pytest.raises(UsageError, match="gives a clip other values beside other clips, or another time"):
            frozen.require_clips_apart(8, 16)
