"""How fast FAST-GRU trains and streams, as ratios to what the machine does itself and to the usual way, in one run.

python benchmarks/aggregate.py            under four minutes on two cores that nobody else uses
python benchmarks/aggregate.py --quick    a third of the turns

Maps of 1×7×7×2048 of 8-frame clips, 400 classes, four videos a step, all cores. The reference is a loop of Conv3d
modules in float32, one step after the other, on maps (c, l, h, w) that lie as a convolution wants them. A step is
forward and backward. The share of the machine's own rate counts 9·c² multiply-adds a position and step (3.5 forward,
3.5 for the weights, 2 for the states) against one large product by `torch.mm`; in float32 also by oneDNN with a
packed weight, which is the fastest on AMD. Prints tables, and one JSON line.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from faster.aggregate.data.loader import ClipReader
from faster.aggregate.data.mix import MixRequest, choose_mix
from faster.aggregate.data.partition import Subsets
from faster.aggregate.models.batch import ClipBatch
from faster.aggregate.models.cpu_kernels import pack, product
from faster.aggregate.models.recurrent import fast_gru
from faster.aggregate.models.recurrent.fast_gru import FastGRU
from faster.aggregate.task import AggregatorTask
from faster.runtime.allocator import keep_freed_memory
from faster.training.distributed import ALONE
from pairs import Ratio, ratio, time_turns
from store_maps import MAP_SHAPE, MODELS, make_store
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, CLASSES, VIDEOS = MAP_SHAPE[3], 400, 4
POSITIONS = MAP_SHAPE[0] * MAP_SHAPE[1] * MAP_SHAPE[2]
LARGE_ROWS = 4096  # of the large product, 4096×2048×2048
CPU = torch.device("cpu")


class ConvLoop(nn.Module):
    """Eq. 3 and 4 as one writes them down: a Conv3d module for each matrix, called at each step."""

    def __init__(self, c: int, num_classes: int) -> None:
        super().__init__()
        n = c // 4
        self.read_x, self.read_o, self.update_x, self.update_o = (
            nn.Conv3d(c, n, 1, bias=False) for _ in range(4)
        )
        self.read, self.update = nn.Conv3d(n, c, 1), nn.Conv3d(n, c, 1)
        self.candidate_x, self.candidate_o = nn.Conv3d(c, c, 1, bias=False), nn.Conv3d(c, c, 1)
        self.fc = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of maps (N, B, c, l, h, w)."""
        o = x[0]
        for x_t in x[1:]:
            r = torch.sigmoid(self.read(torch.relu(self.read_x(x_t) + self.read_o(o))))
            z = torch.sigmoid(self.update(torch.relu(self.update_x(x_t) + self.update_o(o))))
            candidate = torch.tanh(self.candidate_x(x_t) + self.candidate_o(r * o))
            o = (1 - z) * o + z * candidate
        logits: Tensor = self.fc(o.mean((2, 3, 4)))
        return logits


def make_aggregator() -> FastGRU:
    """With random weights."""
    return FastGRU(map_shapes=dict.fromkeys(MODELS, MAP_SHAPE), num_classes=CLASSES, dropout=0.0)


def make_batch(videos: int, clips: int) -> ClipBatch:
    """Pattern 1:7, maps in float16 as the store gives them."""
    model_of = torch.tensor([int(t % 8 > 0) for t in range(clips)]).expand(videos, clips)
    row_of = torch.zeros(videos, clips, dtype=torch.int64)
    inputs = {}
    for index, model in enumerate(MODELS):
        rows = int((model_of == index).sum())
        row_of[model_of == index] = torch.arange(rows)
        inputs[model] = torch.randn(rows, *MAP_SHAPE).relu_().half()
    labels = torch.randint(CLASSES, (videos,))
    return ClipBatch(
        models=MODELS,
        inputs=inputs,
        model_of=model_of,
        row_of=row_of,
        labels=labels,
        videos=torch.arange(videos),
    )


def train(module: nn.Module, loss: Callable[[], Tensor], *, bf16: bool = False) -> None:
    """Forward and backward."""
    module.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss()
    value.backward()  # type: ignore[no-untyped-call]


def large_products() -> dict[str, Callable[[int], object]]:
    """One product of LARGE_ROWS×c with c×c, in each way and type."""
    a, b = torch.randn(LARGE_ROWS, CHANNELS), torch.randn(CHANNELS, CHANNELS)
    half = a.bfloat16(), b.bfloat16()
    packed = pack(b)
    return {
        "mm float32": lambda turn: a @ b.t(),
        "oneDNN float32": lambda turn: product(a, packed),
        "mm bf16": lambda turn: half[0] @ half[1].t(),
    }


def measure_training(clips: int, turns: int) -> dict[str, Any]:
    """Ratios to the Conv3d loop and to `reference`, and the share of the large product's rate."""
    aggregator, loop = make_aggregator(), ConvLoop(CHANNELS, CLASSES)
    batch = make_batch(VIDEOS, clips)
    maps = batch.dense(torch.float32)
    as_convolved = maps.permute(1, 0, 5, 2, 3, 4).contiguous()
    contenders: dict[str, Callable[[int], object]] = {
        "Conv3d loop": lambda turn: train(loop, lambda: F.cross_entropy(loop(as_convolved), batch.labels)),
        "reference": lambda turn: train(
            aggregator, lambda: F.cross_entropy(fast_gru.reference(aggregator, maps), batch.labels)
        ),
        "float32": lambda turn: train(aggregator, lambda: aggregator.loss(batch)),
        "bf16": lambda turn: train(aggregator, lambda: aggregator.loss(batch), bf16=True),
        **large_products(),
    }
    seconds = time_turns(contenders, turns=turns, warm_ups=1)
    products = 9 * POSITIONS * VIDEOS * (clips - 1) / LARGE_ROWS  # large products in a step
    return {
        "turns": turns,
        "float32 / Conv3d loop": ratio(seconds, "float32", "Conv3d loop"),
        "bf16 / Conv3d loop": ratio(seconds, "bf16", "Conv3d loop"),
        "float32 / reference": ratio(seconds, "float32", "reference"),
        "bf16 / reference": ratio(seconds, "bf16", "reference"),
        "share of mm, bf16": ratio(seconds, "bf16", "mm bf16", work=products),
        "share of mm, float32": ratio(seconds, "float32", "mm float32", work=products),
        "share of oneDNN, float32": ratio(seconds, "float32", "oneDNN float32", work=products),
        "Conv3d loop, share of mm": ratio(seconds, "Conv3d loop", "mm float32", work=products),
    }


def measure_streaming(clips: int, turns: int) -> dict[str, Ratio]:
    """Speed of one video's clips step by step, as they come from a backbone, against the whole sequence at once."""
    aggregator, batch = make_aggregator().eval(), make_batch(1, clips)
    maps = [batch.at(t) for t in range(clips)]

    def by_steps(bf16: bool) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            state = aggregator.init(*maps[0])
            for clip in maps[1:]:
                state = aggregator.step(state, *clip)
            aggregator.readout(state)

    def at_once(bf16: bool) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            aggregator(batch)

    seconds = time_turns(
        {
            "steps, float32": lambda turn: by_steps(False),
            "whole, float32": lambda turn: at_once(False),
            "steps, bf16": lambda turn: by_steps(True),
            "whole, bf16": lambda turn: at_once(True),
        },
        turns=turns,
    )
    return {
        f"steps / whole, {kind}": ratio(seconds, f"steps, {kind}", f"whole, {kind}")
        for kind in ("float32", "bf16")
    }


def measure_loading(turns: int) -> dict[str, Any]:
    """Training from a store in page cache, with its one reading thread, against the same batches in memory."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "maps.zarr", videos=16, clips=8, shard_videos=8)
        mix = choose_mix(store, MixRequest(pattern="1:7", clips=8))
        rows = np.arange(16, dtype=np.int64)
        parts = Subsets(train=rows, validation=rows[:1], report=rows[:0], report_part="test")
        reader = ClipReader(mix, store.videos.labels, reads="maps")
        task = AggregatorTask(
            make_aggregator(),
            reader,
            store,
            parts,
            batch_size=VIDEOS,
            seed=0,
            label_smoothing=0.0,
            balanced=False,
            device=CPU,
            ranks=ALONE,
        )
        in_memory = list(task.batches(0, 0))
        waited: list[float] = []

        def from_store(turn: int) -> None:
            began, wait = time.perf_counter(), 0.0
            batches = task.batches(0, 0)
            for _ in range(task.steps_per_epoch):
                asking = time.perf_counter()
                batch = next(batches)
                wait += time.perf_counter() - asking
                train(task.model, lambda batch=batch: task.loss(batch), bf16=True)  # type: ignore[misc]
            waited.append(wait / (time.perf_counter() - began))

        def from_memory(turn: int) -> None:
            for batch in in_memory:
                train(task.model, lambda batch=batch: task.loss(batch), bf16=True)  # type: ignore[misc]

        seconds = time_turns({"store": from_store, "memory": from_memory}, turns=turns, warm_ups=1)
    return {"store / memory, bf16": ratio(seconds, "store", "memory"), "waited": float(np.median(waited))}


def measure_memory(clips: int) -> dict[str, float]:
    """Bytes that a step keeps for its way back, weights apart, against the docs' formula."""
    aggregator, loop, batch = make_aggregator(), ConvLoop(CHANNELS, CLASSES), make_batch(VIDEOS, clips)
    maps = batch.dense(torch.float32)
    figures = {}
    for name, module, bf16, run in (
        ("float32", aggregator, False, lambda: aggregator(batch)),
        ("bf16", aggregator, True, lambda: aggregator(batch)),
        ("Conv3d loop", loop, False, lambda: loop(maps.permute(1, 0, 5, 2, 3, 4).contiguous())),
    ):
        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, own: set[int] = own, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            if tensor.ndim >= 3 and storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            logits = run()
        figures[name] = sum(kept.values()) / (VIDEOS * POSITIONS * CHANNELS * (2 if bf16 else 4))
        del logits
    return {**figures, "formula": 5.5 * (clips - 1) + 1}


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A third of the turns.")
def main(quick: bool) -> None:
    """Measure, print, and end with one JSON line."""
    keep_freed_memory()  # as the commands do; all contenders have it
    torch.manual_seed(0)
    turns = 5 if quick else 15
    result: dict[str, Any] = {"benchmark": "aggregate", "torch": torch.__version__, "cpu": platform.machine()}
    result["threads"] = torch.get_num_threads()
    for clips, share in ((8, 1), (32, 5)):
        result[f"training, N = {clips}"] = measure_training(clips, max(2, turns // share))
        result[f"streaming, N = {clips}"] = measure_streaming(clips, turns)
    result["loading"] = measure_loading(turns)
    result["values kept, over B·P·c, N = 8"] = measure_memory(8)
    for heading, figures in result.items():
        if not isinstance(figures, dict):
            print(f"{heading}: {figures}")
            continue
        print(f"\n{heading}")
        for name, figure in figures.items():
            print(f"  {name:<28}{figure:.3f}" if isinstance(figure, float) else f"  {name:<28}{figure}")
    print(json.dumps(result, default=vars))


if __name__ == "__main__":
    main()
