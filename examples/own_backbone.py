"""A backbone of your own: trained, run over your videos, and its maps aggregated.

    python examples/own_backbone.py videos

The commands take it too, in the folder of this file: faster extract videos --model own_backbone:two_layers
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from faster.aggregate import TrainConfig, train_agg
from faster.extract import ExtractConfig, extract
from faster.extract.backbones import Backbone
from faster.extract.train_backbone import TrainBackboneConfig, train_backbone
from torch import Tensor, nn

NAME = "own_backbone:two_layers"  # this file, and the function below


class TwoLayers(Backbone):
    """Two convolutions: clips (B, 3, L, H, W) to maps (B, L/8, H/16, W/16, 32), channels last."""

    channels = 32

    def __init__(self, num_classes: int | None) -> None:
        super().__init__()
        self.first = nn.Conv3d(3, 16, (4, 4, 4), stride=(4, 4, 4))
        self.second = nn.Conv3d(16, 32, (2, 4, 4), stride=(2, 4, 4))
        self.num_classes = num_classes
        self.fc = None if num_classes is None else nn.Linear(32, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The maps of normalised clips."""
        maps: Tensor = self.second(self.first(x).relu()).relu()
        return maps.permute(0, 2, 3, 4, 1)


def two_layers(num_classes: int | None) -> nn.Module:
    """What NAME stands for: the network, with a classifier for so many classes, or without."""
    return TwoLayers(num_classes)


def main() -> None:
    """Train it, extract its maps, train an aggregator on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("videos", help="a folder of videos, or a list")
    parser.add_argument("--out", type=Path, default=Path("example"), help="weights, store and run")
    parser.add_argument("--size", type=int, default=64, help="pixels of a frame's side")
    parser.add_argument("--clips", type=int, default=8, help="clips of each video")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # what happens, as the commands print it

    trained = train_backbone(
        TrainBackboneConfig(
            model=NAME,
            source=args.videos,
            out=str(args.out / "weights"),
            size=args.size,
            epochs=args.epochs,
        )
    )
    store = args.out / "own.zarr"
    extract(
        ExtractConfig(
            source=args.videos,
            models=(NAME,),
            weights=(trained.weights,),
            store=str(store),
            size=args.size,
            clips=args.clips,
        )
    )
    result = train_agg(
        TrainConfig(store=store, aggregator="gru", epochs=args.epochs, out=args.out / "own-run")
    )
    print(f"top-1 {result.report.metrics.top1:.1%}; run: {result.run}")


if __name__ == "__main__":  # the decoders are processes that import this file again
    main()
