"""Average pooling: the mean of the clips' softmax scores (FASTER §3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....runtime.flop_counter import MapShape
from ..base import Aggregator, pool
from ..batch import ClipBatch


class Average(Aggregator[tuple[Tensor, int]]):
    """Each clip is scored by its own model; the video's scores are their mean.

    With `reads="logits"` the scores are the backbones' own, and there is nothing to train. Otherwise each
    model has a linear head on its pooled maps, trained clip by clip, so models may differ in shape.

    The state is the log of the sum of the scores (B, K), and their number. The logits are the log of the
    mean, so softmax(logits) is the mean.
    """

    name = "average"
    reads_pooled = True
    scores_clips = True
    recurrent = False
    any_shape = True
    _like: Tensor

    def __init__(
        self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float, reads: str = "maps"
    ) -> None:
        nn.Module.__init__(self)  # no common shape and no shared layer
        self.reads = reads
        self.num_classes = num_classes
        self.dropout = nn.Dropout(dropout)
        self._keys = {model: f"head{index}" for index, model in enumerate(sorted(map_shapes))}
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # type and device without weights
        self.heads = nn.ModuleDict()
        if reads == "maps":
            for model, key in self._keys.items():
                self.heads[key] = nn.Linear(map_shapes[model][3], num_classes)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of its computations."""
        return self._like.dtype

    def head(self, model: str) -> nn.Linear:
        """Return a model's linear head, if it reads maps."""
        head = self.heads[self._keys[model]]
        assert isinstance(head, nn.Linear)
        return head

    def clip_logits(self, model: str, x: Tensor) -> Tensor:
        """Return the class logits (rows, K) of clips of one model."""
        if self.reads == "logits":
            return x.to(self.dtype)
        logits: Tensor = self.head(model)(self.dropout(pool(x, self.dtype)))
        return logits

    def init(self, x0: Tensor, model0: str) -> tuple[Tensor, int]:
        """Return the first clip's scores."""
        return F.log_softmax(self.clip_logits(model0, x0), dim=-1), 1

    def step(self, state: tuple[Tensor, int], x: Tensor, model: str) -> tuple[Tensor, int]:
        """Add one clip's scores, in logs, so that none is lost to underflow."""
        log_sum, count = state
        return torch.logaddexp(log_sum, F.log_softmax(self.clip_logits(model, x), dim=-1)), count + 1

    def readout(self, state: tuple[Tensor, int]) -> Tensor:
        """Return the log of the mean of the scores."""
        log_sum, count = state
        return log_sum - log_sum.new_full((), count).log()  # Python's log would fix the count in an export

    def forward(self, batch: ClipBatch) -> Tensor:
        """Return the log of the mean of all clips' scores."""
        logits = batch.map(self.clip_logits).dense(self.dtype)
        return F.log_softmax(logits, dim=-1).logsumexp(1) - math.log(logits.shape[1])

    def losses(self, batch: ClipBatch, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the clips' own softmax loss (B,): the mean over each model's clips, summed over models."""
        logits = batch.map(self.clip_logits).dense(self.dtype)
        videos, clips = logits.shape[:2]
        losses = F.cross_entropy(
            logits.flatten(0, 1),
            batch.labels.repeat_interleave(clips),
            reduction="none",
            label_smoothing=label_smoothing,
        ).view(videos, clips)
        owners = F.one_hot(batch.model_of, len(batch.models)).to(losses)  # (B, N, models)
        return (losses[..., None] * owners / owners.sum(1, keepdim=True).clamp(min=1)).sum((1, 2))

    def step_gflops(self, map_shape: MapShape) -> float:
        """The head's product; 0 if it reads the backbone's own logits."""
        return map_shape[3] * self.num_classes / 1e9 if self.reads == "maps" else 0.0

    def gflops(self, clips: int, map_shape: MapShape) -> float:
        """Every clip goes through its head, also the first one."""
        return clips * self.step_gflops(map_shape)

    def video_gflops(self, map_shapes: Mapping[str, MapShape], models: Sequence[str]) -> float:
        """Each clip's own head."""
        return sum(self.step_gflops(map_shapes[model]) for model in models)


def reference(module: Average, x: Tensor, models: list[str]) -> Tensor:
    """Compute the definition, clip by clip: x (B, N, …), `models` the model of each time; logits (B, K)."""
    scores = []
    for t, model in enumerate(models):
        clip = x[:, t]
        if module.reads == "maps":
            head = module.head(model)
            vector = F.adaptive_avg_pool3d(clip.movedim(-1, 1), 1).flatten(1)
            clip = F.linear(vector, head.weight, head.bias)
        scores.append(torch.softmax(clip, dim=-1))
    return torch.log(torch.stack(scores).mean(0))
