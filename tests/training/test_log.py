"""A run's log: metrics.jsonl, and TensorBoard events that hold the same, also after a run went on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faster.training.log import epoch_log


def test_a_damaged_log_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\x00\n{}\n")
    with epoch_log(tmp_path, epochs_done=1) as log:
        log({"epoch": 2, "loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'\xff\x00\n{"epoch": 2, "loss": 1.0}\n'


def test_events_are_written_and_read_back(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard, an optional extra, is not installed",
    )
    with epoch_log(tmp_path, epochs_done=0) as log:
        for epoch in (1, 2, 3):
            log({"epoch": epoch, "loss": 1.0 / epoch, "top1": 0.25 * epoch})
    with epoch_log(tmp_path, epochs_done=1) as log:  # stopped after epoch 1: the two others are trained again
        log({"epoch": 2, "loss": 0.375, "top1": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "top1"}
    for name in ("loss", "top1"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(line["epoch"], pytest.approx(line[name])) for line in lines]
