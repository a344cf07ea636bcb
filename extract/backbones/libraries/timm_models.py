"""timm's image networks as cheap backbones, over one frame in eight: `timm:resnet18`.

The network takes the fifth frame of each eight. So l = L/8 as in the paper's networks, and a clip costs L/8
images.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ....errors import UsageError
from ..adapters import TEMPORAL_REDUCTION, LibraryBackbone
from .registry import require, unknown


class Image(LibraryBackbone):
    """An image network of timm, through its `forward_features` and `forward_head`.

    Frame size and normalisation are those of its published weights. Logits are the mean over the frames.
    """

    def __init__(self, network: nn.Module, num_classes: int | None) -> None:
        super().__init__(network)
        given: Any = network
        self.num_classes = num_classes
        self.channels = int(given.num_features)
        published = given.pretrained_cfg
        self.mean, self.std = tuple(published["mean"]), tuple(published["std"])
        self.size = int(published["input_size"][-1])
        classifier = published["classifier"]  # several, if the network was distilled
        self.classifier_key = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the frames' maps and the mean of their logits."""
        net: Any = self.network
        frames = x[:, :, TEMPORAL_REDUCTION // 2 :: TEMPORAL_REDUCTION]
        out = net.forward_features(frames.transpose(1, 2).flatten(0, 1))
        maps = self._places(out)
        maps = maps.reshape(len(x), -1, *maps.shape[1:])
        if self.num_classes is None:
            return maps, None
        return maps, net.forward_head(out).reshape(len(x), -1, self.num_classes).mean(1)

    def _places(self, out: Tensor) -> Tensor:
        """Return the output of `forward_features` as (n, h, w, c)."""
        if out.ndim == 4:
            return out if getattr(self.network, "output_fmt", "NCHW") == "NHWC" else out.movedim(1, -1)
        tokens = out[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
        side = round(tokens.shape[1] ** 0.5)
        if out.ndim != 3 or side * side != tokens.shape[1]:
            raise UsageError(
                f"{self.name} gives features of shape {tuple(out.shape)}, which are no map of places"
            )
        return tokens.reshape(len(tokens), side, side, -1)


def known_names() -> list[str]:
    """Return every network that timm has (thousands)."""
    return list(require("timm", "timm").list_models())


def build(name: str, num_classes: int | None) -> LibraryBackbone:
    """Return the network called `name`, freshly initialised. Raises UsageError without it or without timm."""
    timm = require("timm", "timm")
    if not timm.is_model(name):
        raise unknown(f"timm:{name}", timm.list_models())
    return Image(timm.create_model(name, pretrained=False, num_classes=num_classes or 0), num_classes)


def pretrained(name: str) -> str | None:
    """Return the URL of timm's own default weights."""
    published = require("timm", "timm").get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        return None
    return f"https://huggingface.co/{published.hf_hub_id}/resolve/main/model.safetensors"
