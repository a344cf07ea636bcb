"""Other people's weights files: IG-65M's and torchvision's names on our network, and what is refused."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster.errors import WeightsError
from faster.extract.backbones import build, on_meta
from faster.extract.backbones.weights.load import load_weights
from faster.extract.backbones.weights.state_dicts import fit_names
from libraries import use_library
from safetensors.torch import save_file
from torch import nn

MODEL = "r2plus1d34-w8"


def ig65m(
    monkeypatch: pytest.MonkeyPatch, *, width: int, num_classes: int, corrected: bool = True
) -> nn.Module:
    """The network of github.com/moabitcoin/ig65m-pytorch: torchvision's with 34 layers, and three convolutions corrected."""
    video: Any = use_library("torchvision", monkeypatch, stand_in=True).models.video
    monkeypatch.setattr(video, "WIDTH", width)
    network = video.VideoResNet([video.conv_2plus1d] * 4, [3, 4, 6, 3], video.r2plus1d_stem(), num_classes)
    for layer, channels in (
        (network.layer2, 2 * width),
        (network.layer3, 4 * width),
        (network.layer4, 8 * width),
    ):
        if corrected:  # 288, 576 and 1152 of the whole network
            layer[0].conv2[0] = video.conv_2plus1d(channels, channels, channels * 9 // 4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return network.eval()


def test_ig65m_weights_give_what_its_own_network_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = ig65m(monkeypatch, width=8, num_classes=5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):  # variances so small that the epsilon decides
            nn.init.uniform_(module.weight, 0.5, 1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(1e-3, 1e-2)
    torch.save(network.state_dict(), tmp_path / "ig65m.pth")
    backbone, info = load_weights(MODEL, path=tmp_path / "ig65m.pth")
    assert backbone.num_classes == 5 and not info.random
    x = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), network(x), rtol=1e-4, atol=1e-4)
        wrong = network.requires_grad_(False)
        for module in wrong.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = 1e-5
        assert not torch.allclose(backbone(x), wrong(x), rtol=1e-2)


def test_at_full_width_every_name_and_shape_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        network = ig65m(monkeypatch, width=64, num_classes=400)
    assert network.layer2[0].conv2[0][0].out_channels == 288
    assert network.layer4[0].conv2[0][0].out_channels == 1152
    backbone = on_meta("r2plus1d34", 400)
    fitted = fit_names(network.state_dict(), backbone)
    own = backbone.state_dict()
    assert fitted.keys() == own.keys() and all(fitted[name].shape == own[name].shape for name in own)


def test_torchvisions_own_mid_channels_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ig65m(monkeypatch, width=8, num_classes=5, corrected=False)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"18 mis-shaped \(res3\.0\.residual\.conv2\.0\.conv\.weight"):
        load_weights(MODEL, path=tmp_path / "w.pth")


@pytest.mark.parametrize("missing", ["layer3.2.conv1.0.3.weight", "stem.1.running_mean", "fc.bias"])
def test_a_layer_that_the_file_lacks_is_never_left_random(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ig65m(monkeypatch, width=8, num_classes=5).state_dict()
    del state[missing]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"does not fit r2plus1d34-w8: 1 missing \("):
        load_weights(MODEL, path=tmp_path / "w.pth", allow_random=True, num_classes=5)


def test_wrappers_prefixes_and_missing_counts_do_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = on_meta("r2d14-w4", 3).state_dict()
    reference = {
        name: torch.rand(value.shape) for name, value in state.items() if not name.endswith("tracked")
    }
    digests = []
    for number, prefix in enumerate(("", "module.", "_orig_mod.", "module._orig_mod.")):
        path = tmp_path / f"{number}.pth"
        torch.save({"state_dict": {prefix + name: value for name, value in reference.items()}}, path)
        digests.append(load_weights("r2d14-w4", path=path)[1].digest)
    assert len(set(digests)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.flatten()[0].fill_(float("nan")), "1 not finite"),
        (lambda w: w.flatten()[0].fill_(float("-inf")), "1 not finite"),
        (lambda w: (w * 1000).to(torch.int8), "1 of another type .*int8"),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    state = build("r2d14-w4", num_classes=3).state_dict()
    name = next(name for name, value in state.items() if value.ndim == 5)
    changed = change(state[name])
    state[name] = changed if changed.dtype == torch.int8 else state[name]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_weights("r2d14-w4", path=tmp_path / "w.safetensors")


def test_a_variance_below_zero_is_refused(tmp_path: Path) -> None:
    state = build("r2d14-w4", num_classes=3).state_dict()
    next(value for name, value in state.items() if name.endswith("running_var"))[0] = -1
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="1 below zero"):
        load_weights("r2d14-w4", path=tmp_path / "w.safetensors")


class Runs:
    """What makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("saved", "named"),
    [
        (lambda w: {"state_dict": w, "best": np.float64(0.5)}, "numpy"),
        (lambda w: {"model": w, "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (
            lambda w: {"state_dict": w, "hyper_parameters": {"when": datetime(2020, 1, 1)}},
            "datetime.datetime",
        ),
        (lambda w: {**w, "epoch": np.int64(3)}, "numpy"),
        (lambda w: build("r2d14-w4", num_classes=3), "ResNet3D"),
    ],
)
def test_what_lies_beside_the_tensors_is_named_and_the_command_that_is_told_mends_it(
    tmp_path: Path, saved: Any, named: str, legacy: bool
) -> None:
    weights = build("r2d14-w4", num_classes=3).state_dict()
    path = tmp_path / "it's w.pth"
    torch.save(saved(dict(weights)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="beside tensors") as raised:
        load_weights("r2d14-w4", path=path)
    told = str(raised.value)
    assert named in told.partition("(")[2].partition(")")[0]
    assert "\x1b" not in told and "\\x1b" not in told and "\n" not in told
    if legacy:  # the command is the same
        return
    run_what_is_told(told)
    reference = tmp_path / "it's w-tensors.pth"
    assert told.endswith(f"--weights {shlex.quote(str(reference))}")
    backbone, _ = load_weights("r2d14-w4", path=reference)
    assert backbone.num_classes == 3


def run_what_is_told(told: str) -> None:
    """Run the command that a message names."""
    match = re.search(r"alone: (python -c .*); then --weights", told)
    assert match
    words = [sys.executable, *shlex.split(match[1])[1:]]
    subprocess.run(words, check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["beside", "bare"])
def test_nothing_in_a_file_is_executed_to_say_what_it_holds(tmp_path: Path, where: str, legacy: bool) -> None:
    target = tmp_path / "was-executed"
    saved = {"state_dict": {}, "x": Runs(target)} if where == "beside" else Runs(target)
    torch.save(saved, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_weights("r2d14-w4", path=tmp_path / "w.pth")
    assert not target.exists()


@pytest.mark.parametrize("key", [None, "network"])
def test_numbers_beside_tensors_and_other_keys_are_named(tmp_path: Path, key: str | None) -> None:
    weights = dict(build("r2d14-w4", num_classes=3).state_dict())
    torch.save({"epoch": 3, **(weights if key is None else {key: weights})}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"holds no state dict.*epoch \(int\)") as raised:
        load_weights("r2d14-w4", path=tmp_path / "w.pth")
    assert "trust" not in str(raised.value)  # nothing is executed by the command either
    run_what_is_told(str(raised.value))
    assert load_weights("r2d14-w4", path=tmp_path / "w-tensors.pth")[0].num_classes == 3
