"""What uint8 and zstd do to a trained aggregator: its predictions against those of float16, and of another seed.

    python benchmarks/quantisation.py ucf6.zarr --out /tmp/quantisation

STORE holds float16 maps of two models and has named splits. Three copies of it are made under --out: float16, uint8 in
zstd, and a control, float16 with one value in 300 moved by its last bit, which is what another batch size does to an
extraction. On every split, with every seed, an aggregator is trained on float16 and on uint8, with the first seed also
on the control; the aggregators of float16 are evaluated on uint8 as well. The copies forget which videos the backbones
were trained on, so that all splits can be used: the top-1 of a split whose test videos they saw means nothing, only the
differences count. Stopped, the same command goes on. The last line is one JSON object.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from itertools import combinations
from pathlib import Path
from statistics import mean

import click
import numpy as np
from faster import store as stores
from faster.aggregate.evaluation.evaluate import Evaluation, evaluate
from faster.aggregate.runs import load_run
from faster.aggregate.train import TrainConfig, train_agg
from faster.runtime.atomic import replace
from faster.store.format.checksummed_json import encode_checksummed
from faster.store.format.receipts import list_receipts, read_receipt
from faster.store.maintain.convert import convert
from faster.store.write import create as writer

MOVED_SHARE = 0.0034  # of values, by their last bit: as many differ between two batch sizes on a CPU

Predictions = dict[str, str]


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--aggregator", "aggregators", multiple=True, default=["fast-gru"], show_default=True)
@click.option("--pattern", default="1:3", show_default=True)
@click.option("--clips", default=8, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Copies and runs stay here.  [a temporary folder]"
)
def main(
    store: Path,
    aggregators: tuple[str, ...],
    pattern: str,
    clips: int,
    epochs: int,
    seeds: int,
    out: Path | None,
) -> None:
    """Train on float16 and on uint8 maps, and compare."""
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return compare(store, aggregators, pattern, clips, epochs, seeds, Path(folder))
    return compare(store, aggregators, pattern, clips, epochs, seeds, out)


def compare(
    store: Path, aggregators: tuple[str, ...], pattern: str, clips: int, epochs: int, seeds: int, out: Path
) -> None:
    """Make the copies, train, and print."""
    places = {name: out / f"{name}.zarr" for name in ("float16", "uint8", "control")}
    make_copies(store, places)
    sizes = {
        name: sum(model.stored_bytes for model in stores.inspect(places[name]).models)
        for name in ("float16", "uint8")
    }
    print(f"maps: {sizes['float16'] / 1e6:.1f} MB float16, {sizes['uint8'] / 1e6:.1f} MB uint8 in zstd")
    splits = stores.open(store).videos.split_names
    results = {}
    for aggregator in aggregators:

        def train(kind: str, split: str, seed: int, aggregator: str = aggregator) -> Evaluation:
            run = out / f"{aggregator}-{pattern.replace(':', '-')}-n{clips}-{split}-s{seed}-{kind}"
            config = TrainConfig(
                store=places[kind],
                aggregator=aggregator,
                pattern=pattern,
                clips=clips,
                epochs=epochs,
                split=split,
                seed=seed,
                out=run,
                device="cpu",
            )
            trained = train_agg(config, progress=False).report
            print(f"{aggregator} {split} seed {seed} {kind}: top-1 {trained.metrics.top1:.2%}", flush=True)
            return trained

        pairs: dict[str, list[tuple[Evaluation, Evaluation]]] = {
            "the same aggregator on uint8": [],
            "trained on uint8": [],
            "trained on the control": [],
            "trained with another seed": [],
        }
        for split in splits:
            reference = []
            for seed in range(seeds):
                reference.append(train("float16", split, seed))
                run = load_run(reference[-1].predictions.parent)
                same = evaluate(run, store=places["uint8"], device="cpu")
                pairs["the same aggregator on uint8"].append((reference[-1], same))
                pairs["trained on uint8"].append((reference[-1], train("uint8", split, seed)))
                if seed == 0:
                    control = train("control", split, seed)
                    pairs["trained on the control"].append((reference[-1], control))
            pairs["trained with another seed"] += combinations(reference, 2)
        results[aggregator] = {name: figures(found) for name, found in pairs.items()}
        print(
            f"{aggregator}, {pattern}, {clips} clips, {epochs} epochs, against trained and read on float16:"
        )
        for name, row in results[aggregator].items():
            print(
                f"  {name:<30} {row['equal']:8.2%} of {row['predictions']:.0f} predictions equal; "
                f"top-1 {row['top1_change']:+.2%}, {row['top1_change_absolute']:.2%} in the mean, "
                f"at most {row['top1_change_largest']:.2%}"
            )
    settings = {"pattern": pattern, "clips": clips, "epochs": epochs, "seeds": seeds, "splits": splits}
    print(json.dumps({**settings, "bytes": sizes, "results": results}))


def figures(pairs: list[tuple[Evaluation, Evaluation]]) -> dict[str, float]:
    """Over all pairs: the share of equal predictions, and the change of top-1."""
    equal = [
        answer == second[video]
        for a, b in pairs
        for second in [predictions(b.predictions)]
        for video, answer in predictions(a.predictions).items()
    ]
    changes = [b.metrics.top1 - a.metrics.top1 for a, b in pairs]
    return {
        "predictions": len(equal),
        "equal": mean(equal),
        "top1_change": mean(changes),
        "top1_change_absolute": mean(map(abs, changes)),
        "top1_change_largest": max(map(abs, changes)),
    }


def predictions(path: Path) -> Predictions:
    """Video id → predicted class."""
    with path.open(newline="") as file:
        return {line["id"]: line["predicted"] for line in csv.DictReader(file)}


def make_copies(store: Path, places: dict[str, Path]) -> None:
    """The three stores; what is there already is left."""
    convert(store, places["float16"])
    opened = stores.open(places["float16"])
    for model in opened.models:
        replace(opened.features(*model).folder / "trained_on.json", encode_checksummed({"ids": []}))
    convert(places["float16"], places["uint8"], dtype="uint8", codec="zstd")
    if not places["control"].exists():
        with tempfile.TemporaryDirectory(dir=places["control"].parent) as folder:
            make_control(opened, Path(folder) / "store")
            (Path(folder) / "store").rename(places["control"])


def make_control(source: stores.Store, target: Path) -> None:
    """The same store with a few values moved by their last bit."""
    derived = shutil.ignore_patterns("maps", "logits", "receipts", "index")
    shutil.copytree(source.path, target, ignore=derived)
    rng = np.random.default_rng(0)
    for model in source.models:
        features = source.features(*model)
        spec, clips = features.spec, np.arange(features.clips)
        writer.fit_arrays(target, spec, source.videos, source.shard_videos)
        for shard, view in list_receipts(features.folder):
            with stores.ShardWriter(
                target,
                spec,
                manifest=source.videos,
                shard=shard,
                view=view,
                shard_videos=source.shard_videos,
            ) as shard_writer:
                for entry in read_receipt(features.folder, shard, view).videos:
                    if entry.facts is None:
                        shard_writer.fail(entry.row, entry.reason)
                        continue
                    bits = features.read_maps(entry.row, view, clips).view(np.uint16)
                    moved = (rng.random(bits.shape, dtype=np.float32) < MOVED_SHARE) & (bits > 0)
                    bits += moved * rng.choice(np.array([1, 0xFFFF], dtype=np.uint16), bits.shape)
                    logits = features.read_logits(entry.row, view, clips) if features.num_classes else None
                    shard_writer.add(entry.row, bits.view(np.float16), logits, entry.facts)
                shard_writer.commit()
    stores.finalise(stores.open(target))


if __name__ == "__main__":
    main()
