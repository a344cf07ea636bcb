"""Backbones for tests: without memory, or with weights that leave no layer out."""

import torch
from faster.extract.backbones import Backbone, build
from torch import nn


def on_meta(name: str, num_classes: int | None = None) -> Backbone:
    """The backbone with shapes and no memory."""
    with torch.device("meta"):
        return build(name, num_classes).eval()


def randomised(name: str, num_classes: int | None = None, seed: int = 1) -> Backbone:
    """Random weights, norms and statistics. (In fresh networks the last norm of each block has scale 0.)"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build(name, num_classes)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, std=0.1)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
    return backbone.eval()
