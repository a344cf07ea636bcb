"""A store's maps as a `torch.utils.data.Dataset`, for the user's own training loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ... import store as stores
from ...errors import DataError, UsageError
from .loader import ClipReader, ReadPlan, drawn_clips, uniform_clips
from .mix import Mix, MixRequest, choose_mix, choose_split, no_videos, require_unseen, subset_rows
from .pattern import ANY


class ClipMaps(Dataset[dict[str, Any]]):
    """The labelled videos of one part of a split whose maps are complete; an item is N clips of one video.

    An item is a dict. `torch.utils.data.default_collate` makes a batch of items:

        maps     (N, l, h, w, c) float16 tensor, the clips in time order; if the models' maps differ in shape,
                 a list of N tensors (l, h, w, c), collated to N batches
        models   (N,) int64 tensor, the model of each clip, an index into `models`
        label    int, an index into `class_names`
        row      int, the video's row in the store: `store.open(path).videos.ids[row]` is its id

    In the train part, each epoch draws one of a video's views and N of its clips, as a function of (seed,
    epoch, video). `train_agg` draws from the same views and clips. Call `set_epoch` before each epoch, as
    with torch's DistributedSampler; persistent workers do not see the call. Other parts give the clips of an
    evaluation: N clips of the centre view, spread uniformly.

    The dataset can be pickled, and each process opens the store itself. If the loader asks for a complete
    batch, as torch's does, it is read in one go.

    Args:
        store: the store's path.
        pattern: "1:7", "all-E", "all-C"; by default 1:7, or all-E if the store has one model. Not "any".
        split, part: a named split, by default the only one or the first by name; "train", "val" or "test".
        clips: N; by default all of the store's M.
        expensive, cheap, clip_frames: as in `TrainConfig`.
        seed: of what the train part draws.

    Raises:
        DataError: the store does not have what is asked, or a backbone in use was trained on a video of the
            val or test part.
        StoreError: the path is not a valid store; when reading an item, a clip is damaged.
        UsageError: the pattern or part does not exist, or the model is ambiguous.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        pattern: str | None = None,
        split: str | None = None,
        part: str = "train",
        clips: int | None = None,
        expensive: str | None = None,
        cheap: str | None = None,
        clip_frames: int | None = None,
        seed: int = 0,
    ) -> None:
        if pattern == ANY:
            raise UsageError(f"ClipMaps takes one pattern, such as 1:7; {ANY} draws another for each video")
        self.path, self.part, self.seed, self.epoch = store, part, seed, 0
        self._asked = MixRequest(
            pattern=pattern, clips=clips, clip_frames=clip_frames, expensive=expensive, cheap=cheap
        )
        opened, mix = self._open()
        self.split = choose_split(opened, split)
        self.rows, self.coverage = subset_rows(opened, mix, self.split, part)
        if not len(self.rows):
            raise DataError(no_videos(opened, mix, self.split, part, options="split or part"))
        if part != "train":
            require_unseen(opened, mix, self.rows, self.split, part)
        self.class_names, self.models = opened.class_names, tuple(mix.features)
        self.map_shapes, self.clips, self.pattern = mix.map_shapes, mix.clips, str(mix.pattern)
        self.labels: NDArray[np.int64] = opened.videos.labels[self.rows].astype(np.int64)
        self._asked = replace(
            self._asked, pattern=mix.pattern, clips=mix.clips
        )  # settled, in case the store grows

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw new views and clips for the train part: the same for the same seed and epoch."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one video's item. Raises IndexError if there is none."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the items of several videos, read together."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        batch = self._reader.read(*self._plan(rows)).to(torch.device("cpu"))
        maps: list[Any]
        if len(set(self.map_shapes.values())) == 1:
            maps = list(batch.dense(torch.float16))
        else:
            times = [batch.at(t)[0].to(torch.float16) for t in range(self.clips)]
            maps = [[time[video] for time in times] for video in range(len(rows))]
        models: Tensor = batch.model_of
        return [
            {"maps": maps[i], "models": models[i], "label": int(batch.labels[i]), "row": int(row)}
            for i, row in enumerate(rows)
        ]

    def _plan(self, rows: NDArray[np.int64]) -> ReadPlan:
        mix = self._reader.mix
        if self.part != "train":
            return uniform_clips(mix, rows)
        each = [
            drawn_clips(mix, rows[i : i + 1], np.random.default_rng([self.seed, self.epoch, int(row)]))
            for i, row in enumerate(rows)
        ]
        return ReadPlan(*(np.concatenate(values) for values in zip(*each, strict=True)))

    def _open(self) -> tuple[stores.Store, Mix]:
        """Open the store, once in each process."""
        opened = stores.open(self.path)
        mix = choose_mix(opened, self._asked)
        self._opened = os.getpid(), ClipReader(mix, opened.videos.labels, reads="maps", depth=0)
        return opened, mix

    @property
    def _reader(self) -> ClipReader:
        if self._opened[0] != os.getpid():  # in a worker
            self._open()
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (0, None)}
