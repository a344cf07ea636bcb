"""A backbone that is ready to run: norms folded, fixed batch shapes, float16 maps."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ....errors import UsageError, VideoError, WeightsError
from ....runtime.flop_counter import MapShape, gflops, meta_copy
from ....terminal.text import counted
from ...video.transforms import normalise
from .. import Backbone
from ..adapters import LibraryBackbone
from .precision import choose_precision
from .resnet3d import FastForward, fast_forward, has_onednn

DeviceMapsAndLogits = tuple[Tensor, Tensor | None]


class FrozenBackbone:
    """A copy of a backbone (`.backbone`) that only infers: evaluation mode, no gradients, batch norms folded.

    Clips run in passes of one fixed number of clips, and the last pass is padded. So the kernels always see
    the same shapes, and a clip's result has the same bits with any other clips in the call. Another pass
    size, device or number of threads may change the last bits.

    Args:
        backbone: is not changed.
        device: where it runs.
        batch_clips: the most clips of a pass; on the CPU a pass has fewer if their maps are large.
        precision: one of `PRECISIONS`; auto is bf16 if the device has it in hardware and the network takes
            it.
        compiled: on a GPU, compile at the first pass of each shape. If that fails, a RuntimeWarning is given
            and the network runs uncompiled. The CPU's form needs no compilation.

    Attributes:
        precision: the type that multiplications round to: "bf16", "float32", or "tf32" if a GPU is set to it.

    Raises:
        UsageError: batch_clips is below 1, or the precision is unknown.
        WeightsError: a weight is not finite.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        device: str | torch.device = "cpu",
        batch_clips: int = 8,
        precision: str = "float32",
        compiled: bool = True,
    ) -> None:
        if batch_clips < 1:
            raise UsageError(f"batch_clips is {batch_clips}; at least 1 is needed")
        self.device = torch.device(device)
        self.batch_clips = batch_clips
        self.precision = choose_precision(precision, self.device, takes_bf16=backbone.takes_bf16)
        frozen = copy.deepcopy(backbone).eval().requires_grad_(False)
        fold_norms(frozen)
        for name, value in frozen.state_dict().items():
            if not bool(torch.isfinite(value).all()):  # its maps may still be finite: a fused ReLU drops NaN
                raise WeightsError(
                    f"the network's {name} is not finite, or its norm's variance is below zero"
                )
        self.backbone = frozen.to(self.device)
        for parameter in frozen.parameters():
            if parameter.ndim == 5:  # an image network's have four dimensions
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        self._warm: set[tuple[int, int]] = set()  # (clip_frames, size)
        self._apart: set[tuple[int, int]] = set()
        self._forward = _forward(frozen, self.device, self.precision)
        self._compiled = _compile(self._forward) if compiled and self.device.type == "cuda" else None

    def __call__(
        self, clips: NDArray[np.uint8] | Tensor, *, first_clip: int = 0
    ) -> tuple[NDArray[np.float16], NDArray[np.float32] | None]:
        """Return maps and logits of clips: (n, L, H, W, 3) uint8 → (n, l, h, w, c) float16, (n, K) float32.

        Logits are None if the backbone has no classifier. Raises VideoError if a value is not finite or does
        not fit float16 (±65504); it names the first such clip, counted from `first_clip`. Raises UsageError
        for another type or shape.
        """
        frames = torch.as_tensor(clips)
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or not len(frames):
            raise UsageError(
                f"clips are {frames.dtype} {tuple(frames.shape)}; uint8 (n, L, H, W, 3), n ≥ 1, are needed"
            )
        each = self.pass_clips(frames.shape[1], max(frames.shape[2:4]))
        batches = [
            self._run(frames[start : start + each], first_clip + start, each)
            for start in range(0, len(frames), each)
        ]
        maps = np.concatenate([batch_maps for batch_maps, _ in batches])
        logits = [batch_logits for _, batch_logits in batches if batch_logits is not None]
        return maps, np.concatenate(logits) if logits else None

    def pass_clips(self, clip_frames: int, size: int) -> int:
        """Return the clips per pass, at most `batch_clips`.

        The clips have `clip_frames` frames of size×size pixels.
        """
        if self.device.type != "cpu" or not isinstance(self._forward, FastForward):
            return self.batch_clips
        return min(self.batch_clips, self._forward.clips_in_cache(clip_frames, size))

    def warm_up(self, clip_frames: int, size: int) -> None:
        """Run one pass of black clips of `clip_frames` frames of size×size pixels, once per shape.

        The first pass of a shape packs weights or compiles.
        """
        if (clip_frames, size) in self._warm:
            return
        self._warm.add((clip_frames, size))
        black = torch.zeros(1, clip_frames, size, size, 3, dtype=torch.uint8, device=self.device)
        self._run(black, 0, self.pass_clips(clip_frames, size))

    def require_clips_apart(self, clip_frames: int, size: int) -> None:
        """Refuse a network whose result for a clip depends on the other clips or on chance.

        It is tried on noise, once per shape. The networks of this package and of the libraries pass. Raises
        UsageError.
        """
        known = isinstance(self._forward, FastForward) or isinstance(self.backbone, LibraryBackbone)
        if known or (clip_frames, size) in self._apart:
            return
        self._apart.add((clip_frames, size))
        each = self.pass_clips(clip_frames, size)
        rng = np.random.default_rng(0)
        noise = rng.integers(256, size=(2 * each - 1, clip_frames, size, size, 3), dtype=np.uint8)
        beside = [noise[:each], np.concatenate([noise[:1], noise[each:]])]
        one, other = (self._run(torch.from_numpy(clips), 0, each) for clips in beside)
        if not all(
            _alike(a[0], b[0]) for a, b in zip(one, other, strict=True) if a is not None and b is not None
        ):
            raise UsageError(
                "the network gives a clip other values beside other clips, or another time; maps must be of "
                "the clip alone: in eval() it must neither norm over the batch nor drop at random"
            )

    def linear_head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return weight (K, c) and bias (K,) of the classifier.

        None if the classifier is not one linear layer on the mean map.
        """
        if type(self.backbone).classify is not Backbone.classify or not isinstance(
            self.backbone.fc, nn.Linear
        ):
            return None
        weight, bias = self.backbone.fc.weight.float().cpu(), self.backbone.fc.bias
        return weight.numpy(), (
            np.zeros(len(weight), np.float32) if bias is None else bias.float().cpu().numpy()
        )

    def map_shape(self, clip_frames: int, size: int) -> MapShape:
        """Return (l, h, w, c) of the map of a clip of `clip_frames` frames of size×size pixels."""
        features = meta_copy(self.backbone).features
        clip = torch.empty(1, 3, clip_frames, size, size, device="meta")
        with torch.no_grad():
            _, l, h, w, c = features(clip).shape  # type: ignore[operator]  # noqa: E741 - the paper's letter
        return (l, h, w, c)

    def gflops(self, clip_frames: int, size: int) -> float:
        """Return the GFLOPs of one clip's map, counted as in `faster.runtime.flop_counter`.

        The clip has `clip_frames` frames of size×size pixels.
        """
        return gflops(self.backbone.features, torch.empty(1, 3, clip_frames, size, size, device="meta"))

    @torch.inference_mode()
    def _run(
        self, frames: Tensor, first: int, each: int
    ) -> tuple[NDArray[np.float16], NDArray[np.float32] | None]:
        """Run a pass of at most `each` clips, padded to `each`; `first` is the first clip's index."""
        n = len(frames)
        if n < each:
            frames = torch.cat([frames, frames[-1:].expand(each - n, *frames.shape[1:])])
        # Pixels cross to the device as bytes and become floats there.
        maps, logits = self._compute(frames.to(self.device, non_blocking=True))
        half = maps[:n].to(torch.float16)
        if not bool(half.abs().amax() < torch.inf):  # False for NaN too
            raise VideoError(_not_finite(maps[:n], first))
        if logits is not None and logits.shape != (len(frames), self.backbone.num_classes):
            raise UsageError(
                f"the network gives logits {tuple(logits.shape)} of {counted(len(frames), 'clip')}, and "
                "says that it has "
                f"{self.backbone.num_classes} classes"
            )
        if logits is not None and not bool(torch.isfinite(logits[:n]).all()):
            raise VideoError(
                f"the logits of clips {first} to {first + n - 1} hold values that are not finite"
            )
        return half.cpu().contiguous().numpy(), None if logits is None else logits[:n].float().cpu().numpy()

    def _compute(self, frames: Tensor) -> DeviceMapsAndLogits:
        if self._compiled is not None:
            try:
                return self._compiled(frames)
            except torch.OutOfMemoryError:
                raise
            except (
                RuntimeError
            ) as error:  # any error of the compiler; the network's own errors appear again below
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                warnings.warn(
                    f"the backbone runs uncompiled, and slower: {reason}", RuntimeWarning, stacklevel=2
                )
                self._compiled = None
        maps, logits = self._forward(frames)
        return maps, logits


class _AsItIs(nn.Module):
    """Any network by its own forward pass: pixels (B, L, H, W, 3) uint8 → maps and logits."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.backbone = backbone if dtype is torch.float32 else copy.deepcopy(backbone).to(dtype)

    def forward(self, frames: Tensor) -> DeviceMapsAndLogits:
        x = normalise(frames, self.backbone.mean, self.backbone.std).to(self._dtype)
        return self.backbone.maps_and_logits(x.contiguous(memory_format=torch.channels_last_3d))


def _forward(backbone: Backbone, device: torch.device, precision: str) -> FastForward | _AsItIs:
    """Return the fastest form of a folded backbone on a device."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    onednn = device.type == "cpu" and has_onednn(dtype)
    return fast_forward(backbone, dtype=dtype, onednn=onednn) or _AsItIs(backbone, dtype)


def _compile(forward: nn.Module) -> Callable[[Tensor], DeviceMapsAndLogits]:
    """Compile the module for each shape at its first call. The disk cache keeps the result for other runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faster" / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    return torch.compile(forward, dynamic=False)


def fold_norms(module: nn.Module) -> None:
    """Fold each batch norm that directly follows a convolution in an `nn.Sequential` into it, in place.

    The module must be in evaluation mode. Other norms, as in a user's network, stay: only in a sequence is it
    certain that nothing else reads the convolution's output.
    """
    for parent in list(module.modules()):
        if not isinstance(parent, nn.Sequential) or type(parent).forward is not nn.Sequential.forward:
            continue
        # Not named_children: it leaves out the second place of a shared module and so makes false neighbours.
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent._modules.items())):
            if type(conv) is nn.Conv3d and type(norm) is nn.BatchNorm3d and norm.track_running_stats:
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())


def _alike(one: NDArray[np.floating], other: NDArray[np.floating]) -> bool:
    """Whether two results are equal but for the order of sums, relative to their scale."""
    scale = float(np.abs(one).max())
    return bool(np.abs(one.astype(np.float32) - other).max() <= 1e-2 * scale)


def _not_finite(maps: Tensor, first: int) -> str:
    """Describe the error in maps that do not all fit float16."""
    largest = maps.abs().amax(dim=(1, 2, 3, 4))
    clip = int((~(largest.to(torch.float16) < torch.inf)).nonzero()[0])
    value = float(largest[clip])
    if np.isfinite(value):
        return (
            f"the map of clip {first + clip} overflows float16: its largest value is {value:.4g}, "
            "float16 ends at 65504"
        )
    return f"the map of clip {first + clip} holds values that are not finite"
