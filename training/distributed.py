"""Several processes that train one model together, started by `torchrun` (DDP)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from ..errors import UsageError
from ..runtime.devices import choose_device
from ..runtime.workarounds import native_output_to_stderr

ValueT = TypeVar("ValueT")

# A rank waits this long for the others; torchrun notices a failed rank immediately.
PATIENCE = timedelta(hours=2)
# Without torchrun the processes must come within this time: the variables may be left over from another run.
JOINING = timedelta(seconds=5)
_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_TORCHRUNS_OWN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that train together; this one is `rank` of `count`.

    Every rank must call the methods below in the same order. With one rank they return their argument.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def shard(self, length: int) -> slice:
        """Return this rank's contiguous share of `length` items; shares differ by at most one item."""
        size, longer = divmod(length, self.count)
        start = self.rank * size + min(self.rank, longer)
        return slice(start, start + size + (self.rank < longer))

    def all_gather(self, value: ValueT) -> list[ValueT]:
        """Return every rank's value, in the order of ranks."""
        if self.count == 1:
            return [value]
        values: list[ValueT | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # all are filled in

    def total(self, value: float) -> float:
        """Return the sum over the ranks, in float64; the same number on each."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        """Return the largest of the ranks' values."""
        return int(self._reduced(value, dist.ReduceOp.MAX))

    def wait(self) -> None:
        """Wait until every rank has called this."""
        self.total(0.0)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the first rank's buffers to every rank: each one has its own batch statistics until then."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def sharing_gradients(self, module: nn.Module, *, varies: bool = False) -> nn.Module:
        """Return the module with each gradient averaged over the ranks, exchanged while others are computed.

        With `varies`, a step may use other parameters than another step or rank.
        """
        if self.count == 1:
            return module
        # With one clip per video no step uses recurrent weights; with a drawn pattern some skip a model.
        return nn.parallel.DistributedDataParallel(
            module, static_graph=not varies, find_unused_parameters=varies
        )

    def _reduced(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)  # on the CPU, through gloo
        dist.all_reduce(tensor, operation)
        return float(tensor)


ALONE = Ranks()


def started() -> Ranks:
    """Return the ranks that torchrun started; `ALONE` without it, and for a world size of one.

    Raises:
        UsageError: some of torchrun's variables are not set, or their values are impossible.
    """
    world = {name: value for name in _SET_BY_TORCHRUN if (value := os.environ.get(name, ""))}
    if world.get("WORLD_SIZE", "1") == "1" or not {"RANK", "LOCAL_RANK"} & world.keys():
        return ALONE  # other tools set WORLD_SIZE too
    if missing := [name for name in _SET_BY_TORCHRUN if name not in world]:
        raise UsageError(
            _left_over(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set")
        )
    numbers = [world[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise UsageError(_left_over("not all of them are numbers"))
    rank, count, _, port = map(int, numbers)
    if not rank < count or port >= 1 << 16:
        raise UsageError(_left_over("there is no such rank" if port < 1 << 16 else "there is no such port"))
    return Ranks(rank=rank, count=count)


def _left_over(what: str) -> str:
    """Return one line with the variables that are set, what is wrong with them, and what to do."""
    world = [f"{name}={os.environ[name]}" for name in _SET_BY_TORCHRUN if os.environ.get(name)]
    names = " ".join(name for name in _SET_BY_TORCHRUN if os.environ.get(name))
    return (
        f"the environment has {' '.join(world)}, as for one of several processes that train together, and "
        f"{what}; to train "
        f"with this one alone: unset {names}; with several: torchrun --nproc-per-node N -m faster.cli …"
    )


@contextmanager
def init_distributed(device: str | None) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the ranks that torchrun started; yields them and this rank's device, or `ALONE` and `device`.

    Under torchrun `device` is "cpu", or None or "cuda" for the GPU of the rank's own number. May be nested.

    Raises:
        UsageError: no such device, or one GPU named for several ranks; or torchrun's variables are left over
            from another run, and the other processes do not come.
    """
    ranks = started()
    if ranks == ALONE:
        yield ALONE, choose_device(device)
        return
    chosen = _device_of(int(os.environ["LOCAL_RANK"]), device)
    if dist.is_initialized():
        yield ranks, chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # Import this before a group exists. Its default arguments hold the group of the first import, which is at
    # the latest in a module that shares gradients. They would keep the group, and threads that may need the
    # interpreter after its end (SIGABRT, rarely).
    from torch.distributed.nn import functional  # noqa: F401

    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    store = None if os.environ.get(_TORCHRUNS_OWN) else _meet(ranks)
    place = {} if store is None else {"store": store, "rank": ranks.rank, "world_size": ranks.count}
    with native_output_to_stderr():
        dist.init_process_group(backend, timeout=PATIENCE, **place)
    try:
        yield ranks, chosen
    finally:
        dist.destroy_process_group()


def _meet(ranks: Ranks) -> Any:
    """Return the `torch.distributed` store at which ranks without torchrun have met.

    Raises:
        UsageError: they have not met within `JOINING`.
    """
    host, port, deadline = (
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        monotonic() + JOINING.total_seconds(),
    )
    try:
        if not ranks.is_main:
            _await_listener(host, port, deadline)
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]  # public, but not declared
            host, port, ranks.count, is_master=ranks.is_main, timeout=JOINING, wait_for_workers=False
        )
        store.set(f"here/{ranks.rank}", "")
        left = max(deadline - monotonic(), 1.0)
        store.wait([f"here/{rank}" for rank in range(ranks.count)], timedelta(seconds=left))
    except (OSError, RuntimeError) as error:  # PyTorch's network and store errors are RuntimeErrors
        taken = ranks.is_main and "EADDRINUSE" in str(error)
        what = f"port {port} is taken" if taken else f"not all of them came within {JOINING.seconds} s"
        raise UsageError(_left_over(what)) from error
    store.set_timeout(PATIENCE)
    return store


def _await_listener(host: str, port: int, deadline: float) -> None:
    """Return when a process listens on the port. Raises OSError if none does until the deadline."""
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(deadline - monotonic(), 0.1)):
                return
        except OSError:
            if monotonic() > deadline:
                raise
            sleep(0.1)


def _device_of(local_rank: int, name: str | None) -> torch.device:
    if name == "cpu" or (name is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in (None, "cuda"):
        raise UsageError(f"--device {name} for several processes; leave it out, and each takes its own GPU")
    return choose_device(f"cuda:{local_rank}")
