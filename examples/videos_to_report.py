"""Your own videos to a report: train two backbones, extract their maps, try mixtures, write one page.

    python examples/videos_to_report.py videos

`videos` holds class folders below train/ and test/, or is in any other form that docs/sources.md names.
The networks are narrow and the pictures small, for a first try on a CPU; the options make them larger.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from faster.aggregate import Grid, SweepConfig, TrainConfig, run_sweep, write_report
from faster.extract import ExtractConfig, extract
from faster.extract.train_backbone import TrainBackboneConfig, train_backbone


def main() -> None:
    """From videos to report.html."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("videos", help="a folder of videos, or a list")
    parser.add_argument("--out", type=Path, default=Path("example"), help="weights, store, runs and report")
    parser.add_argument("--expensive", default="r2plus1d14-w16", help="see: faster models")
    parser.add_argument("--cheap", default="r2d14-w8")
    parser.add_argument("--size", type=int, default=64, help="pixels of a frame's side; the paper's is 224")
    parser.add_argument("--clips", type=int, default=8, help="clips of each video")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # what happens, as the commands print it
    models = (args.expensive, args.cheap)

    # 1. Each backbone learns the classes from single clips. Its weights lie in out/weights.
    weights = []
    for model in models:
        trained = train_backbone(
            TrainBackboneConfig(
                model=model,
                source=args.videos,
                out=str(args.out / "weights"),
                size=args.size,
                epochs=args.epochs,
            )
        )
        weights.append(trained.weights)

    # 2. Both see every clip of every video once, in one decode. The store holds their maps.
    store = args.out / "videos.zarr"
    extract(
        ExtractConfig(
            source=args.videos,
            models=models,
            weights=tuple(weights),
            store=str(store),
            size=args.size,
            clips=args.clips,
        )
    )

    # 3. Every mixture of expensive and cheap clips is one short training from the store.
    swept = run_sweep(
        SweepConfig(
            training=TrainConfig(store=store, epochs=args.epochs),
            grid=Grid(aggregators=("average", "fast-gru"), patterns=("all-E", "1:3", "all-C"), seeds=1),
            out=args.out / "sweep",
        )
    )

    # 4. One page: accuracy against cost.
    report = write_report([swept.folder], out=args.out / "report.html")
    print(report.table_text)
    print(f"report: {report.page}")


if __name__ == "__main__":  # the decoders are processes that import this file again
    main()
