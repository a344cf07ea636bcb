"""How fast the backbones run, as shares of what the cores do themselves and ratios to plain PyTorch, in one run.

python benchmarks/extract.py --only forward               every core; for a machine that nobody else uses
python benchmarks/extract.py --only forward --threads 1   one core, by its own CPU time; others disturb it less
python benchmarks/extract.py --only runs                  whole runs against their parts: see extract_runs.py

8-frame clips of 224×224 from uint8 pixels to float16 maps, all that `FrozenBackbone` does included. The reference is
the plain network, eager in float32. The shares count the paper's multiply-adds against one large product of matrices
in the same precision: by `torch.mm`, and by oneDNN with packed weights, which is the most that these cores were seen
to do. Single layers may exceed them, for padding is not multiplied. Prints tables, one of the layers
that cost R2D-26 most, and one JSON line.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from faster.costs.tables import backbone_gflops
from faster.extract.backbones import build
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.backbones.inference.precision import has_bf16
from faster.extract.video.transforms import normalise
from pairs import Ratio, ratio, time_turns
from torch import Tensor, nn

FRAMES, SIZE = 8, 224
CLIPS = {"r2plus1d50": 2, "r2d26": 8}
LARGE = (4096, 2048, 2048)  # rows, inner, columns of the large products
LARGE_GFLOPS = LARGE[0] * LARGE[1] * LARGE[2] / 1e9
PRECISIONS = {"bf16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One network in one precision."""

    model: str
    precision: str
    clips_per_second: float
    share_of_product: Ratio
    share_of_packed: Ratio
    speedup: Ratio
    first_seconds: float
    steady_seconds: float
    relative_rms: float


def with_every_layer(model: str) -> nn.Module:
    """A network whose weights leave no layer out; in a fresh one each block is its shortcut."""
    torch.manual_seed(1)
    backbone = build(model)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return backbone.eval()


def large_products(dtype: torch.dtype) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor]]:
    """A product of large matrices as `torch.mm` does it, and by oneDNN with one matrix packed before, as weights can be."""
    rows, inner, columns = LARGE
    x, y = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(y.T.contiguous(), rows)
    return (
        lambda number: torch.mm(x, y),
        lambda number: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""),
    )


def measure(model: str, turns: int, clock: Callable[[], float]) -> list[Forward]:
    """The network in each precision that this CPU has, against plain PyTorch and against the large product."""
    backbone: Any = with_every_layer(model)
    clips = CLIPS[model]
    pixels = torch.randint(0, 256, (clips, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8)
    x = normalise(pixels, backbone.mean, backbone.std)
    contenders: dict[str, Callable[[int], object]] = {"plain": lambda number: backbone.features(x)}
    first_seconds, maps = {}, {}
    precisions = [name for name in PRECISIONS if name != "bf16" or has_bf16(torch.device("cpu"))]
    for precision in precisions:
        network = FrozenBackbone(backbone, precision=precision)
        began = clock()
        maps[precision] = torch.from_numpy(network(pixels)[0]).float()
        first_seconds[precision] = clock() - began
        contenders[precision] = lambda number, network=network: network(pixels)  # type: ignore[misc]
        reference_product, packed_product = large_products(PRECISIONS[precision])
        contenders |= {f"{precision} product": reference_product, f"{precision} packed": packed_product}
    reference_maps = backbone.features(x)
    seconds = time_turns(contenders, turns=turns, warm_ups=1, clock=clock)
    work = backbone_gflops(model, FRAMES, SIZE) * clips / LARGE_GFLOPS
    found = []
    for precision in precisions:
        error = (
            maps[precision] - reference_maps
        ).square().mean().sqrt() / reference_maps.square().mean().sqrt()
        steady = float(np.median(seconds[precision]))
        found.append(
            Forward(
                model=model,
                precision=precision,
                clips_per_second=clips / steady,
                share_of_product=ratio(seconds, precision, f"{precision} product", work=work),
                share_of_packed=ratio(seconds, precision, f"{precision} packed", work=work),
                speedup=ratio(seconds, precision, "plain"),
                first_seconds=first_seconds[precision],
                steady_seconds=steady,
                relative_rms=float(error),
            )
        )
    return found


def layers(model: str, turns: int, clock: Callable[[], float]) -> list[tuple[str, float, float]]:
    """Each layer's name, milliseconds a clip, and those that the large product would have taken; the costliest first."""
    network = FrozenBackbone(with_every_layer(model), precision="bf16")  # type: ignore[arg-type]
    pixels = torch.zeros(CLIPS[model], FRAMES, SIZE, SIZE, 3, dtype=torch.uint8)
    began: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    ideal: dict[str, float] = {}
    _, product = large_products(torch.bfloat16)
    rate = LARGE_GFLOPS / min(time_turns({"product": product}, turns=9, clock=clock)["product"])

    def before(name: str, module: nn.Module, inputs: Any) -> None:
        began[name] = clock()

    def after(name: str, module: Any, inputs: Any, output: Tensor) -> None:
        seconds.setdefault(name, []).append(clock() - began[name])
        weights = module._source[0].weight[0].numel() if hasattr(module, "_source") else 0
        ideal[name] = output.numel() * weights / 1e9 / rate

    for name, module in network._forward.named_modules():
        if not list(module.children()) and not isinstance(module, nn.Sequential):
            kind = type(module).__name__.strip("_").lower()
            if hasattr(module, "_source"):
                conv = module._source[0]
                kind = f"{'×'.join(map(str, conv.kernel_size))}, {conv.in_channels} → {conv.out_channels}"
            label = f"{name.removeprefix('layers.')} ({kind})"
            module.register_forward_pre_hook(lambda *args, label=label: before(label, *args))  # type: ignore[misc]
            module.register_forward_hook(lambda *args, label=label: after(label, *args))  # type: ignore[misc]
    for _ in range(turns):
        network(pixels)
    each = 1000 / network.pass_clips(FRAMES, SIZE)
    rows = [(name, min(taken) * each, ideal[name] * each) for name, taken in seconds.items()]
    return sorted(rows, key=lambda row: row[2] - row[1])


def forward(turns: int, clock: Callable[[], float]) -> dict[str, Any]:
    """The forward pass alone."""
    rows = [row for model in CLIPS for row in measure(model, turns, clock)]
    click.echo(
        "model       precision clips/s  share of mm          of packed product    × plain float32      first/steady s  error"
    )
    for row in rows:
        click.echo(
            f"{row.model:12}{row.precision:9}{row.clips_per_second:8.2f}  {row.share_of_product!s:21}{row.share_of_packed!s:21}"
            f"{row.speedup!s:21}{row.first_seconds:6.2f} /{row.steady_seconds:6.2f}  {row.relative_rms:.1e}"
        )
    costly: list[tuple[str, float, float]] = []
    if has_bf16(torch.device("cpu")):
        costly = layers("r2d26", turns, clock)
        click.echo("\nr2d26, bf16: layer, ms a clip, ms at the product's rate, lost")
        for name, taken, ideal in costly[:10]:
            click.echo(f"{name:50}{taken:7.2f}{ideal:7.2f}{taken - ideal:7.2f}")
        rest = [sum(row[i] for row in costly[10:]) for i in (1, 2)]
        click.echo(f"{f'{len(costly) - 10} others':50}{rest[0]:7.2f}{rest[1]:7.2f}{rest[0] - rest[1]:7.2f}")
    return {"forward": [asdict(row) for row in rows], "r2d26_layers_ms": costly}


def runs(turns: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Whole runs, in a process of their own, timed as `extract_runs.py` does."""
    script = Path(__file__).with_name("extract_runs.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            if not line.startswith("{"):
                click.echo(line, nl=False)
    if process.returncode:
        raise click.ClickException(f"{script.name} ended with exit code {process.returncode}")
    return {"runs": json.loads(line)}


PARTS: dict[str, Callable[[int, Callable[[], float]], dict[str, Any]]] = {"forward": forward, "runs": runs}


@click.command()
@click.option("--only", type=click.Choice(sorted(PARTS)), help="This part alone.")
@click.option("--threads", type=click.IntRange(1), help="All cores by default; 1 is timed by its CPU time.")
@click.option("--turns", type=click.IntRange(2), default=9, show_default=True)
@torch.inference_mode()
def main(only: str | None, threads: int | None, turns: int) -> None:
    """Measure and print."""
    if threads:
        torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    found = {name: part(turns, clock) for name, part in PARTS.items() if only in (None, name)}
    about = {
        "benchmark": "extract",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "clock": clock.__name__,
    }
    click.echo(
        json.dumps({**about, **{key: value for part in found.values() for key, value in part.items()}})
    )


if __name__ == "__main__":
    main()
