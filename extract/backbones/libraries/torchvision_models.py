"""torchvision's video networks as backbones: `torchvision:r2plus1d_18`.

Each runs the layers of its own forward pass; the map is the input of its classifier's pooling. Frame size,
normalisation and frame rate follow the documentation of torchvision's Kinetics-400 weights: for videos of 30
frames a second, a stride of 2 gives 15 frames a second, and a stride of 4 gives 7.5.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..adapters import LibraryBackbone
from .registry import require, unknown

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Video(LibraryBackbone):
    """A network whose classifier is the module called `head`, or a sequence that ends in it."""

    head = "fc"
    frame_stride = 2

    def __init__(self, network: nn.Module, num_classes: int | None) -> None:
        super().__init__(network)
        self.num_classes = num_classes
        self.channels = _inputs(getattr(network, self.head))
        self.classifier_key = _classifier_key(network, self.head)
        if num_classes is None:
            setattr(network, self.head, nn.Identity())

    def logits(self, pooled: Tensor) -> Tensor | None:
        """Return the head's output; None without a head."""
        return None if self.num_classes is None else getattr(self.network, self.head)(pooled)


class VideoResNet(_Video):
    """r3d_18, mc3_18 and r2plus1d_18 of Tran et al. [36]: 16 frames of 112×112.

    l = L/8; mc3_18 has l = L, averaged to L/8.
    """

    clip_frames, size = 16, 112

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output of layer4, and fc of its mean."""
        net: Any = self.network
        maps = net.layer4(net.layer3(net.layer2(net.layer1(net.stem(x)))))
        return maps.movedim(1, -1), self.logits(net.avgpool(maps).flatten(1))


class S3D(_Video):
    """S3D: 16 frames or more, of 224×224 pixels or more: its last average pool needs maps of 7×7."""

    head, size = "classifier", 224

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output of `features`, and the mean of the classifier over its pooled places."""
        net: Any = self.network
        maps = net.features(x)
        scores = self.logits(net.avgpool(maps))
        return maps.movedim(1, -1), None if scores is None else scores.mean((2, 3, 4))


class MViT(_Video):
    """MViTv2-S: exactly 16 frames of 224×224.

    The map comes from its patch tokens, the logits from its class token.
    """

    head, frame_stride = "head", 4
    clip_frames, size = 16, 224
    fixed_frames = fixed_size = True
    mean, std = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the tokens after the last norm, folded back, and the head of the class token."""
        net: Any = self.network
        tokens = net.pos_encoding(net.conv_proj(x).flatten(2).transpose(1, 2))
        places = (net.pos_encoding.temporal_size, *net.pos_encoding.spatial_size)
        for block in net.blocks:
            tokens, places = block(tokens, places)
        tokens = net.norm(tokens)
        return tokens[:, 1:].reshape(len(x), *places, -1), self.logits(tokens[:, 0])


class Swin3D(_Video):
    """Video Swin-T: 32 frames of 224×224. Attention is in windows, so other lengths and sizes run too."""

    head = "head"
    clip_frames, size = 32, 224
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output of the last norm, and the head of its mean."""
        net: Any = self.network
        maps = net.norm(net.features(net.pos_drop(net.patch_embed(x))))
        return maps, self.logits(maps.mean((1, 2, 3)))


_KINDS: dict[str, type[_Video]] = {
    "r3d_18": VideoResNet,
    "mc3_18": VideoResNet,
    "r2plus1d_18": VideoResNet,
    "s3d": S3D,
    "mvit_v2_s": MViT,
    "swin3d_t": Swin3D,
}


def known_names() -> list[str]:
    """Return the possible names."""
    return sorted(_KINDS)


def build(name: str, num_classes: int | None) -> LibraryBackbone:
    """Return the network called `name`, freshly initialised.

    Raises UsageError if it does not exist or torchvision is not installed.
    """
    if name not in _KINDS:
        raise unknown(f"torchvision:{name}", _KINDS)
    video = require("torchvision.models.video", "torchvision")
    network = getattr(video, name)(weights=None, num_classes=num_classes or 400)
    return _KINDS[name](network, num_classes)


def pretrained(name: str) -> str | None:
    """Return the URL of torchvision's own weights for Kinetics-400."""
    video = require("torchvision.models.video", "torchvision")
    weights = next(
        (value for key, value in vars(video).items() if key.lower() == f"{name}_weights".lower()), None
    )
    return None if weights is None else str(weights.DEFAULT.url)


def _inputs(head: nn.Module) -> int:
    """Return the input channels of the classifier's last layer."""
    layer = list(head.modules())[-1]
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


def _classifier_key(network: nn.Module, head: str) -> str:
    """Return the name of the classifier's weight in the network's state dict."""
    return next(
        name for name in network.state_dict() if name.startswith(f"{head}.") and name.endswith(".weight")
    )
