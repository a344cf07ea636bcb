import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from faster.costs.tables import backbone_gflops
from faster.errors import UsageError
from faster.extract.backbones import Backbone, build, is_scalable, known_names, register
from faster.extract.backbones import registry as registry_module
from networks import on_meta, randomised
from torch import Tensor, nn

PAPER = ("r2d26", "r2plus1d50", "r3d50")


# --- the paper's networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions", "gflops"),
    [
        ("r2d26", 14.8, {8: 3.17, 16: 6.33, 32: 12.67}),
        ("r2plus1d50", 47.0, {8: 29.98, 16: 59.96, 32: 119.92}),
        ("r3d50", 47.0, {8: 29.46, 16: 58.92, 32: 117.84}),
    ],
)
def test_parameters_with_400_classes_and_gflops(name, millions, gflops):
    parameters = sum(p.numel() for p in on_meta(name, 400).parameters())
    assert round(parameters / 1e6, 1) == millions
    assert {frames: round(backbone_gflops(name, frames), 2) for frames in (8, 16, 32)} == gflops


@pytest.mark.parametrize("frames", [8, 16, 32])
@pytest.mark.parametrize("name", PAPER)
def test_every_stage_has_the_size_of_table_1(name, frames):
    backbone = on_meta(name)
    sizes = {}
    for stage in ("conv1", "pool1", "res2", "res3", "res4", "res5"):
        getattr(backbone, stage).register_forward_hook(
            lambda module, args, out, stage=stage: sizes.__setitem__(stage, tuple(out.shape[1:]))
        )
    with torch.no_grad():
        maps = backbone.features(torch.empty(2, 3, frames, 224, 224, device="meta"))
    early = frames // 8 if name == "r2d26" else frames
    late = [frames // 8] * 3 if name == "r2d26" else [frames // 2, frames // 4, frames // 8]
    assert sizes == {
        "conv1": (64, early, 112, 112),
        "pool1": (64, early, 56, 56),
        "res2": (256, early, 56, 56),
        "res3": (512, late[0], 28, 28),
        "res4": (1024, late[1], 14, 14),
        "res5": (2048, late[2], 7, 7),
    }
    assert maps.shape == (2, frames // 8, 7, 7, 2048)
    assert backbone.channels == 2048


def test_blocks_and_channels_of_table_1():
    backbone = on_meta("r2plus1d50")
    stem = [
        (m.out_channels, m.kernel_size, m.stride)
        for m in backbone.conv1.modules()
        if isinstance(m, nn.Conv3d)
    ]
    assert stem == [(45, (1, 7, 7), (1, 2, 2)), (64, (3, 1, 1), (1, 1, 1))]
    for stage, blocks, planes, mid in (
        ("res2", 3, 64, 144),
        ("res3", 4, 128, 288),
        ("res4", 6, 256, 576),
        ("res5", 3, 512, 1152),
    ):
        assert len(getattr(backbone, stage)) == blocks
        for i, block in enumerate(getattr(backbone, stage)):
            convs = [
                (m.out_channels, m.kernel_size, m.stride)
                for m in block.residual.modules()
                if isinstance(m, nn.Conv3d)
            ]
            s = 2 if i == 0 and stage != "res2" else 1
            assert convs == [
                (planes, (1, 1, 1), (1, 1, 1)),
                (mid, (1, 3, 3), (1, s, s)),
                (planes, (3, 1, 1), (s, 1, 1)),
                (4 * planes, (1, 1, 1), (1, 1, 1)),
            ]
            assert isinstance(block.shortcut, nn.Identity) == (i > 0)


def test_r2plus1d34_of_tran_et_al():
    backbone = on_meta("r2plus1d34")
    assert round(backbone_gflops("r2plus1d34", 32, 112)) == 152
    assert isinstance(backbone.pool1, nn.Identity)
    assert [len(getattr(backbone, stage)) for stage in ("res2", "res3", "res4", "res5")] == [3, 4, 6, 3]
    first = backbone.res3[0]
    spatial = [m for m in first.residual.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (1, 3, 3)]
    # From each convolution's own channels: 64 → 128, then 128 → 128.
    assert [m.out_channels for m in spatial] == [27 * 64 * 128 // (9 * 64 + 3 * 128), 288]
    with torch.no_grad():
        assert backbone.features(torch.empty(1, 3, 32, 112, 112, device="meta")).shape == (1, 4, 7, 7, 512)


def test_width_scales_every_channel_count():
    backbone = on_meta("r2plus1d14-w16")
    assert backbone.channels == 32 * 16
    full = on_meta("r2plus1d14")
    for narrow, wide in zip(backbone.modules(), full.modules(), strict=True):
        if isinstance(narrow, nn.Conv3d):
            assert narrow.out_channels == (11 if wide.out_channels == 45 else wide.out_channels / 4)
            assert narrow.stride == wide.stride


# --- against plain code ---------------------------------------------------------------------------------------------


def reference_features(kind: str, blocks: tuple[int, ...], state: dict[str, Tensor], x: Tensor) -> Tensor:
    """A bottleneck network, layer by layer as Table 1 reads."""

    def conv_norm(x: Tensor, key: str, stride=(1, 1, 1)) -> Tensor:
        weight = state[f"{key}.conv.weight"]
        padding = [k // 2 if k % 2 else 0 for k in weight.shape[2:]]
        x = F.conv3d(x, weight, stride=stride, padding=padding)
        norm = [
            state[f"{key}.norm.{name}"].view(1, -1, 1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        ]
        return (x - norm[0]) / (norm[1] + 1e-5).sqrt() * norm[2] + norm[3]

    if kind == "r2plus1d":
        x = conv_norm(x, "conv1.0", (1, 2, 2)).relu()
        x = conv_norm(x, "conv1.2").relu()
    else:
        x = conv_norm(x, "conv1.0", (8, 2, 2) if kind == "r2d" else (1, 2, 2)).relu()
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage, count in enumerate(blocks, start=2):
        for i in range(count):
            key = f"res{stage}.{i}"
            s = 2 if i == 0 and stage > 2 else 1
            t = 1 if kind == "r2d" else s
            y = conv_norm(x, f"{key}.residual.reduce").relu()
            if kind == "r2plus1d":
                y = conv_norm(y, f"{key}.residual.conv.0", (1, s, s)).relu()
                y = conv_norm(y, f"{key}.residual.conv.2", (t, 1, 1)).relu()
            else:
                y = conv_norm(y, f"{key}.residual.conv", (t, s, s)).relu()
            y = conv_norm(y, f"{key}.residual.expand")
            x = (y + (conv_norm(x, f"{key}.shortcut", (t, s, s)) if i == 0 else x)).relu()
    return x.permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize("kind", ["r2d", "r2plus1d", "r3d"])
def test_features_and_logits_equal_plain_code(kind):
    backbone = randomised(f"{kind}26-w4", num_classes=5).double()
    x = torch.randn(2, 3, 16, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        maps, logits = backbone.features(x), backbone(x)
    state = dict(backbone.state_dict())
    expected = reference_features(kind, (2, 2, 2, 2), state, x)
    assert expected.std() > 0.01
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)
    pooled = expected.reshape(2, -1, backbone.channels).mean(1)
    torch.testing.assert_close(logits, pooled @ state["fc.weight"].T + state["fc.bias"], rtol=1e-9, atol=1e-9)


def test_a_fresh_block_is_its_shortcut():
    backbone = build("r2plus1d14-w4").eval()
    x = torch.randn(1, 4, 8, 14, 14)
    block = backbone.res2[0]
    with torch.no_grad():
        torch.testing.assert_close(block(x), block.shortcut(x).relu())


# --- conformance: every registered network --------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_names())
def test_contract(name):
    backbone = on_meta(name, num_classes=7)
    assert backbone.num_classes == 7
    with torch.no_grad():
        maps = backbone.features(torch.empty(2, 3, 16, 64, 64, device="meta"))
        assert (
            maps.ndim == 5
            and maps.shape[0] == 2
            and maps.shape[1] == 2
            and maps.shape[-1] == backbone.channels
        )
        assert backbone.classify(maps).shape == (2, 7)
        assert on_meta(name).classify(maps) is None
    assert len(backbone.mean) == len(backbone.std) == 3 and backbone.frame_stride == 1
    assert is_scalable(name)
    assert on_meta(f"{name}-w8").channels * 8 == backbone.channels


@pytest.mark.parametrize("name", PAPER)
def test_frames_that_are_no_multiple_of_8_are_refused(name):
    with pytest.raises(UsageError, match=r"12 frames.*multiple of 8"):
        on_meta(name).features(torch.empty(1, 3, 12, 64, 64, device="meta"))


def test_forward_without_a_classifier_says_so():
    with pytest.raises(UsageError, match="no classifier"):
        on_meta("r2d14-w4")(torch.empty(1, 3, 8, 32, 32, device="meta"))


# --- the registry ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry_module, "_builders", dict(registry_module._builders))
    monkeypatch.setattr(registry_module, "_scalable", set(registry_module._scalable))


class Plain(nn.Module):
    """The least that a network of the user's own must be."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 6
        self.conv = nn.Conv3d(3, 6, 8, stride=8)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x).permute(0, 2, 3, 4, 1)


@pytest.mark.usefixtures("own_registry")
def test_one_decorated_function_is_a_model():
    @register("mine")
    def mine(num_classes: int | None) -> nn.Module:
        return Plain()

    assert "mine" in known_names() and not is_scalable("mine")
    backbone = build("mine", num_classes=3)
    assert isinstance(backbone, Backbone)
    x = torch.randn(2, 3, 8, 16, 16)
    maps = backbone.features(x)
    assert maps.shape == (2, 1, 2, 2, 6) and backbone.channels == 6 and backbone.num_classes is None
    assert backbone.classify(maps) is None
    assert sorted(backbone.state_dict()) == ["conv.bias", "conv.weight"]
    assert round(backbone_gflops("mine", 8, 16) * 1e9) == 6 * 3 * 8**3 * 4


@pytest.mark.usefixtures("own_registry")
def test_a_taken_or_odd_name_is_refused():
    with pytest.raises(UsageError, match="'r2d26' is registered already"):
        register("r2d26")(lambda num_classes: Plain())
    for name in ("a:b", "a/b", "", "net-w16"):
        with pytest.raises(UsageError, match="cannot be a model's name"):
            register(name)


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(UsageError) as caught:
        build("r2plus1d-50")
    message = str(caught.value)
    assert "did you mean r2plus1d50?" in message and "\n" not in message
    assert all(name in message for name in known_names())
    for name in ("r2d26-w0", "r2d26-w", "r2d27", "R2D26", "r2d26-w-8", "r2d26-w16-w8"):
        with pytest.raises(UsageError, match="unknown model"):
            build(name)


def test_one_name_for_one_network():
    with pytest.raises(UsageError, match="'r2d26-w64' is 'r2d26'"):
        build("r2d26-w64")


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch):
    """A folder with the user's own modules, as the current one."""
    (tmp_path / "own_networks_of_test.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    channels, mean, frame_stride = 4, (0.5, 0.5, 0.5), 2\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.num_classes = num_classes\n"
        "        self.conv = nn.Conv3d(3, 4, 8, stride=8)\n"
        "        self.head = nn.Linear(4, num_classes or 1)\n"
        "    def features(self, x):\n"
        "        return self.conv(x).permute(0, 2, 3, 4, 1)\n"
        "    def classify(self, maps):\n"
        "        return self.head(maps.mean((1, 2, 3)))\n"
        "def net(num_classes): return Net(num_classes)\n"
        "def number(num_classes): return 3\n"
        "def linear(num_classes): return nn.Linear(2, 2)\n"
        "def channels_first(num_classes):\n"
        "    network = Net(num_classes)\n"
        "    network.channels = 5\n"
        "    return network\n"
    )
    (tmp_path / "broken_networks_of_test.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_networks_of_test", None)


@pytest.mark.usefixtures("module_folder")
def test_a_function_of_a_module_in_the_current_folder_is_a_model():
    backbone = build("own_networks_of_test:net", num_classes=3)
    assert (backbone.channels, backbone.frame_stride, backbone.mean) == (4, 2, (0.5, 0.5, 0.5))
    assert backbone.num_classes == 3
    assert backbone(torch.randn(2, 3, 8, 16, 16)).shape == (2, 3)


@pytest.mark.usefixtures("module_folder")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_networks_of_test:number", "gave a int; it must return a torch.nn.Module"),
        ("own_networks_of_test:linear", "gave a Linear without channels and features"),
        ("own_networks_of_test:nothing", "has no function 'nothing'"),
        ("own_networks_of_test:", "the form is package.module:function"),
        ("no_such_module_of_test:net", "no module 'no_such_module_of_test'"),
        ("no_such_package_of_test.module:net", "no module 'no_such_package_of_test'"),
    ],
)
def test_what_a_function_of_the_users_lacks_is_one_line(name, message):
    with pytest.raises(UsageError) as caught:
        build(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("module_folder")
def test_maps_of_another_shape_are_refused():
    with pytest.raises(UsageError, match=r"returned shape \(1, 1, 1, 1, 4\).*\(batch, l, h, w, 5\)"):
        build("own_networks_of_test:channels_first").features(torch.randn(1, 3, 8, 8, 8))


@pytest.mark.usefixtures("module_folder")
def test_an_error_inside_the_users_module_is_shown_as_it_is():
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_nowhere"):
        build("broken_networks_of_test:net")
