"""The options that `faster train-agg` and `faster sweep` share: of what a training run reads, and how it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]

STORE = click.option("--store", required=True, metavar="S", help="A store that faster extract wrote.")
DEVICE = click.option(
    "--device", metavar="D", help="cpu, cuda:0, …  [the first GPU, or the CPU; under torchrun each its own]"
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

_MODELS = (
    click.option("--expensive", metavar="M", help="The expensive model.  [the dearer of two]"),
    click.option("--cheap", metavar="M", help="The cheap model.  [the cheaper of two]"),
)
_TRAINING = (
    click.option(
        "--epochs", type=click.IntRange(min=1), default=30, show_default=True, help="Passes over the videos."
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=32,
        show_default=True,
        help="Videos a step, of all processes together.",
    ),
    click.option(
        "--optimizer",
        type=click.Choice(["sgd", "adamw"]),
        default="sgd",
        show_default=True,
        help="What steps.",
    ),
    click.option("--learning-rate", type=float, help="At the schedule's top.  [0.1; 0.001 with adamw]"),
    click.option(
        "--weight-decay", type=float, help="Of weights, not biases and norms.  [0.0001; 0.01 with adamw]"
    ),
    click.option(
        "--dropout",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Before the last layer.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bf16"]),
        default="float32",
        show_default=True,
        help="Of the training steps; bf16 by autocast.",
    ),
    click.option(
        "--skip-scores",
        is_flag=True,
        help="Add the backbones' averaged scores to all but average and tsn, which then learn what to add.",
    ),
    click.option(
        "--unseen", is_flag=True, help="Train only on videos that no backbone in use was trained on."
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=1),
        metavar="EPOCHS",
        help="Stop after so many epochs without a better one.",
    ),
)


def model_options(command: Command) -> Command:
    """--expensive and --cheap."""
    return _with(command, _MODELS)


def training_options(command: Command) -> Command:
    """--epochs to --patience, --skip-scores and --unseen, as in `TrainConfig`."""
    return _with(command, _TRAINING)


def _with(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
