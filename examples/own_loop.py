"""A training loop of your own: ClipMaps is a plain dataset of the store's maps, and the rest is PyTorch.

python examples/own_loop.py kinetics.zarr
"""

from __future__ import annotations

import argparse

import torch
from faster.aggregate import ClipMaps
from torch import nn
from torch.utils.data import DataLoader


def main() -> None:
    """Train a linear layer on the mean of each video's maps; print its accuracy on the test part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store", help="a store of faster extract, with splits")
    parser.add_argument("--pattern", help='"1:7", "all-E", …; by default 1:7, or all-E with one model')
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    train = ClipMaps(args.store, pattern=args.pattern, part="train", seed=0)
    test = ClipMaps(args.store, pattern=args.pattern, part="test")
    channels = next(iter(train.map_shapes.values()))[-1]
    layer = nn.Linear(channels, len(train.class_names))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    for epoch in range(args.epochs):
        train.set_epoch(epoch)  # draws each video's clips anew
        for batch in DataLoader(train, batch_size=32, shuffle=True):
            pooled = batch["maps"].float().mean((1, 2, 3, 4))  # (B, N, l, h, w, c) to (B, c)
            loss = nn.functional.cross_entropy(layer(pooled), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")

    with torch.no_grad():
        batches = DataLoader(test, batch_size=32)
        right = [
            (layer(b["maps"].float().mean((1, 2, 3, 4))).argmax(1) == b["label"]).float() for b in batches
        ]
    print(f"top-1 of {len(test)} test videos: {torch.cat(right).mean():.1%}")


if __name__ == "__main__":
    main()
