"""Batches of mixed clips for the aggregators' tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from faster.aggregate.models.batch import ClipBatch

MODELS = ("dear", "cheap")
MAP_SHAPE = (2, 3, 3, 8)
NUM_CLASSES = 5


def make_batch(
    clips: int,
    *,
    videos: int = 3,
    shapes: dict[str, tuple[int, ...]] | None = None,
    models: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> ClipBatch:
    """`clips` clips of each video; `models[t]` is the model of time t. Rows lie in no order."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes or dict.fromkeys(MODELS, MAP_SHAPE)
    of_time = torch.tensor(models if models is not None else [int(t % 3 > 0) for t in range(clips)])
    model_of = of_time.expand(videos, clips).contiguous()
    row_of = torch.zeros(videos, clips, dtype=torch.int64)
    inputs = {}
    for index, model in enumerate(MODELS):
        rows = int((model_of == index).sum())
        row_of[model_of == index] = torch.randperm(rows, generator=generator)
        inputs[model] = torch.randn(rows, *shapes[model], dtype=dtype, generator=generator)
    labels = torch.randint(NUM_CLASSES, (videos,), generator=generator)
    return ClipBatch(
        models=MODELS,
        inputs=inputs,
        model_of=model_of,
        row_of=row_of,
        labels=labels,
        videos=torch.arange(videos),
    )
