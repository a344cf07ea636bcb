"""The end of a clip's way: writing its maps into the store, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ... import store as stores
from ...store.format.receipts import Receipt
from .batching import HostMapsAndLogits
from .events import Report, ShardEvent
from .job import Output, ShardTask


def shard_event(model: str, receipt: Receipt) -> ShardEvent:
    """Return the event for a receipt's shard."""
    return ShardEvent(
        model=model,
        shard=receipt.shard,
        view=receipt.view,
        videos=len(receipt.videos),
        failed=sum(not video.ok for video in receipt.videos),
        size_bytes=sum(stored.size_bytes for stored in receipt.objects),
    )


class ShardWriters:
    """The writers of the current shard, one per output.

    Use it in a `with` statement; what is not committed is dropped.
    """

    def __init__(
        self, path: Path, specs: Sequence[stores.FeatureSpec], manifest: stores.Manifest, report: Report
    ) -> None:
        self._path, self._specs, self._manifest, self._report = path, specs, manifest, report
        self._writers: dict[Output, stores.ShardWriter] = {}
        self._stack = ExitStack()

    def open(self, task: ShardTask) -> None:
        """Begin a shard."""
        for model, view in task.outputs:
            writer = stores.ShardWriter(
                self._path,
                self._specs[model],
                manifest=self._manifest,
                shard=task.shard,
                view=view,
                shard_videos=task.shard_videos,
            )
            self._writers[model, view] = self._stack.enter_context(writer)

    def add(self, output: Output, row: int, result: HostMapsAndLogits, facts: stores.ClipFacts) -> None:
        """Write one video's maps of one output."""
        maps, logits = result
        self._writers[output].add(row, maps, logits if self._specs[output[0]].num_classes else None, facts)

    def fail(self, output: Output, row: int, reason: str) -> None:
        """Record that an output has no maps of a video."""
        self._writers[output].fail(row, reason)

    def commit(self, output: Output) -> None:
        """Make the shard of one output part of the store."""
        receipt = self._writers.pop(output).commit()
        self._report(shard_event(self._specs[output[0]].model, receipt))
        if not self._writers:
            self._stack.close()

    def drop(self, output: Output) -> None:
        """Remove all that was written of one output's shard."""
        del self._writers[output]
        if not self._writers:
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
