"""Every field of a configuration is an option of its command, and the command adds nothing that Python lacks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest
from faster.aggregate.config import EvaluateOptions, TrainConfig
from faster.aggregate.sweep.config import Grid, SweepConfig
from faster.errors import UsageError
from faster.exchange.config import ExportConfig, ImportConfig
from faster.extract.config import ExtractConfig
from faster.extract.jobs.slurm import SlurmJob
from faster.extract.train_backbone.config import TrainBackboneConfig
from faster.predict.options import PredictOptions
from faster.store.options import EncodingOptions
from faster.terminal.settings import settings_of
from faster.training.options import TrainingOptions
from reference import commands

GRID = "the grid settles it, cell by cell"
WHOLE = "all cells have its default"
# Command → the configurations that it makes, and the fields that are none of its options, each with the reason.
CONFIGS: dict[str, list[tuple[type, dict[str, str]]]] = {
    "extract": [(ExtractConfig, {})],
    "train-backbone": [(TrainBackboneConfig, {})],
    "train-agg": [(TrainConfig, {})],
    "sweep": [
        (Grid, {}),
        (SweepConfig, {"training": "made of its own options", "grid": "made of its own options"}),
        (
            TrainConfig,
            {
                "aggregator": GRID,
                "pattern": GRID,
                "out": GRID,
                "seed": GRID,
                "init": WHOLE,
                "momentum": WHOLE,
                "warmup_epochs": WHOLE,
                "max_gradient_norm": WHOLE,
                "label_smoothing": WHOLE,
                "balance_classes": WHOLE,
                "validation_share": WHOLE,
            },
        ),
    ],
    "evaluate": [(EvaluateOptions, {})],
    "oracle": [
        (EvaluateOptions, dict.fromkeys(["pattern", "clips"], "its question is the run's own mixture"))
    ],
    "predict": [(PredictOptions, {})],
    "export": [(ExportConfig, {})],
    "import": [(ImportConfig, {})],
    "convert": [(EncodingOptions, {})],
    "submit slurm": [
        (
            SlurmJob,
            {"command": "the words after --", "name": "squeue shows it; status finds its jobs by none"},
        )
    ],
}
# Options that are the command's own: where and how it answers, and what is not of the configuration.
OWN = {
    "extract": {"max_failed", "dry_run"},
    "evaluate": {"run"},
    "oracle": {"run_path"},
    "predict": {"videos", "run", "weights", "out", "stream"},
    "convert": {"store", "new", "models", "processes"},
    "submit slurm": {"out", "go", "extract_arguments"},
}
PAIRS = [
    pytest.param(name, config, reasons, id=f"{name}-{config.__name__}")
    for name, configs in CONFIGS.items()
    for config, reasons in configs
]


def parameters(name: str) -> dict[str, click.Parameter]:
    return {str(each.name): each for each in dict(commands())[name].params}


@pytest.mark.parametrize(("name", "config", "reasons"), PAIRS)
def test_every_field_is_an_option_with_its_default_or_has_a_reason(
    name: str, config: type, reasons: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options, settings = parameters(name), settings_of(config)
    assert {each.name for each in fields(config)} == settings.keys()
    # What the command has where nothing but the least is said.
    words = [
        word
        for option in options.values()
        if option.required
        for word in ([option.opts[0], "3"] if isinstance(option, click.Option) else ["3"])
    ]
    unsaid = dict(commands())[name].make_context(name, words).params
    for field, setting in settings.items():
        if field in reasons:
            others = [other for other, _ in CONFIGS[name] if other is not config]
            assert field not in options or any(field in settings_of(other) for other in others)
        elif field == "cluster":
            assert {"executor", "scheduler"} <= options.keys()
        else:
            argument = setting.declared.get("argument")
            assert options[field].opts[0] == (field if argument else setting.option)
            assert options[field].required or unsaid[field] == setting.default


@pytest.mark.parametrize("name", CONFIGS)
def test_a_command_has_no_further_options(name: str) -> None:
    known = {field for config, _ in CONFIGS[name] for field in settings_of(config)}
    shared = {"as_json", "executor", "scheduler"}
    assert parameters(name).keys() - known - shared <= OWN.get(name, set())


def test_the_configurations_of_both_stages_keep_the_ranges_of_training() -> None:
    for config in (TrainConfig, TrainBackboneConfig):
        for name, setting in settings_of(TrainingOptions).items():
            own = settings_of(config).get(name)
            if own is not None and (config, name) != (TrainBackboneConfig, "batch_size"):  # batch norm: 2
                assert (own.range, own.declared.get("choices")) == (
                    setting.range,
                    setting.declared.get("choices"),
                )


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_number_and_choice_is_refused_in_one_form(name: str) -> None:
    command = dict(commands())[name]
    for option in command.params:
        if isinstance(option.type, click.Choice | click.IntRange | click.FloatRange):
            with pytest.raises(UsageError, match=rf"^{option.opts[0]} is nonsense; (allowed:|it must be a )"):
                option.type.convert("nonsense", option, None)
        else:
            assert not isinstance(option.type, type(click.INT) | type(click.FLOAT)), (
                "a number without a range"
            )


@pytest.mark.parametrize(
    "imported",
    [
        "faster.extract import ExtractConfig",
        "faster.extract.train_backbone import TrainBackboneConfig",
        "faster.aggregate import TrainConfig, SweepConfig, Grid",
        "faster.exchange.config import ExportConfig, ImportConfig",
    ],
)
def test_a_configuration_is_made_without_torch(imported: str) -> None:
    made = {
        "ExtractConfig": 'models=("r2d26",)',
        "TrainBackboneConfig": 'model="r2d26"',
        "TrainConfig": 'store="s.zarr"',
        "SweepConfig": 'training=TrainConfig(store="s.zarr"), grid=Grid()',
        "ExportConfig": 'store="s.zarr", out="s.h5"',
    }
    calls = "; ".join(f"{name}({values})" for name, values in made.items() if f" {name}" in imported)
    code = f"import sys; sys.modules['torch'] = None; from {imported}; {calls}"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
