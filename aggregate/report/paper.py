"""The cost figures printed in FASTER (Zhu et al.), as data: GFLOPs, and the top-1 accuracy of each.

Accuracies are top-1 in percent on Kinetics-400's validation set. `costs.tables` recomputes the GFLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.flop_counter import paper_clips

EXPENSIVE = "r2plus1d50"
CHEAP = "r2d26"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """N clips of L frames under a pattern #E:#C ("1:7"; "all-E", "all-C": one network on every clip)."""

    pattern: str
    clip_frames: int
    clips: int
    aggregator: str = "fast-gru"
    """"fast-gru", or "average", which costs nothing."""
    expensive: str = EXPENSIVE
    cheap: str = CHEAP
    size: int | None = 224
    """Pixels of a frame's side; None: each network's own."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One cost printed in a table."""

    table: int
    label: str
    setting: Setting
    gflops: float
    per_clip: bool = False
    """Whether `gflops` is of one clip ("GFLOPs×clips" of Tables 2 and 7) instead of the complete video."""
    decimals: int = 1
    top1: float | None = None


PRESETS = {
    "faster16": Setting(pattern="1:7", clip_frames=16, clips=16),
    "faster32": Setting(pattern="1:1", clip_frames=32, clips=8),
}
"""The two settings that the paper names (§5)."""

TABLE_1_NAMES = ("r2d26", "r2plus1d50", "r3d50")
"""The networks of Table 1, and R3D-50 of Table 6."""

# name: clip_frames: (top-1, GFLOPs of one clip)
_TABLE_2 = {
    "r2d26": {8: (63.3, 3.2), 16: (65.5, 6.0), 32: (66.7, 12.7)},
    "r2plus1d50": {8: (70.1, 30.0), 16: (72.3, 60.0), 32: (74.5, 119.9)},
}

# clip_frames: pattern: (top-1, GFLOPs of a video)
_TABLE_4 = {
    8: {
        "all-E": (70.6, 982.4),
        "1:1": (70.5, 553.6),
        "1:3": (70.1, 339.2),
        "1:7": (69.6, 230.4),
        "1:15": (69.0, 176.0),
        "1:31": (67.2, 150.4),
    },
    16: {
        "all-E": (72.9, 980.2),
        "1:1": (72.9, 552.0),
        "1:3": (72.1, 337.6),
        "1:7": (71.7, 230.4),
        "1:15": (69.9, 176.0),
    },
    32: {
        "all-E": (74.9, 979.2),
        "1:1": (74.6, 550.4),
        "1:3": (73.3, 336.0),
        "1:7": (71.3, 228.8),
    },
}

# expensive network: pattern: (top-1, GFLOPs of a video), 8 clips of 32 frames
_TABLE_6 = {
    "r2plus1d50": {"all-E": (74.5, 959.3), "1:1": (74.6, 550.4), "1:3": (73.3, 336.0)},
    "r3d50": {"all-E": (74.4, 942.7), "1:1": (75.3, 542.1), "1:3": (73.9, 331.9)},
}


def _alone(name: str, clip_frames: int, clips: int, size: int = 224) -> Setting:
    """Return the setting of one network on every clip, with averaged scores."""
    return Setting(
        pattern="all-E", clip_frames=clip_frames, clips=clips, aggregator="average", expensive=name, size=size
    )


def _table_2() -> list[Printed]:
    return [
        Printed(
            table=2,
            label=f"{name}, {clip_frames} frames",
            setting=_alone(name, clip_frames, paper_clips(clip_frames)),
            gflops=gflops,
            per_clip=True,
            top1=top1,
        )
        for name, row in _TABLE_2.items()
        for clip_frames, (top1, gflops) in row.items()
    ]


def _table_4() -> list[Printed]:
    return [
        Printed(
            table=4,
            label=f"{clip_frames}-frames×{paper_clips(clip_frames)}-clips, {pattern}",
            setting=Setting(pattern=pattern, clip_frames=clip_frames, clips=paper_clips(clip_frames)),
            gflops=gflops,
            top1=top1,
        )
        for clip_frames, column in _TABLE_4.items()
        for pattern, (top1, gflops) in column.items()
    ]


def _table_5() -> list[Printed]:
    return [
        Printed(table=5, label="All C (Avg pool)", setting=_alone(CHEAP, 32, 8), gflops=101.3, top1=66.7),
        Printed(table=5, label="All E (Avg pool)", setting=_alone(EXPENSIVE, 32, 8), gflops=959.3, top1=74.5),
        Printed(table=5, label="FASTER32", setting=PRESETS["faster32"], gflops=550.4, top1=74.6),
    ]


def _table_6() -> list[Printed]:
    return [
        Printed(
            table=6,
            label=f"{name}, {pattern}",
            setting=_alone(name, 32, 8)
            if pattern == "all-E"
            else Setting(pattern=pattern, clip_frames=32, clips=8, expensive=name),
            gflops=gflops,
            top1=top1,
        )
        for name, column in _TABLE_6.items()
        for pattern, (top1, gflops) in column.items()
    ]


def _table_7() -> list[Printed]:
    faster32_r3d = Setting(
        pattern="1:1", clip_frames=32, clips=8, expensive="r3d50"
    )  # §5: Table 7's is with R3D
    r2plus1d34 = _alone("r2plus1d34", 32, 115, size=112)
    return [
        Printed(
            table=7, label="R(2+1)D-34", setting=r2plus1d34, gflops=152, per_clip=True, decimals=0, top1=72.0
        ),
        Printed(
            table=7, label="FASTER16", setting=PRESETS["faster16"], gflops=14.4, per_clip=True, top1=71.7
        ),
        Printed(table=7, label="FASTER32 (R3D)", setting=faster32_r3d, gflops=67.7, per_clip=True, top1=75.3),
    ]


TABLES: dict[int, tuple[Printed, ...]] = {
    2: tuple(_table_2()),
    4: tuple(_table_4()),
    5: tuple(_table_5()),
    6: tuple(_table_6()),
    7: tuple(_table_7()),
}
"""The cost columns by table, in the paper's order. For Table 7, only rows with networks of this package."""
