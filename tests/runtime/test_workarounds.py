"""What goes around faults of the libraries: right in every shape, and still needed. In processes, for faults may kill them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faster.extract.backbones.inference.precision import has_bf16
from faster.runtime.workarounds import SafeConvolutions
from places import SUPPORT

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
HAS_AVX2 = (
    torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and torch.backends.mkldnn.is_available()
)


def run(*arguments: str, threads: int = 1, limit_s: float = 240, **variables: str) -> tuple[str, str]:
    """How a process of Python ended, and what it printed last."""
    kept = {name: value for name, value in os.environ.items() if name not in AVX2}
    environment = kept | variables | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        printed, complaints = process.communicate(timeout=limit_s)
        end = f"exit {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        printed, complaints = process.communicate()
        end = f"no end within {limit_s} s"
    last = printed.splitlines()[-1] if printed.strip() else ""
    return end, last if end == "exit 0" else f"{last}\n{complaints}"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", [AVX2, {}], ids=["avx2", "native"])
@pytest.mark.parametrize("what", ["layers", "networks"])
def test_convolutions_forward_and_backward(what: str, isa: dict[str, str], threads: int) -> None:
    assert run(str(SUPPORT / "convolutions.py"), what, threads=threads, **isa) == ("exit 0", "all")


STRIDED = """
import torch
from torch.nn import functional as F
torch.manual_seed(0)
for channels in (4, 3, 7):
    x = torch.randn(32, channels, 128, 128).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, channels, 1, 1, requires_grad=True)
    y = F.conv2d(x, weight, None, 2)
    up = torch.randn(y.shape).contiguous(memory_format=torch.channels_last)
    found, = torch.autograd.grad(y, weight, up)
    exact = torch.einsum("bohw,bihw->oi", up.double(), x[:, :, ::2, ::2].double())
    error = (found[:, :, 0, 0] - exact).abs().max() / exact.abs().max()
    print("right" if error < 1e-4 else "wrong", flush=True)
    if error >= 1e-4:
        break
"""


@pytest.mark.skipif(not HAS_AVX2, reason="the fault is in oneDNN's kernels for AVX2 and AVX-512")
def test_onednns_strided_1x1_convolutions_of_few_channels_still_go_wrong() -> None:
    assert run("-c", STRIDED, limit_s=20, **AVX2) != ("exit 0", "right")


CONV3D = """
import torch
torch.manual_seed(0)
conv, x = torch.nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0), bias=False), torch.randn(2, 16, 2, 4, 4)
with torch.autocast("cpu", torch.bfloat16):
    y = conv(x)
out = torch.randn(y.shape)
y.backward(out.bfloat16())
half, conv.weight.grad = conv.weight.grad, None
conv(x).backward(out)
right = conv.weight.grad
print("right" if (half - right).abs().max() < 0.05 * right.abs().max() else "wrong")
"""


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="the fault is in oneDNN's kernels for bf16")
def test_the_gradient_of_conv3ds_weight_in_bf16_still_goes_wrong_with_two_frames() -> None:
    isa = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}  # the kernels for AMX are others
    assert run("-c", CONV3D, limit_s=60, **isa) != ("exit 0", "right")


KEPT = """
import inspect, sys
from torch import distributed as dist
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
from torch.distributed.nn import functional
print(inspect.signature(functional.all_reduce).parameters["group"].default is dist.group.WORLD)
"""


def test_a_module_that_shares_gradients_still_keeps_the_process_group(tmp_path: Path) -> None:
    assert run("-c", KEPT, str(tmp_path / "meeting"), limit_s=60) == ("exit 0", "True")


COLUMNS = """
from time import thread_time
import torch
x, columns = torch.randn(512, 512), torch.randn(512, 1536)[:, 512:1024]
def seconds(weight):
    began = thread_time()
    torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return thread_time() - began
whole = columns.contiguous()
print(seconds(columns) > 5 * min(seconds(whole) for _ in range(5)))
"""


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch without oneDNN")
def test_onednn_still_multiplies_with_a_slice_of_columns_by_its_slowest_code() -> None:
    assert run("-c", COLUMNS) == ("exit 0", "True")


SLICED = """
import torch
from torch.nn import functional as F
from faster.extract.backbones.inference.precision import has_bf16
from faster.runtime.workarounds import SafeConvolutions
torch.manual_seed(0)
for convolve, dimensions in ((F.conv1d, 1), (F.conv2d, 2)):
    for stride, padding in ((2, 0), ((2,) * dimensions, "valid"), ((2,), (0,)), (2, 1)):
        x = torch.randn(2, 4, *[9] * dimensions)
        weight, bias = torch.randn(6, 4, *[1] * dimensions), torch.randn(6)
        right = convolve(x, weight, bias, stride, padding)
        with SafeConvolutions():
            again = convolve(x, weight, bias, stride=stride, padding=padding)
        torch.testing.assert_close(again, right)
    grouped = torch.randn(8, 2, *[1] * dimensions)
    right = convolve(x, grouped, None, 2, 0, 1, 2)
    with SafeConvolutions():
        torch.testing.assert_close(convolve(x, grouped, None, 2, 0, 1, 2), right)
"""


def test_convolutions_of_other_networks_keep_their_meaning() -> None:
    exec(SLICED, {})


class _Narrow(torch.nn.Module):
    """Somebody's network of pictures with the layer that oneDNN trains wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(4, 16, 1, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_a_module_of_another_network_is_met() -> None:
    seen: list[tuple[int, ...]] = []
    network = _Narrow()
    x = torch.randn(2, 4, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    with SafeConvolutions():
        y = network(x)
    node = y.grad_fn
    while node is not None:
        seen.append(tuple(getattr(node, "_saved_stride", ())))
        node = node.next_functions[0][0] if node.next_functions else None
    assert (1, 1) in seen and (2, 2) not in seen
