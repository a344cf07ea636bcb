"""A backbone made ready to run: norms folded, fixed batch shapes, float16 maps."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UsageError, VideoError
from ..flops import MapShape, gflops, meta_copy
from .backbones import Backbone
from .transforms import normalise


class FrozenBackbone:
    """A copy of a backbone (`.backbone`) that only infers: evaluation mode, no gradients, batch norms folded.

    Clips run in batches of exactly `batch_clips`, the last one padded, so that the shapes that the kernels see never
    change and a clip's result has the same bits whatever else is in the call. Another batch size, device or number
    of threads may change last bits.
    """

    def __init__(
        self, backbone: Backbone, *, device: str | torch.device = "cpu", batch_clips: int = 8
    ) -> None:
        if batch_clips < 1:
            raise UsageError(f"batch_clips is {batch_clips}; at least 1 is needed")
        self.device = torch.device(device)
        self.batch_clips = batch_clips
        frozen = copy.deepcopy(backbone).eval().requires_grad_(False)
        fold_norms(frozen)
        self.backbone = frozen.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def __call__(
        self, clips: NDArray[np.uint8] | Tensor
    ) -> tuple[NDArray[np.float16], NDArray[np.float32] | None]:
        """Maps and logits of clips: (n, L, H, W, 3) uint8 → (n, l, h, w, c) float16, (n, K) float32.

        Logits are None where the backbone has no classifier. Raises VideoError where a value is not finite or does not
        fit float16 (±65504), naming the first such clip; UsageError for another type or shape.
        """
        frames = torch.as_tensor(clips)
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or not len(frames):
            raise UsageError(
                f"clips are {frames.dtype} {tuple(frames.shape)}; uint8 (n, L, H, W, 3), n ≥ 1, are needed"
            )
        batches = [
            self._run(frames[start : start + self.batch_clips], start)
            for start in range(0, len(frames), self.batch_clips)
        ]
        maps = np.concatenate([batch_maps for batch_maps, _ in batches])
        logits = [batch_logits for _, batch_logits in batches if batch_logits is not None]
        return maps, np.concatenate(logits) if logits else None

    @property
    def precision(self) -> str:
        """What multiplications round to: "float32", or "tf32" where the GPU's convolutions are set to it."""
        return "tf32" if self.device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"

    def linear_head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Weight (K, c) and bias (K,) of the classifier; None where it is not one linear layer on the mean map."""
        if type(self.backbone).classify is not Backbone.classify or not isinstance(
            self.backbone.fc, nn.Linear
        ):
            return None
        weight, bias = self.backbone.fc.weight.float().cpu(), self.backbone.fc.bias
        return weight.numpy(), (
            np.zeros(len(weight), np.float32) if bias is None else bias.float().cpu().numpy()
        )

    def map_shape(self, clip_frames: int, size: int) -> MapShape:
        """(l, h, w, c) of the map of a clip of `clip_frames` frames of size×size pixels."""
        features = meta_copy(self.backbone).features
        clip = torch.empty(1, 3, clip_frames, size, size, device="meta")
        with torch.no_grad():
            _, l, h, w, c = features(clip).shape  # type: ignore[operator]  # noqa: E741 - the paper's letter
        return (l, h, w, c)

    def gflops(self, clip_frames: int, size: int) -> float:
        """GFLOPs of the map of a clip of `clip_frames` frames of size×size pixels, as `faster.flops` counts."""
        return gflops(self.backbone.features, torch.empty(1, 3, clip_frames, size, size, device="meta"))

    @torch.inference_mode()
    def _run(self, frames: Tensor, first: int) -> tuple[NDArray[np.float16], NDArray[np.float32] | None]:
        """One batch of at most `batch_clips` clips, of which `first` is the first one's place in the call."""
        n = len(frames)
        if n < self.batch_clips:
            frames = torch.cat([frames, frames[-1:].expand(self.batch_clips - n, *frames.shape[1:])])
        # Pixels cross to the device as bytes and become floats there.
        x = normalise(frames.to(self.device, non_blocking=True), self.backbone.mean, self.backbone.std)
        maps = self.backbone.features(x.contiguous(memory_format=torch.channels_last_3d))
        logits = self.backbone.classify(maps)
        half = maps[:n].to(torch.float16)
        if not bool(torch.isfinite(half).all()):
            raise VideoError(_not_finite(maps[:n], first))
        if logits is not None and not bool(torch.isfinite(logits[:n]).all()):
            raise VideoError(
                f"the logits of clips {first} to {first + n - 1} hold values that are not finite"
            )
        return half.cpu().contiguous().numpy(), None if logits is None else logits[:n].float().cpu().numpy()


def fold_norms(module: nn.Module) -> None:
    """Fold, in place, each batch norm that directly follows a convolution in an `nn.Sequential` into it.

    The module must be in evaluation mode. Other norms, as of a network of the user's own, stay as they are: only in a
    sequence is it certain that nothing else reads the convolution's output.
    """
    for parent in list(module.modules()):
        if not isinstance(parent, nn.Sequential) or type(parent).forward is not nn.Sequential.forward:
            continue
        # Not named_children, which leaves out a module's second place and so makes false neighbours.
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent._modules.items())):
            if type(conv) is nn.Conv3d and type(norm) is nn.BatchNorm3d and norm.track_running_stats:
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())


def _not_finite(maps: Tensor, first: int) -> str:
    """What is wrong with maps of which some do not fit float16."""
    largest = maps.abs().amax(dim=(1, 2, 3, 4))
    clip = int((~(largest.to(torch.float16) < torch.inf)).nonzero()[0])
    value = float(largest[clip])
    if np.isfinite(value):
        return f"the map of clip {first + clip} overflows float16: its largest value is {value:.4g}, float16 ends at 65504"
    return f"the map of clip {first + clip} holds values that are not finite"
