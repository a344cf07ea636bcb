"""Where only the order decides: the demo's videos at full difficulty, and how far each aggregator gets beyond averaging.

python benchmarks/ucf6/order.py --out FOLDER

At difficulty 1 the kinds of event differ in their motion alone, under noise and among shapes that distract. Classes are ordered
pairs of kinds, so averaging can reach exactly half of the videos in expectation (docs/demo.md), whatever the backbones are.
"""

from __future__ import annotations

from pathlib import Path

import click
from faster.demo.events import EventSet, average_ceiling, chance
from faster.demo.run import DemoConfig, demo


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where everything goes.")
@click.option("--videos", default=300, show_default=True, help="Of a class, 60 of them to test.")
@click.option("--epochs", default=30, show_default=True, help="Of the backbones.")
def main(out: Path, videos: int, epochs: int) -> None:
    """Run the demo on the hard set, and print its table."""
    events = EventSet(difficulty=1.0, videos_per_class=videos, test_videos_per_class=60)
    result = demo(
        DemoConfig(folder=str(out), events=events, backbone_epochs=epochs, aggregator_epochs=30),
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(result.files.table_text)
    ceilings = f"chance {chance(events.events):.1%}, averaging at best {average_ceiling(events.events):.1%}"
    click.echo(f"{ceilings}; {sum(result.seconds.values()) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
