import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from faster.aggregate.models.names import AGGREGATORS
from faster.aggregate.report.paper import PRESETS, TABLES, Setting
from faster.costs.commands import flops_command, models_command
from faster.costs.tables import (
    PatternCost,
    aggregator_gflops_per_step,
    backbone_cost,
    backbone_gflops,
    mismatches,
    setting_cost,
    table_cells,
    traced_cost,
    usual_clips,
)
from faster.errors import UsageError
from faster.extract.backbones import known_names, plan_of, register
from faster.extract.backbones.networks.plans import PLANS as PAPERS
from faster.runtime.flop_counter import gflops
from torch import nn


def run(*args: str) -> str:
    result = CliRunner().invoke(flops_command, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# --- counting -------------------------------------------------------------------------------------------------------


def test_backbone_cost():
    cost = backbone_cost("r2d26", 16)
    assert cost.map_shape == (2, 7, 7, 2048) and cost.gflops == backbone_gflops("r2d26", 16)
    assert backbone_gflops("r2d26", 32) == pytest.approx(2 * cost.gflops, rel=1e-12)
    with pytest.raises(UsageError, match="unknown model"):
        backbone_gflops("r2d27", 8)


# Every network of the paper once, and one of each kind at widths, lengths and sizes that nobody rounded off.
PLANNED = [
    *((name, 8 * (1 + place % 3), 32 + 16 * place) for place, name in enumerate(PAPERS)),
    ("r2d26", 8, 224),
    *(
        (f"{name}-w{width}", frames, size)
        for name in ("r2d14", "r2plus1d14", "r3d14", "r2plus1d34")
        for width, frames, size in ((1, 8, 1), (3, 24, 33), (16, 40, 112), (100, 16, 225))
    ),
]


@pytest.mark.parametrize(("name", "clip_frames", "size"), PLANNED)
def test_a_plan_costs_what_is_counted_in_its_network(name, clip_frames, size):
    assert plan_of(name) is not None and backbone_cost(name, clip_frames, size) == traced_cost(
        name, clip_frames, size
    )


def test_a_plan_takes_what_its_network_takes():
    for cost in (backbone_cost, traced_cost):
        with pytest.raises(UsageError, match="a clip of 12 frames; this network takes a multiple of 8"):
            cost("r2plus1d26", 12)
    assert usual_clips("r3d14") == (8, 16, 32) and backbone_cost("r3d14", 8).size == 224


def test_a_network_without_a_plan_is_traced():
    name = f"{__name__}-unplanned".replace(".", "-")

    class Unplanned(nn.Module):
        channels = 5

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 5, 1, stride=(8, 4, 4), bias=False)

        def features(self, x):
            return self.conv(x).movedim(1, -1)

    register(name)(lambda num_classes: Unplanned())
    cost = backbone_cost(name, 16, 32)
    assert plan_of(name) is None and cost == traced_cost(name, 16, 32)
    assert (cost.map_shape, cost.parameters, cost.gflops) == ((2, 8, 8, 5), 15, 2 * 8 * 8 * 15 / 1e9)


def test_a_step_is_six_small_and_two_full_projections():
    class Step(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.down = nn.ModuleList(nn.Conv3d(c, c // 4, 1) for _ in range(4))
            self.up = nn.ModuleList(nn.Conv3d(c // 4, c, 1) for _ in range(2))
            self.full = nn.ModuleList(nn.Conv3d(c, c, 1) for _ in range(2))

        def forward(self, x):
            r, z = (a(x) + b(x) for a, b in (self.down[:2], self.down[2:]))
            return self.up[0](r) + self.up[1](z) + self.full[0](x) + self.full[1](x)

    counted = gflops(Step(64), torch.empty(1, 64, 2, 7, 5))
    assert counted == pytest.approx(aggregator_gflops_per_step((2, 7, 5, 64)), rel=1e-12)
    assert round(aggregator_gflops_per_step((1, 1, 1, 2048)) * 1e3, 2) == 14.68


def test_pattern_cost():
    def pattern_cost(expensive: float, cheap: float, step: float, *clips: int) -> PatternCost:
        names = ("expensive_gflops", "cheap_gflops", "step_gflops", "n_expensive", "n_cheap")
        return PatternCost(**dict(zip(names, (expensive, cheap, step, *clips), strict=True)))

    cost = pattern_cost(30.0, 3.0, 0.75, 2, 14)
    assert cost.exact == 2 * 30 + 14 * 3 + 15 * 0.75 and cost.per_clip == cost.exact / 16
    assert cost.paper_rounded == round(7.1 * 16, 1)  # 113.25 / 16 = 7.078
    assert pattern_cost(30.04, 3.0, 0.0, 2, 0).paper_rounded == 60.1
    assert pattern_cost(30.0, 3.0, 0.75, 1, 0).exact == 30.0
    with pytest.raises(UsageError, match="at least one clip"):
        pattern_cost(30.0, 3.0, 0.75, 0, 0)


def test_maps_of_two_shapes_cost_their_projections():
    setting = Setting(pattern="1:3", clip_frames=8, clips=4, cheap="r2d14-w16")
    cost, alike = setting_cost(setting), setting_cost(replace(setting, cheap="r2d26"))
    assert cost.step_gflops == alike.step_gflops and alike.projections_gflops == 0
    assert cost.projections_gflops == pytest.approx(3 * 49 * 512 * 2048 / 1e9)
    assert cost.exact == pytest.approx(
        cost.expensive_gflops + 3 * cost.cheap_gflops + 3 * cost.step_gflops + cost.projections_gflops
    )


# --- the paper's tables ---------------------------------------------------------------------------------------------

# table: {label: (exact to 0.01, rounded as the paper does, printed)} of every cell that does not come out as printed
MISMATCHES = {
    2: {"r2d26, 16 frames": (6.33, 6.3, 6.0)},
    4: {"16-frames×16-clips, all-E": (980.92, 980.8, 980.2)},
    5: {},
    6: {"r3d50, 1:1": (542.16, 542.4, 542.1), "r3d50, 1:3": (331.81, 332.0, 331.9)},
    7: {"FASTER32 (R3D)": (67.77, 67.8, 67.7)},
}


@pytest.mark.parametrize("table", TABLES)
def test_every_mismatch_and_no_other(table):
    found = {
        cell.printed.label: (round(cell.exact, 2), cell.paper_rounded, cell.printed.gflops)
        for cell in mismatches(table_cells(table))
    }
    assert found == MISMATCHES[table]


def test_table_4_has_15_cells_of_256_frames():
    cells = table_cells(4)
    assert len(cells) == 15 and all(
        c.printed.setting.clips * c.printed.setting.clip_frames == 256 for c in cells
    )
    assert {table: len(table_cells(table)) for table in TABLES} == {2: 6, 4: 15, 5: 3, 6: 6, 7: 3}
    by_label = {cell.printed.label: cell for cell in cells}
    assert round(by_label["8-frames×32-clips, 1:31"].exact, 2) == 150.43
    assert round(by_label["32-frames×8-clips, 1:1"].exact, 2) == 550.47


def test_exact_figures_stay_within_a_rounded_clip_of_the_paper():
    for cell in table_cells(4):
        if cell.matches:
            assert abs(cell.exact - cell.printed.gflops) <= 0.05 * cell.printed.setting.clips + 1e-9


def test_a_table_without_costs():
    with pytest.raises(UsageError, match=r"table 3 has no costs.*2, 4, 5, 6, 7"):
        table_cells(3)


def test_presets():
    faster16, faster32 = setting_cost(PRESETS["faster16"]), setting_cost(PRESETS["faster32"])
    assert (faster16.n_expensive, faster16.n_cheap, faster16.paper_rounded) == (2, 14, 230.4)
    assert (faster32.n_expensive, faster32.n_cheap, faster32.paper_rounded) == (4, 4, 550.4)


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_table_command(table):
    cells = table_cells(table)
    data = json.loads(run("--table", str(table), "--json"))
    assert [row["exact"] for row in data["cells"]] == [cell.exact for cell in cells]
    assert [row["matches"] for row in data["cells"]] == [cell.matches for cell in cells]
    text = run("--table", str(table))
    for cell in cells:
        line = next(line for line in text.splitlines() if line.startswith(cell.printed.label))
        assert (
            f"{cell.exact:.2f}" in line
            and str(cell.printed.gflops) in line
            and ("≠" in line) == (not cell.matches)
        )
    assert text.count("mismatch:") == len(mismatches(cells))


def test_costs_of_clips():
    data = json.loads(run("--model", "r2plus1d14-w16", "--clip-frames", "16", "--size", "112", "--json"))
    assert data["videos"] == []
    (clip,) = data["clips"]
    assert clip["gflops"] == backbone_gflops("r2plus1d14-w16", 16, 112) and clip["map_shape"] == [
        2,
        4,
        4,
        512,
    ]
    assert f"{clip['gflops']:.2f}" in run("--model", "r2plus1d14-w16", "--clip-frames", "16", "--size", "112")


def test_without_options_the_papers_networks_and_presets():
    data = json.loads(run("--json"))
    assert len(data["clips"]) == 9
    assert [video["gflops_paper_rounded"] for video in data["videos"]] == [230.4, 550.4]
    text = run()
    assert "119.92" in text and "faster16: 1:7" in text and "550.4" in text


def test_cost_of_a_pattern_orders_the_models():
    args = ("--pattern", "1:3", "--clips", "8", "--clip-frames", "32", "--json")
    (video,) = json.loads(run(*args, "--model", "r2d26", "--model", "r3d50"))["videos"]
    assert (video["expensive"], video["cheap"]) == ("r3d50", "r2d26")
    assert (video["n_expensive"], video["n_cheap"], video["gflops_paper_rounded"]) == (2, 6, 332.0)
    (video,) = json.loads(run("--pattern", "1:7", "--json"))["videos"]
    assert (video["clips"], video["clip_frames"], video["gflops_paper_rounded"]) == (32, 8, 230.4)
    (video,) = json.loads(run("--pattern", "all-C", "--model", "r2d26", "--json"))["videos"]
    assert video["n_cheap"] == 32 and video["cheap"] == "r2d26"
    preset = ("--preset", "faster32", "--model", "r3d50", "--model", "r2d26", "--json")
    assert json.loads(run(*preset))["videos"][0]["gflops_paper_rounded"] == 542.4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--table", "4", "--clips", "3"), "--table takes no other option"),
        (("--preset", "faster16", "--pattern", "1:1"), "--preset sets the pattern"),
        (("--clips", "3"), "add --pattern"),
        (("--pattern", "1:7", "--model", "r2d26"), "mixes two models"),
        (("--pattern", "1:7", "--model", "r2d26", "--model", "r2d14", "--model", "r2d50"), "3 are given"),
        (("--pattern", "one", "--model", "r2d26", "--model", "r2d14"), "'one' is not understood"),
        (("--model", "r2d27"), "unknown model"),
        (("--clip-frames", "12"), "multiple of 8"),
    ],
)
def test_what_flops_refuses(args, message):
    result = CliRunner().invoke(flops_command, args)
    assert isinstance(result.exception, UsageError) and message in str(result.exception)


def test_models_command():
    data = json.loads(CliRunner().invoke(models_command, ["--json"], catch_exceptions=False).output)["models"]
    assert [row["model"] for row in data] == known_names()
    assert next(row for row in data if row["model"] == "r2d26")["map_shape"] == [1, 7, 7, 2048]
    text = CliRunner().invoke(models_command, [], catch_exceptions=False).output
    assert all(any(line.startswith(name) for line in text.splitlines()) for name in known_names())
    assert "package.module:function" in text and "timm:resnet18 " in text


def test_help_has_an_example():
    for command in (flops_command, models_command):
        assert f"faster {command.name} --" in CliRunner().invoke(command, ["--help"]).output


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "models --json",
        "flops",
        "flops --table 7",
        "flops --model r3d26-w7 --clip-frames 24 --size 99",
        "flops --pattern 1:3 --model r2plus1d50 --model r2d14-w16",
        "flops --model r2plus1d5O",
        "extract --help",
    ],
)
def test_the_commands_run_without_torch(arguments):
    code = (
        "import sys; sys.modules['torch'] = None\n"  # an import of it fails
        "if sys.argv[1] != 'extract': sys.modules['numpy'] = None\n"
        "from faster.cli import main; main(sys.argv[1:])"
    )
    ended = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True)
    assert ended.returncode == (2 if "5O" in arguments else 0), ended.stderr
    assert "Traceback" not in ended.stderr and ended.stdout + ended.stderr


def test_names_that_need_no_torch_are_those_of_the_classes():
    from faster.aggregate.models.registry import class_of

    assert tuple(sorted(class_of(name).name for name in AGGREGATORS)) == AGGREGATORS
    assert set(PAPERS) <= set(known_names())
