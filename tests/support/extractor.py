"""Runs `faster extract` many times in children that share their imports, and kills them at chosen steps or times."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's end: its exit code, -9 where it was killed, and the steps it took, such as "link before"."""

    code: int
    steps: list[str]

    def shards_begun(self) -> set[tuple[str, int]]:
        """The (model, shard) that the run began to write."""
        begun = [step.split() for step in self.steps if step.startswith("begin ")]
        return {(model, int(shard)) for _, model, shard in begun}


class Extractor:
    """A process that has imported everything, and forks for each run; its shards hold `shard_videos` videos."""

    def __init__(self, arguments: Sequence[str], *, shard_videos: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(shard_videos), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(
        self, store: Path, *more: str, kill_at: tuple[str, int] | None = None, kill_after: float | None = None
    ) -> Run:
        """Extract into `store`; the run is killed at `kill_at`, a step and its how-manieth time, or after some seconds."""
        assert self._process.stdin and self._process.stdout
        request = {"arguments": [*more, "--store", str(store)], "kill_at": kill_at, "kill_after": kill_after}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Run(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()


def _serve(shard_videos: int, arguments: list[str]) -> None:

    import contextlib
    import tempfile

    from faster.cli import main

    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stderr),
        contextlib.suppress(SystemExit),
    ):
        main([*arguments, "--store", f"{folder}/warm.zarr"])  # imports whatever is imported late
    for line in sys.stdin:
        request = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            os.close(reader)
            _child(shard_videos, [*arguments, *request["arguments"]], request["kill_at"], writer)
        os.close(writer)
        steps = _read_steps(reader, child, request["kill_after"])
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "steps": steps}), flush=True)


def _read_steps(reader: int, child: int, kill_after: float | None) -> list[str]:
    """What the child writes until it ends, or is killed with all its decoders."""
    import time

    data, deadline = b"", None if kill_after is None else time.monotonic() + kill_after
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            os.killpg(child, signal.SIGKILL)
            deadline = None
            continue
        block = os.read(reader, 1 << 16)
        if not block:
            os.close(reader)
            return data.decode().splitlines()
        data += block


def _child(shard_videos: int, arguments: list[str], kill_at: list[object] | None, log: int) -> None:
    from faster import store as stores
    from faster.cli import main
    from faster.extract import run
    from faster.extract.backbones.inference import frozen
    from faster.extract.video.decoder_pool import DecoderPool

    counts: Counter[str] = Counter()

    def step(name: str) -> None:
        counts[name] += 1
        os.write(log, f"{name}\n".encode())
        if [name, counts[name]] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepped(owner: Any, attribute: str, *, after: bool = False) -> None:
        inner: Callable[..., Any] = getattr(owner, attribute)
        name = attribute.strip("_")

        def outer(*values: Any, **named: Any) -> Any:
            step(f"{name} before")
            result = inner(*values, **named)
            if after:
                step(f"{name} after")
            return result

        setattr(owner, attribute, outer)

    enter = stores.ShardWriter.__enter__

    def begin(self: stores.ShardWriter) -> stores.ShardWriter:
        step(f"begin {self._spec.model} {self._shard}")
        return enter(self)

    os.set_inheritable(log, False)
    for name in ("link", "replace"):
        stepped(os, name, after=True)
    stepped(os, "fsync")
    stepped(stores.ShardWriter, "add")
    stepped(frozen.FrozenBackbone, "__call__")
    stepped(DecoderPool, "_wait")
    stores.ShardWriter.__enter__ = begin  # type: ignore[method-assign]
    run.shard_videos_for = lambda *_: shard_videos  # type: ignore[attr-defined]
    sys.stdout = sys.stderr  # ours speaks to the test
    try:
        main([*arguments])
    except SystemExit as left:
        os._exit(left.code if isinstance(left.code, int) else 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
