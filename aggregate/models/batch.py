"""A batch of videos whose clips come from several models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """N clips of each of B videos: one tensor per model, and the model and row of each clip.

    Fields:

        models    the models' names
        inputs    for each model (rows, l, h, w, c) maps, or (rows, K) logits; any floating type, or uint8
                  with scales
        model_of  (B, N) int64, an index into `models`; on the CPU, like `row_of`
        row_of    (B, N) int64, a row of that model's tensor
        labels    (B,) int64
        videos    (B,) int64, the videos' rows in the store
        scales    for uint8 maps: each video's scales (videos, c) float32, and each row's index into them,
                  (rows,) int64
    """

    models: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    model_of: Tensor
    row_of: Tensor
    labels: Tensor
    videos: Tensor
    scales: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for model in self.inputs:
            if (self.inputs[model].dtype == torch.uint8) != (model in self.scales):
                raise ValueError(
                    f"the batch's maps of {model}: uint8 comes with scales, and scales with uint8 only"
                )

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return all clips as one (B, N, …) tensor; the models' shapes must be equal.

        With one model whose rows are in order this is a view (a cast, if the type differs), otherwise one
        gather.
        """
        videos, clips = self.model_of.shape
        self._require_scaled()
        owner, rows = self.model_of.flatten(), self.row_of.flatten()
        first = self.inputs[self.models[int(owner[0])]]
        if bool((owner == owner[0]).all()) and _in_order(rows, first):
            return first.to(dtype).reshape(videos, clips, *first.shape[1:])
        out = torch.empty((videos * clips, *first.shape[1:]), dtype=dtype, device=first.device)
        for index in sorted(set(owner.tolist())):
            tensor = self.inputs[self.models[index]]
            places = (owner == index).nonzero().squeeze(1)
            wanted = rows[places]
            part = tensor if _in_order(wanted, tensor) else tensor[wanted.to(tensor.device)]
            out.index_copy_(0, places.to(out.device), part.to(dtype))
        return out.view(videos, clips, *first.shape[1:])

    def at(self, t: int) -> tuple[Tensor, str]:
        """Return the clips at time t as (B, …), and the one model that they all come from."""
        self._require_scaled()
        index = int(self.model_of[0, t])
        if not bool((self.model_of[:, t] == index).all()):
            raise ValueError(f"the clips at time {t} come from more than one model; step takes one at a time")
        tensor = self.inputs[self.models[index]]
        return tensor[self.row_of[:, t].to(tensor.device)], self.models[index]

    def map(self, function: Callable[[str, Tensor], Tensor]) -> ClipBatch:
        """Return the batch with `function(model, tensor)`, row by row, instead of each model's tensor."""
        self._require_scaled()
        return replace(self, inputs={model: function(model, tensor) for model, tensor in self.inputs.items()})

    def _require_scaled(self) -> None:
        if self.scales:
            raise ValueError("uint8 maps mean nothing without their scales; batch.to(device) applies them")

    def to(self, device: torch.device) -> ClipBatch:
        """Return the batch with its inputs and labels on `device`; the copy overlaps if they are pinned.

        uint8 maps are copied as they are and become floats there: float16 on a GPU, float32 on a CPU.
        """
        inputs = {model: tensor.to(device, non_blocking=True) for model, tensor in self.inputs.items()}
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        for model, (scales, scale_of) in self.scales.items():
            rows = scales.to(device, non_blocking=True)[scale_of.to(device, non_blocking=True)]
            inputs[model] = (inputs[model] * rows[:, None, None, None, :]).to(dtype)
        labels = self.labels.to(device, non_blocking=True)
        return replace(self, inputs=inputs, labels=labels, scales={})


def _in_order(rows: Tensor, tensor: Tensor) -> bool:
    return len(rows) == len(tensor) and torch.equal(rows, torch.arange(len(rows)))
