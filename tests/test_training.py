"""The training loop: its schedule, its checkpoints, and that stopping changes nothing."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from faster.errors import Interrupted, RunError, StorageError, UsageError
from faster.run_folder import open_run
from faster.store.commit import replace
from faster.training import TrainingOptions, fit, learning_rate_at, step_seed
from safetensors.torch import load_file
from torch import Tensor, nn

STEPS = 5


class Blobs:
    """Two Gaussian blobs, a small network with dropout and batch norm."""

    def __init__(
        self, *, stop_at: tuple[int, int] | None = None, bad_at: tuple[int, int] | None = None
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model: nn.Module = nn.Sequential(
                nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
            )
        self.stop_at, self.bad_at = stop_at, bad_at
        self.losses: dict[tuple[int, int], float] = {}
        self.closed = 0

    steps_per_epoch = STEPS
    signal = signal.SIGTERM

    def batches(self, epoch: int, start_step: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        try:
            for step in range(start_step, STEPS):
                rng = np.random.default_rng([epoch, step])
                labels = rng.integers(0, 2, 16)
                x = (rng.normal(size=(16, 6)) + labels[:, None]).astype(np.float32)
                if (epoch, step) == self.bad_at:
                    x[0] = np.nan
                if (epoch, step) == self.stop_at:
                    os.kill(os.getpid(), self.signal)
                yield epoch, step, torch.from_numpy(x), torch.from_numpy(labels)
        finally:
            self.closed += 1

    def loss(self, batch: tuple[int, int, Tensor, Tensor]) -> Tensor:
        epoch, step, x, labels = batch
        loss = nn.functional.cross_entropy(self.model(x), labels)
        self.losses[epoch, step] = loss.item()
        return loss

    def video_ids(self, batch: tuple[int, int, Tensor, Tensor]) -> Sequence[str]:
        return [f"video-{batch[0]}-{batch[1]}-{i}" for i in range(len(batch[3]))]

    def validate(self) -> dict[str, float]:
        assert not self.model.training and not torch.is_grad_enabled()
        rng = np.random.default_rng(99)
        labels = rng.integers(0, 2, 200)
        x = torch.from_numpy((rng.normal(size=(200, 6)) + labels[:, None]).astype(np.float32))
        logits = self.model(x)
        right = (logits.argmax(1).numpy() == labels).mean()
        return {
            "top1": float(right),
            "loss": float(nn.functional.cross_entropy(logits, torch.from_numpy(labels))),
        }


def options(**changes: float | int | str) -> TrainingOptions:
    values: dict[str, object] = {
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 0.1,
        "warmup_epochs": 1,
        "seed": 7,
    }
    return TrainingOptions(**{**values, **changes})  # type: ignore[arg-type]


CONFIG = {"model": "blobs", "nested": {"width": 16}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Blobs]:
    folder, task = tmp_path_factory.mktemp("whole"), Blobs()
    fit(task, options(), folder, config=CONFIG, progress=False)
    return folder, task


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("events.out")}


@pytest.mark.parametrize(
    ("stop_at", "number", "raised"),
    [
        ((0, 0), signal.SIGTERM, Interrupted),
        ((1, 2), signal.SIGINT, KeyboardInterrupt),
        ((2, STEPS - 1), signal.SIGUSR1, Interrupted),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    whole: tuple[Path, Blobs],
    tmp_path: Path,
    stop_at: tuple[int, int],
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    stopped = Blobs(stop_at=stop_at)
    stopped.signal = number
    with pytest.raises(raised, match=f"step {stop_at[1] + 1} of epoch {stop_at[0] + 1}"):
        fit(stopped, options(), tmp_path, config=CONFIG, progress=False)
    assert len(stopped.losses) == stop_at[0] * STEPS + stop_at[1] + 1
    assert stopped.closed == stop_at[0] + 1  # no generator (and no thread of one) is left behind

    again = Blobs()
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.fill_(5.0)  # what a resumed run starts with must not matter
    fit(again, options(), tmp_path, config=CONFIG, progress=False)
    assert stopped.losses | again.losses == whole[1].losses
    assert not stopped.losses.keys() & again.losses.keys()
    assert contents(tmp_path) == contents(whole[0])


def test_a_kill_between_log_and_checkpoint_leaves_no_double_line(
    whole: tuple[Path, Blobs], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        fit(Blobs(stop_at=(2, 1)), options(), tmp_path, config=CONFIG, progress=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_lo')
    fit(Blobs(), options(), tmp_path, config=CONFIG, progress=False)
    assert contents(tmp_path) == contents(whole[0])


def test_a_finished_run_is_not_trained_again(whole: tuple[Path, Blobs]) -> None:
    before = contents(whole[0])
    task = Blobs()
    best = fit(task, options(), whole[0], config=CONFIG, progress=False)
    assert not task.losses and contents(whole[0]) == before
    lines = [json.loads(line) for line in (whole[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert best.metrics["top1"] == max(line["top1"] for line in lines) > 0.8
    assert best.epoch == min(lines, key=lambda line: (-line["top1"], line["loss"]))["epoch"]
    assert json.loads((whole[0] / "best.json").read_text()) == {"epoch": best.epoch, "metrics": best.metrics}
    for line in lines:
        losses = [whole[1].losses[line["epoch"] - 1, step] for step in range(STEPS)]
        assert line["train_loss"] == pytest.approx(np.mean(losses), rel=1e-12)


def test_of_equal_epochs_the_one_with_the_lower_loss_is_best(tmp_path: Path) -> None:
    class Tied(Blobs):
        losses_seen = iter([0.5, 0.2, 0.3, 0.2])

        def validate(self) -> dict[str, float]:
            return {"top1": 0.75, "loss": next(self.losses_seen)}

    assert fit(Tied(), options(), tmp_path, config=CONFIG, progress=False).epoch == 2


def test_best_holds_the_best_epochs_weights(whole: tuple[Path, Blobs]) -> None:
    best = json.loads((whole[0] / "best.json").read_text())
    task = Blobs()
    task.model.load_state_dict(load_file(whole[0] / "best.safetensors"))
    task.model.eval()
    with torch.no_grad():
        assert task.validate() == best["metrics"]


def test_the_callers_random_state_is_untouched(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fit(Blobs(), options(epochs=2), tmp_path, config=CONFIG, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_decides(whole: tuple[Path, Blobs], tmp_path: Path) -> None:
    other = Blobs()
    fit(other, options(seed=8), tmp_path, config=CONFIG, progress=False)
    assert other.losses != whole[1].losses
    assert len({step_seed(s, e, i) for s in range(5) for e in range(5) for i in range(5)}) == 125


def test_another_config_is_refused_with_the_difference(whole: tuple[Path, Blobs]) -> None:
    with pytest.raises(RunError, match=r"training\.learning_rate is 0\.1 there, 0\.2 asked"):
        fit(Blobs(), options(learning_rate=0.2), whole[0], config=CONFIG, progress=False)
    with pytest.raises(RunError, match=r"nested\.width is 16 there, 32 asked"):
        fit(Blobs(), options(), whole[0], config={**CONFIG, "nested": {"width": 32}}, progress=False)


def test_versions_are_recorded_and_not_compared(tmp_path: Path) -> None:
    open_run(tmp_path, {"a": 1, "versions": {"torch": "1"}})
    open_run(tmp_path, {"a": 1, "versions": {"torch": "2"}})
    assert json.loads((tmp_path / "config.json").read_text())["versions"] == {"torch": "1"}


@pytest.mark.parametrize("bad_at", [(0, 0), (1, STEPS - 1)])
def test_a_loss_that_is_not_finite_ends_the_run_and_never_becomes_best(
    tmp_path: Path, bad_at: tuple[int, int]
) -> None:
    with pytest.raises(RunError, match=rf"the loss is nan on video-{bad_at[0]}-{bad_at[1]}-0, .* and 8 more"):
        fit(Blobs(bad_at=bad_at), options(), tmp_path, config=CONFIG, progress=False)
    assert (tmp_path / "best.safetensors").exists() == (bad_at[0] > 0)
    if bad_at[0]:
        assert all(t.isfinite().all() for t in load_file(tmp_path / "best.safetensors").values())


@pytest.mark.parametrize("scale", [1e12, math.inf])
def test_a_runaway_gradient_ends_the_run(tmp_path: Path, scale: float) -> None:
    class Runaway(Blobs):
        def loss(self, batch: tuple[int, int, Tensor, Tensor]) -> Tensor:
            loss = super().loss(batch)
            loss.register_hook(lambda grad: grad * scale)
            return loss

    with pytest.raises(RunError, match=r"the norm of the gradient is .* on video-0-0-0"):
        fit(Runaway(), options(), tmp_path, config=CONFIG, progress=False)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_validation_figure_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    class Broken(Blobs):
        def validate(self) -> dict[str, float]:
            return {"top1": 1.0, "loss": math.nan}

    with pytest.raises(RunError, match="validation's loss is nan"):
        fit(Broken(), options(), tmp_path, config=CONFIG, progress=False)
    assert not (tmp_path / "best.safetensors").exists()


def test_weights_that_are_not_finite_never_become_best(tmp_path: Path) -> None:
    class Spoiled(Blobs):
        def loss(self, batch: tuple[int, int, Tensor, Tensor]) -> Tensor:
            if batch[1] == STEPS - 1:
                with torch.no_grad():
                    self.model[1].running_mean.fill_(math.inf)  # type: ignore[index, union-attr]
            return super().loss(batch)

    with pytest.raises(RunError, match=r"1\.running_mean is not finite"):
        fit(Spoiled(), options(), tmp_path, config=CONFIG, progress=False)
    assert not (tmp_path / "best.safetensors").exists()


def test_the_schedule_against_the_formula() -> None:
    plan = options(epochs=10, warmup_epochs=2, learning_rate=0.4)
    rates = [learning_rate_at(plan, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.4 * (i + 1) / 11 for i in range(10)])
    assert rates[10:] == pytest.approx([0.2 * (1 + math.cos(math.pi * i / 40)) for i in range(40)])
    assert max(rates) == rates[10] == pytest.approx(0.4)
    assert learning_rate_at(options(warmup_epochs=0), 0, 5) == pytest.approx(0.1)
    all_warmup = [learning_rate_at(options(epochs=1, warmup_epochs=1), step, 4) for step in range(4)]
    assert all_warmup == pytest.approx([0.02, 0.04, 0.06, 0.08])


def test_one_step_is_sgd_by_hand(tmp_path: Path) -> None:
    """Momentum, decay on weights only, clipping: against the update written out."""

    class Line(Blobs):
        steps_per_epoch = 2

        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(6, 2)
            with torch.no_grad():
                self.model.weight.fill_(0.1)  # type: ignore[operator, union-attr]
                self.model.bias.fill_(0.2)  # type: ignore[operator, union-attr]

    plan = options(epochs=1, warmup_epochs=0, weight_decay=0.1, max_gradient_norm=0.05)
    task = Line()
    fit(task, plan, tmp_path, config=CONFIG, progress=False)

    weight, bias = torch.full((2, 6), 0.1), torch.full((2,), 0.2)
    v_weight, v_bias = torch.zeros(2, 6), torch.zeros(2)
    for step, (_, _, x, labels) in zip(range(2), Line().batches(0, 0), strict=False):
        error = torch.softmax(x @ weight.T + bias, 1) - nn.functional.one_hot(labels, 2)
        g_weight, g_bias = error.T @ x / 16, error.mean(0)
        norm = math.sqrt(float((g_weight**2).sum() + (g_bias**2).sum()))
        assert norm > 0.05  # or the clipping is not tried
        v_weight = 0.9 * v_weight + g_weight * 0.05 / norm + 0.1 * weight
        v_bias = 0.9 * v_bias + g_bias * 0.05 / norm
        rate = 0.05 * (1 + math.cos(math.pi * step / 2))
        weight, bias = weight - rate * v_weight, bias - rate * v_bias
    torch.testing.assert_close(task.model.weight, weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(task.model.bias, bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"learning_rate": math.nan}, {"momentum": -1}, {"warmup_epochs": 4.5}]
)
def test_options_that_cannot_be_meant(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        options(**change)


def test_a_damaged_checkpoint_is_an_error(whole: tuple[Path, Blobs], tmp_path: Path) -> None:
    for name, data in contents(whole[0]).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "last.safetensors").write_bytes(b"not tensors")
    with pytest.raises(RunError, match="cannot be resumed from"):
        fit(Blobs(), options(), tmp_path, config=CONFIG, progress=False)


def test_a_file_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"File exists; what is whole is kept"):
        replace(tmp_path / "file" / "below.json", b"{}")
