"""What backbones compute in: chosen, said, recorded, and never mixed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from faster import store as stores
from faster.errors import ProvenanceMismatch, UsageError
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.backbones.inference.precision import as_asked, choose_precision, has_bf16
from faster.extract.backbones.weights.load import load_weights
from faster.extract.run import ExtractConfig, extract
from faster.extract.video.decode import load_clips
from log_lines import logged
from videos import make_video

MODEL = "r2plus1d14-w4"
CPU = torch.device("cpu")


def config(folder: Path, **changes: str) -> ExtractConfig:
    (folder / "videos").mkdir(exist_ok=True)
    make_video(folder / "videos/one.mp4", frames=24, numbered=False)
    return ExtractConfig(
        models=(MODEL,),
        source=str(folder / "videos"),
        store=str(folder / "s.zarr"),
        allow_random=True,
        clips=3,
        size=32,
        devices=("cpu",),
        **changes,  # type: ignore[arg-type]
    )


def test_auto_is_bf16_where_the_cpu_multiplies_it_and_the_network_takes_it() -> None:
    best = "bf16" if has_bf16(CPU) else "float32"
    assert choose_precision("auto", CPU, takes_bf16=True) == best
    assert choose_precision("auto", CPU, takes_bf16=False) == "float32"
    assert choose_precision("bf16", CPU, takes_bf16=False) == "bf16"
    assert choose_precision("float32", CPU, takes_bf16=True) == "float32"


@pytest.mark.parametrize("cap", ["", "ONEDNN_MAX_CPU_ISA=AVX2", "DNNL_MAX_CPU_ISA=AVX512_CORE"])
def test_bf16_is_in_hardware_where_the_processor_has_it_and_onednn_may_use_it(cap: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "MAX_CPU_ISA" not in name}
    environment |= dict([cap.split("=")]) if cap else {}
    code = (
        "import torch; from faster.extract.backbones.inference.precision import choose_precision, has_bf16; cpu = torch.device('cpu'); "
        "print(has_bf16(cpu), choose_precision('auto', cpu, takes_bf16=True))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stderr
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.exists() else set()
    expected = bool(words & {"avx512_bf16", "amx_bf16"}) and not cap
    assert ran.stdout.split() == [str(expected), "bf16" if expected else "float32"]


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        ("ALL", True),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_AMX", True),
        ("avx512_core", False),
        ("AVX512_CORE_VNNI", False),
    ],
)
def test_bf16_that_onednn_would_imitate_is_not_in_hardware(
    monkeypatch: pytest.MonkeyPatch, name: str, cap: str, expected: bool
) -> None:
    for each in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, cap)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert has_bf16(CPU) == expected


def test_another_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="precision 'half'; allowed: auto, float32, bf16"):
        choose_precision("half", CPU, takes_bf16=True)
    with pytest.raises(UsageError, match="--precision is half; allowed: auto, float32, bf16"):
        ExtractConfig(models=(MODEL,), precision="half")


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [("bf16", "bf16"), ("float32", "float32"), ("tf32", "float32"), ("unknown", "float32")],
)
def test_what_a_store_records_can_be_asked_for_again(recorded: str, asked: str) -> None:
    assert as_asked(recorded) == asked


@pytest.mark.parametrize(("first", "second"), [("bf16", "float32"), ("float32", "bf16")])
def test_maps_of_two_precisions_are_not_mixed(tmp_path: Path, first: str, second: str) -> None:
    said: list[str] = []
    settings = config(tmp_path, precision=first)
    with logged(said):
        extract(settings, progress=False)
    assert any(f"{MODEL} in {first}" in line for line in said)
    features = stores.open(tmp_path / "s.zarr").features(MODEL, 8)
    assert features.spec.precision == first
    backbone, _ = load_weights(MODEL, allow_random=True)
    video = load_clips(tmp_path / "videos/one.mp4", clips=3, clip_frames=8, size=32)
    maps, _ = FrozenBackbone(backbone, precision=first)(video.clips)
    np.testing.assert_array_equal(features.read_maps(0, 0, np.arange(3)), maps)
    with pytest.raises(ProvenanceMismatch, match=f'precision: store has "{first}", asked "{second}"'):
        extract(config(tmp_path, precision=second), progress=False)
