"""Exported aggregators: loaded without the package's classes, they answer as the eager ones do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from faster.aggregate.data.pattern import Pattern
from faster.aggregate.export import export_model
from faster.aggregate.models.base import Aggregator
from faster.aggregate.models.recurrent.concat import Concat
from faster.aggregate.models.registry import known_names
from faster.aggregate.runs import Run, RunConfig
from faster.errors import RunError, UsageError

DEAR, CHEAP = "dear", "net.work:cheap"
MAP_SHAPE = (2, 3, 3, 16)
OTHER_SHAPES = {DEAR: (2, 2, 2, 8), CHEAP: (1, 3, 3, 4)}
CASES = [
    *[(name, "maps", None) for name in known_names()],
    ("average", "logits", None),
    *[(name, "maps", OTHER_SHAPES) for name in ("concat", "fast-gru", "gru")],
]


def make_run(name: str, reads: str, path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Run:
    config = RunConfig(
        store="s.zarr",
        store_fingerprint="",
        split="split1",
        report_part="test",
        aggregator=name,
        dropout=0.5,
        reads=reads,
        map_shapes=shapes or dict.fromkeys((DEAR, CHEAP), MAP_SHAPE),  # type: ignore[arg-type]
        pattern=Pattern.parse("1:1"),
        clips=4,
        clip_frames=8,
        expensive=DEAR,
        cheap=CHEAP,
        class_names=("a", "b", "ç"),
        models={model: {"spec": {"model": model}, "recorded": {}} for model in (DEAR, CHEAP)},
        validation_share=0.2,
        videos={},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        aggregator = config.build().eval()
        for parameter in aggregator.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        if isinstance(aggregator, Concat):  # statistics that differ from step to step, the third reused
            aggregator.trained_steps.fill_(3)
            aggregator.running_mean.normal_()
            aggregator.running_var.uniform_(0.5, 2)
    return Run(path=path, config=config, aggregator=aggregator, trained_on=frozenset())


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a stranger does: read the JSON, load the files that it names."""
    description = json.loads((folder / "model.json").read_text())
    programs = description["programs"]
    names = {*programs["init"].values(), *programs["step"].values(), programs["readout"]}
    assert names == {path.name for path in folder.glob("*.pt2")}
    return description, {name: torch.export.load(folder / name).module() for name in names}


@pytest.mark.parametrize(("name", "reads", "shapes"), CASES)
def test_loaded_it_answers_as_the_eager_one_after_each_clip(
    name: str, reads: str, shapes: dict[str, tuple[int, ...]] | None, tmp_path: Path
) -> None:
    run = make_run(name, reads, tmp_path, shapes)
    exported = export_model(run, tmp_path / "out")
    assert sorted(exported.files) == sorted(path.name for path in (tmp_path / "out").glob("*.pt2"))
    description, programs = load(tmp_path / "out")
    assert description["class_names"] == ["a", "b", "ç"] and description["pattern"] == "1:1"
    assert description["reads"] == reads and description["clips"] == 4
    aggregator: Aggregator[Any] = run.aggregator
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for videos in (1, 3):
            for t in range(5):
                model = CHEAP if t % 2 else DEAR
                x = torch.randn(videos, *description["input"][model]["shape"][1:], generator=generator)
                if t == 0:
                    state = programs[description["programs"]["init"][model]](x)
                    eager = aggregator.init(x, model)
                else:
                    state = programs[description["programs"]["step"][model]](*state, x)
                    eager = aggregator.step(eager, x, model)
                logits = programs[description["programs"]["readout"]](*state)
                torch.testing.assert_close(logits, aggregator.readout(eager), rtol=1e-6, atol=1e-6)
                for value, told in zip(state, description["state"], strict=True):
                    if told["dtype"] == "int":
                        assert isinstance(value, int)
                    else:
                        assert str(value.dtype) == f"torch.{told['dtype']}"
                        assert list(value.shape) == [videos if n == "B" else n for n in told["shape"]]


def test_heads_of_their_own_are_programs_of_their_own_and_maps_may_differ(tmp_path: Path) -> None:
    shapes = {DEAR: (1, 2, 2, 8), CHEAP: (1, 2, 2, 4)}
    export_model(make_run("average", "maps", tmp_path, shapes), tmp_path / "out")
    description, _ = load(tmp_path / "out")
    assert description["programs"]["step"] == {DEAR: "step-dear.pt2", CHEAP: "step-net.work-cheap.pt2"}
    assert description["input"][CHEAP]["shape"] == ["B", 1, 2, 2, 4]


def test_models_that_are_treated_alike_share_one_program(tmp_path: Path) -> None:
    exported = export_model(make_run("gru", "maps", tmp_path), tmp_path / "out")
    assert sorted(exported.files) == ["init.pt2", "readout.pt2", "step.pt2"]


def test_it_can_be_written_again_and_writes_over_nothing_else(tmp_path: Path) -> None:
    run = make_run("gru", "maps", tmp_path)
    export_model(run, tmp_path / "out")
    export_model(run, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        export_model(run, tmp_path / "mine")
    with pytest.raises(UsageError, match="holds something else"):
        export_model(run, tmp_path / "mine/notes.txt")
    with pytest.raises(RunError):
        export_model(tmp_path / "nowhere", tmp_path / "new")
    assert not (tmp_path / "new").exists()
