"""Advice at the end of a run names what helps on the machine that it ran on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from faster.extract import advice
from faster.extract.advice import faster_forward
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.backbones.weights.load import random_weights
from faster.store import FeatureSpec
from stores import make_spec

CPU = "use a GPU, a machine with more cores, or a cheaper model"


def told(precision: str = "float32", clips: int = 400, devices: int = 1, **changes: Any) -> str:
    network = FrozenBackbone(random_weights("r2d14-w4")[0], precision=precision)
    spec: FeatureSpec = make_spec("r2d14-w4", transform={"size": 32}, precision=precision)
    for name, value in changes.items():
        setattr(network, name, value)
    return faster_forward([network], [spec], [clips], devices=devices)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores and two threads, bf16, and no GPU, wherever the tests run."""
    monkeypatch.setattr(advice.os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(advice, "has_bf16", lambda device: True)


def test_bf16_is_advised_where_it_was_not_used_and_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "_gain", lambda network, spec: 2.5)
    assert "--precision bf16" in told() and "40% of the time" in told() and "r2d14-w4" in told()
    assert told("bf16") == CPU
    monkeypatch.setattr(advice, "_gain", lambda network, spec: 1.02)
    assert told() == CPU  # measured, and not worth it
    monkeypatch.setattr(advice, "_gain", lambda network, spec: None)
    assert told() == CPU  # it does not run so
    monkeypatch.setattr(advice, "has_bf16", lambda device: False)
    assert told() == CPU


def test_a_short_run_has_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(network: FrozenBackbone, spec: FeatureSpec) -> float:
        raise AssertionError("a trial would take longer than the run")

    monkeypatch.setattr(advice, "_gain", trial)
    assert "try --precision bf16" in told(clips=8)


def test_a_trial_measures_and_a_network_that_fails_in_bf16_is_not_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = FrozenBackbone(random_weights("r2d14-w4")[0])
    spec = make_spec("r2d14-w4", transform={"size": 32})
    ratio = advice._gain(network, spec)
    assert ratio is not None and ratio > 0

    def fails(self: FrozenBackbone, clips: Any) -> Any:
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(FrozenBackbone, "__call__", fails)
    assert advice._gain(network, spec) is None


def test_what_this_machine_leaves_idle_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS allows 1 of the 2 here" in told("bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--devices cuda:0,cuda:1" in told("bf16")
    gpu = torch.device("cuda:0")
    assert "use all 2 GPUs" in told("bf16", device=gpu)
    assert "--batch-clips" in told("bf16", device=gpu, devices=2)
