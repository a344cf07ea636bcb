"""Several processes that train one model together, as `torchrun` starts them (DDP)."""

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

# A rank waits this long for another; one that has failed is noticed at once, by torchrun.
PATIENCE = timedelta(hours=2)
# Processes that torchrun did not start come within this time: variables may be left over, and nobody else be there.
JOINING = timedelta(seconds=5)
_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_TORCHRUNS_OWN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes at work together, and which of them, `rank` of `count`, this one is.

    Every rank calls the methods below in the same order. With one rank they return what they are given.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def shard(self, length: int) -> slice:
        """This rank's share of `length` things: one run of them, equal to the others' up to one thing."""
        size, longer = divmod(length, self.count)
        start = self.rank * size + min(self.rank, longer)
        return slice(start, start + size + (self.rank < longer))

    def all_gather(self, value: ValueT) -> list[ValueT]:
        """Every rank's value, in the order of ranks."""
        if self.count == 1:
            return [value]
        values: list[ValueT | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # all are filled in

    def total(self, value: float) -> float:
        """The sum over the ranks, in float64; the same number on each."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        return int(self._reduced(value, dist.ReduceOp.MAX))

    def wait(self) -> None:
        """Return when every rank has come here."""
        self.total(0.0)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the first one's buffers: batch statistics are each rank's own until then."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def sharing_gradients(self, module: nn.Module, *, varies: bool = False) -> nn.Module:
        """The module with each gradient the ranks' mean, exchanged while the others are computed.

        With `varies`, which parameters a step uses may differ from step to step and from rank to rank.
        """
        if self.count == 1:
            return module
        # One clip a video leaves recurrent weights out of each step's graph, a drawn pattern models out of some.
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
    """The ranks that torchrun started, and which this one is; `ALONE` without it, and for a world of one.

    Raises:
        UsageError: some of torchrun's variables are set and others are not, or their values cannot be.
    """
    world = {name: value for name in _SET_BY_TORCHRUN if (value := os.environ.get(name, ""))}
    if world.get("WORLD_SIZE", "1") == "1" or not {"RANK", "LOCAL_RANK"} & world.keys():
        return ALONE  # WORLD_SIZE alone is something else's
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
    """One line: which variables there are, what is wrong with them, and what to do."""
    world = [f"{name}={os.environ[name]}" for name in _SET_BY_TORCHRUN if os.environ.get(name)]
    names = " ".join(name for name in _SET_BY_TORCHRUN if os.environ.get(name))
    return (
        f"the environment has {' '.join(world)}, as for one of several processes that train together, and "
        f"{what}; to train "
        f"with this one alone: unset {names}; with several: torchrun --nproc-per-node N -m faster.cli …"
    )


@contextmanager
def init_distributed(device: str | None) -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks that torchrun started and this one's device; without torchrun, `ALONE` and the device named.

    Under torchrun `device` is "cpu", or None or "cuda" for the GPU of the rank's own number. May be nested.

    Raises:
        UsageError: no such device, or one GPU named for several ranks; or torchrun's variables are left over from elsewhere,
            and the other processes do not come.
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
    # Its defaults are the group there is when it is first imported, by a module that shares gradients at the latest: it
    # would keep the group, and the threads that may want the interpreter when that is gone (SIGABRT, rarely).
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
    """The store of `torch.distributed` at which ranks that torchrun did not start have met.

    Raises:
        UsageError: they do not, within `JOINING`.
    """
    host, port, deadline = (
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        monotonic() + JOINING.total_seconds(),
    )
    try:
        if not ranks.is_main:
            _await_listener(host, port, deadline)
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]  # it is public, and not said to be
            host, port, ranks.count, is_master=ranks.is_main, timeout=JOINING, wait_for_workers=False
        )
        store.set(f"here/{ranks.rank}", "")
        left = max(deadline - monotonic(), 1.0)
        store.wait([f"here/{rank}" for rank in range(ranks.count)], timedelta(seconds=left))
    except (OSError, RuntimeError) as error:  # PyTorch's own errors of networks and stores are RuntimeErrors
        taken = ranks.is_main and "EADDRINUSE" in str(error)
        what = f"port {port} is taken" if taken else f"not all of them came within {JOINING.seconds} s"
        raise UsageError(_left_over(what)) from error
    store.set_timeout(PATIENCE)
    return store


def _await_listener(host: str, port: int, deadline: float) -> None:
    """Return when somebody listens there. Raises OSError where nobody does until the deadline."""
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
