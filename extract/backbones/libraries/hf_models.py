"""Video transformers of Hugging Face as backbones: VideoMAE and V-JEPA 2, by repository or folder.

`hf:MCG-NJU/videomae-base-finetuned-kinetics` · `hf:./my-videomae`. The name is a checkpoint: its config.json
defines the network, and its model.safetensors are the default weights.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ....errors import UsageError, WeightsError
from ..adapters import LibraryBackbone
from .registry import require
from .torchvision_models import IMAGENET_MEAN, IMAGENET_STD

EXTRA = "transformers"
PRETRAINING_ONLY = ("decoder.", "encoder_to_decoder.", "mask_token")


class VideoTransformer(LibraryBackbone):
    """A transformer over tubelets of frames. Its tokens are folded back into a map.

    The config sets frame size and clip length. The stride is four frames, as for VideoMAE on Kinetics-400.
    """

    frame_stride = 4
    fixed_size = True
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    classifier_key = "classifier.weight"

    def __init__(self, network: nn.Module, config: Any, num_classes: int | None) -> None:
        super().__init__(network)
        self.num_classes = num_classes
        self.channels = int(config.hidden_size)
        self.clip_frames, self.size = _clip_of(config)
        side = self.size // config.patch_size
        self._grid = (side, side)
        names = [str(config.id2label[i]) for i in sorted(config.id2label)] if num_classes else []
        if len(names) == num_classes and names != [f"LABEL_{i}" for i in range(len(names))]:
            self.class_names = tuple(names)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last layer's tokens, folded back, and the classifier's logits."""
        tokens, logits = self.tokens_and_logits(x.transpose(1, 2).contiguous())
        return tokens.reshape(len(x), -1, *self._grid, self.channels), logits

    def translate(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the state as transformers itself does on loading: its older versions used other names.

        The parts that only pretraining needs, such as VideoMAE's decoder, are left out.
        """
        transformers, kind = require("transformers", EXTRA), cast(Any, type(self.network))
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # what does not fit is reported by an error
        try:
            loaded, told = kind.from_pretrained(
                None,
                config=self.network.config,
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        finally:
            transformers.logging.set_verbosity(verbosity)
        fitted = {
            name: value for name, value in loaded.state_dict().items() if name not in told["missing_keys"]
        }
        for name, shape, _ in told["mismatched_keys"]:
            fitted[name] = torch.empty(shape)  # for the message: a shape that does not fit
        return fitted | {
            name: torch.empty(0) for name in told["unexpected_keys"] if not name.startswith(PRETRAINING_ONLY)
        }

    @abstractmethod
    def tokens_and_logits(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last layer's tokens (B, tokens, c) and logits (B, K) for frames (B, L, 3, H, W)."""


class VideoMAE(VideoTransformer):
    """VideoMAE, with its classifier or as pretrained. Its position embeddings fix the clip length."""

    fixed_frames = True

    def tokens_and_logits(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run as VideoMAEForVideoClassification does: the classifier of the tokens' normalised mean."""
        net: Any = self.network
        if self.num_classes is None:
            return net(frames).last_hidden_state, None
        tokens = net.videomae(frames).last_hidden_state
        pooled = tokens[:, 0] if net.fc_norm is None else net.fc_norm(tokens.mean(1))
        return tokens, net.classifier(pooled)


class VJEPA2(VideoTransformer):
    """V-JEPA 2's encoder, with or without a fine-tuned checkpoint's attentive classifier; any clip length."""

    def tokens_and_logits(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run as VJEPA2ForVideoClassification does, without the predictor."""
        net: Any = self.network
        if self.num_classes is None:
            return net(frames, skip_predictor=True).last_hidden_state, None
        tokens = net.vjepa2(frames, skip_predictor=True).last_hidden_state
        return tokens, net.classifier(net.pooler(tokens))


_KINDS: dict[str, tuple[type[VideoTransformer], str, str]] = {
    # by the config's model_type: class without and with a classifier
    "videomae": (VideoMAE, "VideoMAEModel", "VideoMAEForVideoClassification"),
    "vjepa2": (VJEPA2, "VJEPA2Model", "VJEPA2ForVideoClassification"),
}


def known_names() -> list[str]:
    """Return no names: any repository or folder with such a checkpoint is allowed."""
    return []


def build(name: str, num_classes: int | None) -> LibraryBackbone:
    """Return the network of the checkpoint called `name`, freshly initialised; only its config.json is read.

    Raises UsageError if the checkpoint does not exist or is of another kind, or if transformers is not
    installed.
    """
    transformers = require("transformers", EXTRA)
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"hf:{name} has no config to be read: {_first_line(error)}") from error
    if config.model_type not in _KINDS:
        raise UsageError(
            f"hf:{name} is a {config.model_type}; those that can be named are {' and '.join(_KINDS)}"
        )
    adapter, bare, classifying = _KINDS[config.model_type]
    if num_classes is not None and config.num_labels != num_classes:
        config.num_labels = num_classes
    network = getattr(transformers, bare if num_classes is None else classifying)(config)
    return adapter(network, config, num_classes)


def pretrained(name: str) -> Path:
    """Return the checkpoint's model.safetensors: from its folder, or from the hub by the library's cache."""
    transformers = require("transformers", EXTRA)
    try:
        return Path(transformers.utils.cached_file(name, "model.safetensors"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"hf:{name} has no model.safetensors to be had: {_first_line(error)}") from error


def _clip_of(config: Any) -> tuple[int, int]:
    """Return (L, pixels of a frame's side)."""
    if config.model_type == "vjepa2":
        return int(config.frames_per_clip), int(config.crop_size)
    return int(config.num_frames), int(config.image_size)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
