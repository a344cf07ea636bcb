"""torchvision.models.video in small: the residual networks whole, the others with one block for all theirs."""

from types import SimpleNamespace

import torch
from torch import nn

WIDTH = 64
"""Of the residual networks' stems; the tests make it smaller."""


def conv_simple(inputs, outputs, mid, stride=1):
    return nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)


def conv_no_temporal(inputs, outputs, mid, stride=1):
    return nn.Conv3d(inputs, outputs, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)


def conv_2plus1d(inputs, outputs, mid, stride=1):
    return nn.Sequential(
        nn.Conv3d(inputs, mid, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(mid),
        nn.ReLU(),
        nn.Conv3d(mid, outputs, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, conv, stride):
        super().__init__()
        mid = inputs * outputs * 27 // (inputs * 9 + 3 * outputs)
        self.conv1 = nn.Sequential(conv(inputs, outputs, mid, stride), nn.BatchNorm3d(outputs), nn.ReLU())
        self.conv2 = nn.Sequential(conv(outputs, outputs, mid), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            strides = (1, stride, stride) if conv is conv_no_temporal else stride
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, strides, bias=False), nn.BatchNorm3d(outputs)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class VideoResNet(nn.Module):
    def __init__(self, convs, layers, stem, num_classes):
        super().__init__()
        self.stem = stem
        inputs = WIDTH
        for index, (conv, blocks) in enumerate(zip(convs, layers, strict=True)):
            outputs, stride = WIDTH << index, 1 if index == 0 else 2
            stage = [BasicBlock(inputs, outputs, conv, stride)]
            stage += [BasicBlock(outputs, outputs, conv, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*stage))
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.avgpool(x).flatten(1))


def basic_stem():
    return nn.Sequential(
        nn.Conv3d(3, WIDTH, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(WIDTH), nn.ReLU()
    )


def r2plus1d_stem():
    return nn.Sequential(
        nn.Conv3d(3, round(45 * WIDTH / 64), (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(round(45 * WIDTH / 64)),
        nn.ReLU(),
        nn.Conv3d(round(45 * WIDTH / 64), WIDTH, (3, 1, 1), 1, (1, 0, 0), bias=False),
        nn.BatchNorm3d(WIDTH),
        nn.ReLU(),
    )


def r3d_18(*, weights=None, num_classes=400):
    return VideoResNet([conv_simple] * 4, [2, 2, 2, 2], basic_stem(), num_classes)


def mc3_18(*, weights=None, num_classes=400):
    return VideoResNet([conv_simple] + [conv_no_temporal] * 3, [2, 2, 2, 2], basic_stem(), num_classes)


def r2plus1d_18(*, weights=None, num_classes=400):
    return VideoResNet([conv_2plus1d] * 4, [2, 2, 2, 2], r2plus1d_stem(), num_classes)


class S3D(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(3, 1024, (8, 32, 32), (8, 32, 32)), nn.BatchNorm3d(1024), nn.ReLU()
        )
        self.avgpool = nn.AvgPool3d((2, 7, 7), stride=1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv3d(1024, num_classes, 1))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x))).mean((2, 3, 4))


def s3d(*, weights=None, num_classes=400):
    return S3D(num_classes)


class PositionalEncoding(nn.Module):
    def __init__(self, channels, temporal_size, spatial_size):
        super().__init__()
        self.temporal_size, self.spatial_size = temporal_size, spatial_size
        self.class_token = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        return torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)


class MultiscaleBlock(nn.Module):
    """Attention over all tokens, of which every other in height and width goes on."""

    def __init__(self, channels):
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, 4, batch_first=True)

    def forward(self, x, thw):
        x = x + self.attn(x, x, x, need_weights=False)[0]
        t, h, w = thw
        kept = x[:, 1:].reshape(len(x), t, h, w, -1)[:, :, ::2, ::2]
        return torch.cat([x[:, :1], kept.flatten(1, 3)], dim=1), (t, h // 2, w // 2)


class MViT(nn.Module):
    def __init__(self, num_classes, channels=32):
        super().__init__()
        self.conv_proj = nn.Conv3d(3, channels, (3, 7, 7), (2, 16, 16), (1, 3, 3))
        self.pos_encoding = PositionalEncoding(channels, 8, (14, 14))
        self.blocks = nn.ModuleList([MultiscaleBlock(channels)])
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(channels, num_classes))

    def forward(self, x):
        x = self.pos_encoding(self.conv_proj(x).flatten(2).transpose(1, 2))
        thw = (self.pos_encoding.temporal_size, *self.pos_encoding.spatial_size)
        for block in self.blocks:
            x, thw = block(x, thw)
        return self.head(self.norm(x)[:, 0])


def mvit_v2_s(*, weights=None, num_classes=400):
    return MViT(num_classes)


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1)


class SwinTransformer3d(nn.Module):
    def __init__(self, num_classes, channels=48):
        super().__init__()
        self.patch_embed = nn.Sequential(nn.Conv3d(3, channels, (2, 32, 32), (2, 32, 32)), ChannelsLast())
        self.pos_drop = nn.Dropout(0.0)
        self.features = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.norm = nn.LayerNorm(channels)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.norm(self.features(self.pos_drop(self.patch_embed(x))))
        return self.head(self.avgpool(x.movedim(-1, 1)).flatten(1))


def swin3d_t(*, weights=None, num_classes=400):
    return SwinTransformer3d(num_classes)


def _weights(name):
    return SimpleNamespace(DEFAULT=SimpleNamespace(url=f"https://download.pytorch.org/models/{name}.pth"))


R3D_18_Weights, MC3_18_Weights, R2Plus1D_18_Weights = map(
    _weights, ("r3d_18-b3b3357e", "mc3_18-a90a0ba3", "r2plus1d_18-91a641e6")
)
S3D_Weights, MViT_V2_S_Weights, Swin3D_T_Weights = map(
    _weights, ("s3d-d76dad2f", "mvit_v2_s-ae3be167", "swin3d_t-7615ae03")
)
