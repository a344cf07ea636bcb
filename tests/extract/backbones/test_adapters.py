"""Networks of other libraries as backbones: their own logits, maps of L/8 times, the clips that they take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from faster.costs.commands import flops_command
from faster.costs.tables import backbone_cost
from faster.errors import UsageError, WeightsError
from faster.extract.backbones import LIBRARIES, Backbone, build, on_meta
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.backbones.weights.load import load_weights, save_weights
from faster.extract.video.transforms import normalise
from libraries import hide_library, use_library
from places import ROOT
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

KINETICS = (0.43216, 0.394666, 0.37645)


@pytest.fixture(autouse=True)
def no_costs_kept() -> None:
    backbone_cost.cache_clear()  # the stand-in's widths change from test to test


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its residual networks an eighth as wide as they are."""
    library = use_library("torchvision", monkeypatch, stand_in=True)
    monkeypatch.setattr(library.models.video, "WIDTH", 8)
    return library


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return use_library("timm", monkeypatch, stand_in=True)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return use_library("transformers", monkeypatch)


def clip(backbone: Backbone, frames: int, size: int | None = None, clips: int = 2) -> Tensor:
    side = size or backbone.size
    return torch.randn(clips, 3, frames, side, side, generator=torch.Generator().manual_seed(1))


def maps_and_logits(backbone: Backbone, x: Tensor) -> tuple[Tensor, Tensor | None]:
    with torch.no_grad():
        return backbone.eval().maps_and_logits(x)


# --- torchvision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frames", "size", "shape", "stride", "own"),
    [
        ("r3d_18", 8, 32, (1, 2, 2, 64), 2, (16, 112)),
        ("mc3_18", 16, 32, (2, 2, 2, 64), 2, (16, 112)),
        ("r2plus1d_18", 8, 32, (1, 2, 2, 64), 2, (16, 112)),
        ("s3d", 16, 224, (2, 7, 7, 1024), 2, (None, 224)),
        ("mvit_v2_s", 16, 224, (2, 7, 7, 32), 4, (16, 224)),
        ("swin3d_t", 32, 224, (4, 7, 7, 48), 2, (32, 224)),
    ],
)
def test_torchvisions_give_their_own_logits_and_maps_of_an_eighth_of_the_frames(
    torchvision: ModuleType,
    name: str,
    frames: int,
    size: int,
    shape: tuple[int, ...],
    stride: int,
    own: tuple[int | None, int],
) -> None:
    backbone: Any = build(f"torchvision:{name}", 5)
    assert (backbone.clip_frames, backbone.size) == own and backbone.frame_stride == stride
    x = clip(backbone, frames, size, clips=1)
    maps, logits = maps_and_logits(backbone, x)
    assert maps.shape[1:] == shape and backbone.channels == shape[-1]
    with torch.no_grad():
        torch.testing.assert_close(logits, backbone.network(x))
    assert (
        backbone.classifier_key in backbone.state_dict()
        and len(backbone.state_dict()[backbone.classifier_key]) == 5
    )
    bare = on_meta(f"torchvision:{name}")
    assert bare.num_classes is None and backbone.classifier_key not in bare.state_dict()


def test_torchvisions_map_is_what_its_classifier_pools(torchvision: ModuleType) -> None:
    backbone: Any = build("torchvision:r3d_18", 5).eval()
    x = clip(backbone, 8, 32)
    maps, logits = maps_and_logits(backbone, x)
    torch.testing.assert_close(logits, backbone.network.fc(maps.mean((1, 2, 3))))
    assert backbone.mean == KINETICS


def test_maps_are_averaged_over_time(torchvision: ModuleType) -> None:
    """mc3_18 keeps all frames; MViT's tokens lie time first, after the class token."""
    backbone: Any = build("torchvision:mc3_18").eval()
    x = clip(backbone, 16, 32, clips=1)
    kept, net = [], backbone.network
    net.layer4.register_forward_hook(lambda module, inputs, out: kept.append(out))
    maps, _ = maps_and_logits(backbone, x)
    torch.testing.assert_close(maps[0, 1], kept[0][0, :, 8:].mean(1).movedim(0, -1))
    backbone = build("torchvision:mvit_v2_s", 3).eval()
    backbone.network.norm.register_forward_hook(lambda module, inputs, out: kept.append(out))
    maps, _ = maps_and_logits(backbone, clip(backbone, 16, clips=1))
    tokens = kept[1][0, 1:].view(8, 49, -1)
    torch.testing.assert_close(maps[0, 1].flatten(0, 1), tokens[4:].mean(0))


@pytest.mark.parametrize(
    ("name", "frames", "size", "message"),
    [
        ("mvit_v2_s", 16, 112, "takes --size 224 and no other"),
        ("mvit_v2_s", 8, 224, "takes --clip-frames 16 and no other"),
        ("r3d_18", 12, 112, "takes a multiple of 8"),
        ("s3d", 16, 112, r"takes no clips of 16 frames of 112×112 pixels \(.+\); choose another"),
        ("s3d", 8, 224, "takes no clips of 8 frames"),
    ],
)
def test_clips_that_a_network_cannot_take_are_refused_in_one_line(
    torchvision: ModuleType, name: str, frames: int, size: int, message: str
) -> None:
    backbone = on_meta(f"torchvision:{name}", 3)
    with pytest.raises(UsageError, match=message) as caught:
        backbone.require_takes(frames, size)
    assert "\n" not in str(caught.value)


def test_torchvisions_other_names_are_refused(torchvision: ModuleType) -> None:
    with pytest.raises(UsageError, match="did you mean torchvision:r3d_18"):
        build("torchvision:r3d_81")
    with pytest.raises(UsageError, match="mvit_v2_s and swin3d_t can be named"):
        build("torchvision:alexnet")


# --- timm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (2, 7, 7, 512)),
        ("swin_tiny_patch4_window7_224", (2, 7, 7, 24)),
        ("vit_tiny_patch16_224", (2, 4, 4, 16)),
    ],
)
def test_timms_see_one_frame_of_every_eight(timm: ModuleType, name: str, shape: tuple[int, ...]) -> None:
    backbone: Any = build(f"timm:{name}", 5).eval()
    x = clip(backbone, 16)
    maps, logits = maps_and_logits(backbone, x)
    assert maps.shape[1:] == shape and backbone.channels == shape[-1] and backbone.frame_stride == 1
    with torch.no_grad():
        own = [backbone.network(x[:, :, t]) for t in (4, 12)]
        alone = backbone.features(x[:, :, 8:])
    torch.testing.assert_close(logits, torch.stack(own).mean(0))
    torch.testing.assert_close(maps[:, 1:], alone)
    assert len(backbone.state_dict()[backbone.classifier_key]) == 5


def test_timms_take_what_their_weights_are_published_with(timm: ModuleType) -> None:
    backbone = on_meta("timm:vit_tiny_patch16_224")
    assert (backbone.size, backbone.mean, backbone.std) == (64, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UsageError, match=r"Input height \(64\) doesn't match model \(224\)"):
        on_meta("timm:swin_tiny_patch4_window7_224").require_takes(8, 64)
    with pytest.raises(UsageError, match="did you mean timm:resnet18"):
        build("timm:resnet19")


# --- transformers ---------------------------------------------------------------------------------------------------

SMALL = {"patch_size": 8, "tubelet_size": 2, "hidden_size": 32}
REAL = {"num_hidden_layers": 2, "num_attention_heads": 2}  # what the real library's networks have beside
CLASSES = {0: "run", 1: "jump", 2: "swim"}


def videomae(library: Any, folder: Path, **changes: Any) -> nn.Module:
    values = {
        **SMALL,
        **REAL,
        "intermediate_size": 64,
        "image_size": 32,
        "num_frames": 8,
        "use_mean_pooling": True,
    }
    config = library.VideoMAEConfig(**{**values, "id2label": CLASSES, **changes})
    network: nn.Module = library.VideoMAEForVideoClassification(config).eval()
    network.save_pretrained(folder)
    return network


def vjepa2(library: Any, folder: Path) -> nn.Module:
    more = {
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
        "num_pooler_layers": 1,
    }
    config = library.VJEPA2Config(**SMALL, **REAL, **more, crop_size=32, frames_per_clip=16, id2label=CLASSES)
    network: nn.Module = library.VJEPA2ForVideoClassification(config).eval()
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize(("make", "frames"), [(videomae, 8), (vjepa2, 16)])
def test_a_checkpoint_of_transformers_loads_by_its_name(
    transformers: ModuleType, make: Any, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = make(transformers, tmp_path / "net")
    backbone, info = load_weights("hf:./net")
    assert info.class_names == ("run", "jump", "swim") and backbone.num_classes == 3 and not info.random
    assert (backbone.clip_frames, backbone.size, backbone.frame_stride) == (frames, 32, 4)
    x = clip(backbone, frames)
    maps, logits = maps_and_logits(backbone, x)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(x.transpose(1, 2)).logits)
        base = getattr(
            network, type(backbone.network).__name__.removesuffix("ForVideoClassification").lower()
        )
        extra = {"skip_predictor": True} if make is vjepa2 else {}
        tokens = base(x.transpose(1, 2), **extra).last_hidden_state
    folded = tokens.view(2, frames // 8, 4, 4, 4, 32).mean(2)  # tubelets of two frames: four to an eighth
    torch.testing.assert_close(maps, folded)
    backbone.require_takes(frames, 32)
    with pytest.raises(UsageError, match="--size 32 and no other"):
        backbone.require_takes(frames, 64)
    if make is videomae:
        with pytest.raises(UsageError, match="--clip-frames 8 and no other"):
            backbone.require_takes(16, 32)
    else:  # rotary positions: any length
        backbone.require_takes(8, 32)


def test_a_videomae_whose_classifier_reads_the_first_token(transformers: ModuleType, tmp_path: Path) -> None:
    network = videomae(transformers, tmp_path / "net", use_mean_pooling=False)
    backbone, _ = load_weights(f"hf:{tmp_path / 'net'}")
    x = clip(backbone, 8)
    with torch.no_grad():
        torch.testing.assert_close(maps_and_logits(backbone, x)[1], network(x.transpose(1, 2)).logits)


def test_a_pretrained_videomae_without_classifier_gives_maps(
    transformers: ModuleType, tmp_path: Path
) -> None:
    network = videomae(transformers, tmp_path / "net")
    file = tmp_path / "net/model.safetensors"
    state = safetensors.torch.load_file(file)
    state = {k: v for k, v in state.items() if k.startswith("videomae.")} | {
        "mask_token": torch.zeros(1, 1, 8)
    }
    safetensors.torch.save_file(state, file)
    backbone, info = load_weights(f"hf:{tmp_path / 'net'}")
    assert backbone.num_classes is None and info.class_names is None
    x = clip(backbone, 8)
    maps, logits = maps_and_logits(backbone, x)
    with torch.no_grad():
        tokens = network.videomae(x.transpose(1, 2)).last_hidden_state
    assert logits is None and torch.equal(maps, tokens.view(2, 1, 4, 4, 4, 32).mean(2))


def test_a_checkpoint_that_does_not_fit_is_refused(transformers: ModuleType, tmp_path: Path) -> None:
    videomae(transformers, tmp_path / "net")
    file, name = tmp_path / "net/model.safetensors", f"hf:{tmp_path / 'net'}"
    state = safetensors.torch.load_file(file)
    state["other.weight"] = torch.zeros(1)
    state["fc_norm.weight"] = torch.zeros(2)
    del state["fc_norm.bias"]
    safetensors.torch.save_file(state, file)
    with pytest.raises(WeightsError) as caught:
        load_weights(name)
    for what in (
        "1 missing (fc_norm.bias)",
        "1 unexpected (other.weight)",
        "1 mis-shaped (fc_norm.weight (2,) for (32,))",
    ):
        assert what in str(caught.value)
    file.unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors to be had"):
        load_weights(name)
    assert load_weights(name, allow_random=True)[1].random
    with pytest.raises(UsageError, match="has no config to be read"):
        load_weights(f"hf:{tmp_path / 'nothing'}")
    (tmp_path / "net/config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UsageError, match="is a bert; those that can be named are videomae and vjepa2"):
        load_weights(name)


def test_its_weights_are_saved_and_loaded_again(transformers: ModuleType, tmp_path: Path) -> None:
    videomae(transformers, tmp_path / "net")
    name = f"hf:{tmp_path / 'net'}"
    backbone, info = load_weights(name)
    save_weights(backbone, tmp_path / "mine.safetensors", info)
    again, told = load_weights(name, path=tmp_path / "mine.safetensors")
    assert told.digest == info.digest
    x = clip(backbone, 8)
    assert torch.equal(maps_and_logits(backbone, x)[0], maps_and_logits(again, x)[0])


# --- all of them ----------------------------------------------------------------------------------------------------


def test_costs_are_what_torch_counts(torchvision: ModuleType, timm: ModuleType) -> None:
    for name, frames, size in (("torchvision:r2plus1d_18", 8, 32), ("timm:resnet18", 16, 224)):
        backbone = build(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone.features(clip(backbone, frames, size, clips=1))
        cost = backbone_cost(name, frames, size)
        assert cost.gflops * 2e9 == pytest.approx(counter.get_total_flops(), rel=1e-12)
        assert cost.parameters == sum(p.numel() for p in backbone.parameters())
    assert (
        backbone_cost("timm:resnet18", 8).size == 224 and backbone_cost("torchvision:r3d_18", 8).size == 112
    )


def test_flops_of_a_network_are_of_its_own_clips(
    torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.models.video, "WIDTH", 64)
    told = CliRunner().invoke(flops_command, ["--model", "torchvision:r3d_18", "--json"])
    clips = json.loads(told.output)["clips"]
    assert [(c["clip_frames"], c["size"]) for c in clips] == [(16, 112)]  # its own, where none are asked
    assert clips[0]["gflops"] == pytest.approx(40.70, abs=0.01)  # as torchvision's documentation says


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=lambda library: library.prefix)
def test_a_library_that_is_not_installed_names_its_command(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_library(library.package, monkeypatch)
    with pytest.raises(UsageError, match=rf"pip install 'faster-video\[{library.extra}\]'"):
        build(library.example)
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f"\n{library.extra} = [" in pyproject


def test_libraries_are_imported_only_when_named() -> None:
    code = (
        "import sys\n"
        "from faster.extract.backbones import build, known_names, on_meta\n"
        "on_meta('r2d26'), known_names()\n"
        "assert not {'torchvision', 'timm', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_frozen_it_gives_maps_and_logits_of_bytes(torchvision: ModuleType, timm: ModuleType) -> None:
    """Image networks have weights of four dimensions, video networks of five; both run as they are."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 64, 64, 3), dtype=np.uint8)
    for name in ("timm:vit_tiny_patch16_224", "torchvision:r3d_18"):
        backbone = build(name, 4).eval()
        maps, logits = FrozenBackbone(backbone, batch_clips=2, precision="float32")(pixels)
        with torch.no_grad():
            reference = backbone.maps_and_logits(
                normalise(torch.from_numpy(pixels), backbone.mean, backbone.std)
            )
        np.testing.assert_allclose(maps, reference[0].numpy(), rtol=5e-3, atol=1e-3)
        np.testing.assert_allclose(logits, reference[1].numpy(), rtol=1e-3, atol=1e-3)


def test_weights_of_torchvision_load_and_none_name_where_they_are(
    torchvision: ModuleType, tmp_path: Path
) -> None:
    name = "torchvision:r2plus1d_18"
    torch.manual_seed(0)
    network = torchvision.models.video.r2plus1d_18(num_classes=7)
    torch.save({"module." + k: v for k, v in network.state_dict().items()}, tmp_path / "theirs.pth")
    backbone, info = load_weights(name, path=tmp_path / "theirs.pth")
    assert backbone.num_classes == 7 and not info.random
    x = clip(backbone, 8, 32)
    with torch.no_grad():
        torch.testing.assert_close(maps_and_logits(backbone, x)[1], network.eval()(x))
    with pytest.raises(
        WeightsError, match=r"--weights https://download\.pytorch\.org/models/r2plus1d_18-91a641e6\.pth"
    ):
        load_weights(name, search=tmp_path)
    state = network.state_dict()
    del state["layer4.1.conv2.1.running_var"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(layer4\.1\.conv2\.1\.running_var\)"):
        load_weights(name, path=tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match="does not fit torchvision:r3d_18"):
        load_weights("torchvision:r3d_18", path=tmp_path / "theirs.pth")
