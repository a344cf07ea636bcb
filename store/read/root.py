"""What all models of a store share: its folder, its manifest, and the size of its shards."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ...errors import StoreError
from ..format import manifest as manifests
from ..format.attributes import read_group_attributes
from ..format.checksummed_json import FORMAT
from ..format.manifest import Manifest


class StoreRoot:
    """A store's folder, checked; the manifest is read on first use.

    Attributes:
        path: the store's folder, a `RemotePath` on object storage.
        shard_videos: videos per shard, the same for every model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        attributes = read_group_attributes(path)
        if attributes.get("format") != FORMAT:
            raise StoreError(f"{path} has format {attributes.get('format')!r}; this version reads {FORMAT}")
        shard_videos = attributes.get("shard_videos")
        if type(shard_videos) is not int or not 1 <= shard_videos <= 1_000_000:
            raise StoreError(f"{path}: {shard_videos!r} videos a shard; the store's metadata is damaged")
        self.shard_videos = shard_videos

    @cached_property
    def videos(self) -> Manifest:
        """The manifest: ids, paths, labels and splits, one row per video."""
        return manifests.load(self.path)
