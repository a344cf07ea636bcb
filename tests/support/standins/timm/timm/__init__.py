"""A stand-in for timm: one network of each layout that `forward_features` has. See `libraries.py`."""

from types import SimpleNamespace

import torch
from torch import nn

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Convolutional(nn.Module):
    """As resnet18: features are (n, c, h, w), the classifier is `fc`."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_features = 512
        self.pretrained_cfg = {**IMAGENET, "input_size": (3, 224, 224), "classifier": "fc"}
        self.conv1 = nn.Conv2d(3, 512, 32, 32)
        self.fc = nn.Linear(512, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x):
        return self.conv1(x).relu()

    def forward_head(self, x):
        return self.fc(x.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class ChannelsLast(nn.Module):
    """As swin_tiny_patch4_window7_224: features are (n, h, w, c)."""

    output_fmt = "NHWC"

    def __init__(self, num_classes):
        super().__init__()
        self.num_features = 24
        self.pretrained_cfg = {**IMAGENET, "input_size": (3, 224, 224), "classifier": "head.fc"}
        self.patch_embed = nn.Conv2d(3, 24, 32, 32)
        self.head = nn.Module()
        self.head.fc = nn.Linear(24, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x):
        if x.shape[-1] != 224:
            raise AssertionError(f"Input height ({x.shape[-1]}) doesn't match model (224).")
        return self.patch_embed(x).movedim(1, -1)

    def forward_head(self, x):
        return self.head.fc(x.mean((1, 2)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Tokens(nn.Module):
    """As vit_tiny_patch16_224: features are (n, 1 + places, c), the first one for the classifier."""

    num_prefix_tokens = 1

    def __init__(self, num_classes):
        super().__init__()
        self.num_features = 16
        self.pretrained_cfg = {
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "input_size": (3, 64, 64),
            "classifier": "head",
        }
        self.patch_embed = nn.Conv2d(3, 16, 16, 16)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.mix = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x):
        places = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), places], dim=1)
        return tokens + self.mix(tokens, tokens, tokens, need_weights=False)[0]

    def forward_head(self, x):
        return self.head(x[:, 0])

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


_MODELS = {
    "resnet18": Convolutional,
    "swin_tiny_patch4_window7_224": ChannelsLast,
    "vit_tiny_patch16_224": Tokens,
}


def list_models():
    return sorted(_MODELS)


def is_model(name):
    return name in _MODELS


def create_model(name, *, pretrained, num_classes):
    assert not pretrained
    return _MODELS[name](num_classes)


def get_pretrained_cfg(name):
    return SimpleNamespace(hf_hub_id=f"timm/{name}.a1_in1k" if name == "resnet18" else None)
