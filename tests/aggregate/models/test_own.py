"""`--aggregator package.module:Class`: a class of the user's own, in every command that trains or runs aggregators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import run_commands
from faster.aggregate import TrainConfig, check_aggregator, load_run, train_agg
from faster.aggregate.models.registry import build, class_of
from faster.errors import UsageError
from sets import make_bright_set
from stores import make_spec, make_store, make_videos

OWN = '''
"""A running mean of the pooled maps, through a gate of its own."""

import torch
from faster.aggregate import Aggregator
from torch import nn


class Leaky(Aggregator):
    recurrent = False

    def __init__(self, *, map_shapes, num_classes, dropout):
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        self.gate = nn.Parameter(torch.zeros(self.channels))

    def init(self, x0, model0):
        return x0.mean((1, 2, 3), dtype=self.dtype)

    def step(self, state, x, model):
        keep = self.gate.sigmoid()
        return keep * state + (1 - keep) * x.mean((1, 2, 3), dtype=self.dtype)

    def readout(self, state):
        # the gate's own term keeps its gradient where there is one clip
        return self.classify(state * (1 + 0.1 * self.gate))

    def forward(self, batch):
        state = self.init(*batch.at(0))
        for t in range(1, batch.model_of.shape[1]):
            state = self.step(state, *batch.at(t))
        return self.readout(state)

    def step_gflops(self, map_shape):
        return 0.0


class WithoutReadout(Aggregator):
    def init(self, x0, model0): ...
    def step(self, state, x, model): ...
    def forward(self, batch): ...
    def step_gflops(self, map_shape): ...


class TakesChannels(Leaky):
    def __init__(self, channels):
        super().__init__(map_shapes={}, num_classes=channels, dropout=0.0)


class ReadsLogits(Leaky):
    reads = "logits"


class NotOne:
    pass


a_list = [1]
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The module, in the current folder, under a name that no other test imports."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_it_passes_the_exported_checks(own: str) -> None:
    check_aggregator(f"{own}:Leaky")
    check_aggregator(f"{own}:Leaky", map_shape=(1, 2, 2, 16))


def test_it_goes_through_every_command(tmp_path: Path) -> None:
    (tmp_path / "my_agg.py").write_text(OWN)
    make_bright_set(tmp_path / "videos", per_class=5, tests=2)
    name, run = "my_agg:Leaky", "runs/videos-my_agg-Leaky-all-E-n4-s0"
    video = next((tmp_path / "videos/test/light").iterdir())
    settings = ["--epochs", "2", "--device", "cpu"]
    extract = ["--model", "r2plus1d14-w4", "--allow-random", "--size", "32", "--clips", "4"]
    ended = run_commands(
        [
            ["extract", "videos", *extract, "--store", "videos.zarr", "--devices", "cpu"],
            ["train-agg", "--store", "videos.zarr", "--aggregator", name, *settings],
            ["evaluate", run, "--device", "cpu", "--json"],
            ["predict", str(video), "--run", run, "--device", "cpu", "--json"],
            ["export-model", run, "--out", "exported"],
            [
                *("sweep", "--store", "videos.zarr", "--aggregators", f"{name},gru", "--patterns", "all-E"),
                *("--clips", "4", "--seeds", "1", "--jobs", "2", *settings, "--json"),
            ],
            ["report", run, "runs/videos-sweep"],
        ],
        cwd=tmp_path,
        memory_bytes=8 << 30,
    )
    assert [end.code for end in ended] == [0] * len(ended), [end.errors for end in ended]
    _, _, evaluated, predicted, _, swept, reported = ended
    config = json.loads((tmp_path / run / "config.json").read_text())
    assert config["aggregator"] == name
    report = json.loads((tmp_path / run / "result.json").read_text())
    assert json.loads(evaluated.output)["metrics"] == report["metrics"]
    assert json.loads(predicted.output)["top"]
    assert json.loads((tmp_path / "exported/model.json").read_text())["aggregator"] == name
    program = torch.export.load(tmp_path / "exported/init.pt2").module()
    assert program(torch.zeros(1, *config["map_shapes"]["r2plus1d14-w4"]))[0].shape[0] == 1
    cells = {cell["cell"]: cell for cell in json.loads(swept.output)["cells"]}
    assert any(cell.startswith("my_agg-Leaky-all-E-n4") for cell in cells)
    alone = next(cell for cell in cells.values() if cell["aggregator"] == name)
    assert alone["metrics"] == report["metrics"]
    assert name in reported.output


def test_it_trains_on_maps_of_two_shapes_and_with_the_skip_path(own: str, tmp_path: Path) -> None:
    shapes = {"dear": (2, 3, 3, 8), "cheap": (1, 2, 2, 4)}
    adapted = build(f"{own}:Leaky", map_shapes=shapes, num_classes=3)
    assert type(adapted).__name__ == "ShapeAdapter" and type(adapted.inner).__name__ == "Leaky"
    skip = build(f"{own}:Leaky", map_shapes=shapes, num_classes=3, skip_scores=True)
    assert type(skip).__name__ == "ScoreSkip"


def test_a_run_whose_module_is_gone_says_so(own: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(24), signal=True)
    config = TrainConfig(store=store.path, aggregator=f"{own}:Leaky", epochs=1, out=tmp_path / "run")
    train_agg(config, progress=False)
    assert type(load_run(tmp_path / "run").aggregator) is class_of(f"{own}:Leaky")
    text = (tmp_path / "run/config.json").read_text()
    (tmp_path / "run/config.json").write_text(text.replace(f"{own}:Leaky", "gone_module:Leaky"))
    with pytest.raises(UsageError, match="no module 'gone_module' here or installed"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            "nowhere_at_all:Leaky",
            "no module 'nowhere_at_all' here or installed; the form is package.module:class",
        ),
        ("{own}:", "the form is package.module:class"),
        (":Leaky", "the form is package.module:class"),
        ("{own}:Leeky", "has no class 'Leeky'"),
        ("{own}:a_list", "has no class 'a_list'"),
        ("{own}:NotOne", "is not a subclass of faster.aggregate.Aggregator"),
        ("{own}:WithoutReadout", "lacks readout, which every aggregator has"),
        ("{own}:TakesChannels", "its __init__ must take map_shapes, num_classes and dropout by name"),
        ("{own}:ReadsLogits", "an aggregator of your own reads 'maps'"),
    ],
)
def test_what_cannot_be_one_is_one_line(own: str, named: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        class_of(named.format(own=own))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("aggregator ")


def test_an_error_inside_the_module_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_broken.py").write_text("import a_module_that_is_not_installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        class_of("own_broken:Leaky")


def test_the_skip_path_needs_a_last_layer(own: str, tmp_path: Path) -> None:
    (tmp_path / f"{own}_bare.py").write_text(
        f"from {own} import *\n\nclass Bare(Leaky):\n    def __init__(self, **settings):\n"
        "        super().__init__(**settings)\n        self.last = self.fc\n        del self.fc\n"
    )
    with pytest.raises(UsageError, match="has no last layer `fc`"):
        build(f"{own}_bare:Bare", map_shapes={"m": (1, 2, 2, 4)}, num_classes=3, skip_scores=True)
