"""The training loop: its schedule, its checkpoints, and that stopping changes nothing."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import CONFIG, STEPS, Blobs, contents, options
from faster.errors import Interrupted, RunError, StorageError, UsageError
from faster.runtime.atomic import replace
from faster.training.loop import TrainingRun, _is_finite, fit, own_randomness, run_config, step_seed
from faster.training.options import learning_rate_at
from faster.training.run_folder import init_run_dir
from processes import started
from safetensors.torch import load_file
from signals import interrupts
from torch import Tensor, nn


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Blobs]:
    folder, task = tmp_path_factory.mktemp("whole"), Blobs()
    fit(task, options(), folder, config=CONFIG, progress=False)
    return folder, task


def stop_and_go_on(whole: tuple[Path, Blobs], folder: Path, stopped: Blobs, **changes: object) -> None:
    """Stop a run where `stopped` says, go on with another, and hold both to the uninterrupted one."""
    epoch, step = stopped.stop_at or (0, 0)
    raised = KeyboardInterrupt if stopped.signal == signal.SIGINT else Interrupted
    with interrupts(), pytest.raises(raised, match=f"step {step + 1} of epoch {epoch + 1}"):
        fit(stopped, options(**changes), folder, config=CONFIG, progress=False)
    assert len(stopped.losses) == epoch * STEPS + step + 1
    assert stopped.closed == epoch + 1  # no generator (and no thread of one) is left behind

    again = Blobs()
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.fill_(5.0)  # what a resumed run starts with must not matter
    fit(again, options(**changes), folder, config=CONFIG, progress=False)
    assert stopped.losses | again.losses == whole[1].losses
    assert not stopped.losses.keys() & again.losses.keys()
    assert contents(folder) == contents(whole[0])


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("epoch", range(4))
def test_a_run_stopped_after_any_step_goes_on_bit_for_bit(
    whole: tuple[Path, Blobs], tmp_path: Path, epoch: int, step: int
) -> None:
    stop_and_go_on(whole, tmp_path, Blobs(stop_at=(epoch, step)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_other_signals_stop_a_run_too(
    whole: tuple[Path, Blobs], tmp_path: Path, number: signal.Signals
) -> None:
    stopped = Blobs(stop_at=(1, 2))
    stopped.signal = number
    stop_and_go_on(whole, tmp_path, stopped)


def test_in_the_background_ctrl_c_does_not_stop_a_run(whole: tuple[Path, Blobs], tmp_path: Path) -> None:
    task = Blobs(stop_at=(1, 2))
    task.signal = signal.SIGINT
    with interrupts(ignored=True):
        fit(task, options(), tmp_path, config=CONFIG, progress=False)
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.parametrize("changes", [{"optimizer": "adamw", "learning_rate": 0.01}, {"precision": "bf16"}])
def test_adamw_and_bf16_go_on_bit_for_bit(tmp_path: Path, changes: dict[str, object]) -> None:
    task = Blobs()
    fit(task, options(**changes), tmp_path / "whole", config=CONFIG, progress=False)
    for epoch, step in ((0, 0), (1, 3), (3, STEPS - 1)):
        stopped = Blobs(stop_at=(epoch, step))
        stop_and_go_on((tmp_path / "whole", task), tmp_path / f"{epoch}-{step}", stopped, **changes)


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


def test_a_run_driven_step_by_step_is_the_run_that_fit_trains(
    whole: tuple[Path, Blobs], tmp_path: Path
) -> None:
    task = Blobs()
    with (
        TrainingRun.begun(task, options(), tmp_path, config=CONFIG) as run,
        own_randomness(options()),
    ):
        while not run.finished:
            for batch in task.batches(run.state.epoch, run.state.step):
                torch.rand(3)  # what happens between two steps does not matter
                run.model.train()
                run.train_step(batch)
            assert run.epoch_is_over
            run.end_epoch()
        run.save()
    assert task.losses == whole[1].losses and contents(tmp_path) == contents(whole[0])


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path) -> None:
    init_run_dir(tmp_path, run_config(options(), CONFIG))
    hold = (
        "import sys; from pathlib import Path; from faster.training.run_folder import lock_run_dir\n"
        "with lock_run_dir(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        task = Blobs()
        with pytest.raises(RunError, match="another process is training into"):
            fit(task, options(), tmp_path, config=CONFIG, progress=False)
        assert not task.losses
        other.kill()  # whatever ends the other frees the folder
        other.wait()
    fit(task, options(), tmp_path, config=CONFIG, progress=False)
    assert task.losses


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


def test_digests_that_differ_come_last_and_are_not_spelt_out(tmp_path: Path) -> None:
    begun = {"classes": "0" * 64, "train": {"epochs": 2}}
    init_run_dir(tmp_path, begun)
    with pytest.raises(
        RunError, match=r"another config: train\.epochs is 2 there, 3 asked; classes differs; name"
    ):
        init_run_dir(tmp_path, {"classes": "1" * 64, "train": {"epochs": 3}})


def test_an_option_that_an_older_version_did_not_have_was_off(tmp_path: Path) -> None:
    init_run_dir(tmp_path, {"a": 1})
    init_run_dir(tmp_path, {"a": 1, "newer": False})
    with pytest.raises(RunError, match="newer is None there, True asked"):
        init_run_dir(tmp_path, {"a": 1, "newer": True})


def test_versions_are_recorded_and_not_compared(tmp_path: Path) -> None:
    init_run_dir(tmp_path, {"a": 1, "versions": {"torch": "1"}})
    init_run_dir(tmp_path, {"a": 1, "versions": {"torch": "2"}})
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


def test_adamw_is_torchs_with_decay_on_weights_only(tmp_path: Path) -> None:
    plan = options(epochs=1, warmup_epochs=0, optimizer="adamw", momentum=0.8, weight_decay=0.3, seed=1)
    task = Blobs()
    fit(task, plan, tmp_path, config=CONFIG, progress=False)

    plain = Blobs()
    plain.model.train()
    weights = [p for p in plain.model.parameters() if p.ndim > 1]
    others = [p for p in plain.model.parameters() if p.ndim <= 1]
    # Fused as there: the gradient of a bias before a norm is nothing but rounding, which AdamW makes large.
    optimizers = [
        torch.optim.AdamW(parameters, betas=(0.8, 0.999), weight_decay=decay, fused=True)
        for parameters, decay in ((weights, 0.3), (others, 0.0))
    ]
    for step, batch in enumerate(plain.batches(0, 0)):
        torch.manual_seed(step_seed(1, 0, step))
        plain.model.zero_grad()
        plain.loss(batch).backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / STEPS))
            optimizer.step()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(task.model.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    class Worse(Blobs):
        tops = (0.5, 0.7, 0.6, 0.7, 0.9)

        def validate(self) -> dict[str, float]:
            return {"top1": self.tops[max(epoch for epoch, _ in self.losses)]}

    plan = options(epochs=5, patience=2)
    first = Worse()
    assert fit(first, plan, tmp_path, config=CONFIG, progress=False).epoch == 2
    assert max(first.losses)[0] == 3  # epochs 3 and 4 were no better: of equal ones the first is best
    again = Worse()
    assert fit(again, plan, tmp_path, config=CONFIG, progress=False).epoch == 2 and not again.losses
    patient = Worse()
    assert (
        fit(patient, options(epochs=5, patience=3), tmp_path / "b", config=CONFIG, progress=False).epoch == 5
    )


def test_bf16_is_of_the_steps_only(tmp_path: Path) -> None:
    class Watched(Blobs):
        seen: set[tuple[bool, torch.dtype]]

        def loss(self, batch: tuple[int, int, Tensor, Tensor]) -> Tensor:
            self.seen.add((self.model.training, self.model[0](batch[2]).dtype))  # type: ignore[index, operator]
            return super().loss(batch)

        def validate(self) -> dict[str, float]:
            self.seen.add((self.model.training, self.model[0](torch.zeros(1, 6)).dtype))  # type: ignore[index, operator]
            return super().validate()

    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        task = Watched()
        task.seen = set()
        fit(task, options(precision=precision, epochs=1), tmp_path / precision, config=CONFIG, progress=False)
        assert task.seen == {(True, dtype), (False, torch.float32)}
        assert {p.dtype for p in task.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"learning_rate": math.nan},
        {"momentum": -1},
        {"momentum": 1.0},
        {"warmup_epochs": 4.5},
        {"patience": 0},
        {"optimizer": "adam"},
        {"precision": "float16"},
    ],
)
def test_options_that_cannot_be_meant(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(change))} is".replace("_", "-")):
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 7, 4099])
def test_what_is_finite(dtype: torch.dtype, size: int) -> None:
    value = torch.ones(size, dtype=dtype)
    assert _is_finite(value)
    if dtype.is_floating_point:
        for bad in (math.nan, math.inf, -math.inf):
            for place in {0, size // 2, size - 1} if size else ():
                broken = value.clone()
                broken[place] = bad
                assert not _is_finite(broken)
