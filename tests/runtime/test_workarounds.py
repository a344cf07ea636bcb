"""What goes around faults of the libraries: right in every shape, and still needed. In processes, for faults may kill them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
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


SLICED = """
import torch
from torch.nn import functional as F
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
