"""What folders say: where classes begin, parts, links to other disks, files that are no videos."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from click.testing import CliRunner
from faster import store as stores
from faster.errors import SourceError, UsageError
from faster.extract.commands import extract_command
from faster.extract.sources.read import read_source
from faster.predict.clip_stream import list_videos
from sources import labels, splits, touch
from videos import make_video


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder with none beside it: sources look beside themselves, where other tests' lists would lie."""
    inner = tmp_path / "data"
    inner.mkdir()
    return inner


class TestTheFolderOfAllVideos:
    @pytest.mark.parametrize("name", ["videos", "Videos", "clips", "data", "kinetics400"])
    def test_is_no_class(self, tmp_path: Path, name: str) -> None:
        touch(tmp_path, f"{name}/yoga/a.mp4", f"{name}/tango/b.mp4", "empty/.keep", "readme.txt")
        source = read_source(tmp_path)
        assert source == read_source(tmp_path / name) or source.videos == read_source(tmp_path / name).videos
        assert source.root == tmp_path / name
        assert source.class_names == ("tango", "yoga")
        assert any(f"read as the source: {str(tmp_path / name)!r}" in note for note in source.notes)

    def test_also_where_it_holds_one_class_or_none_or_parts(self, tmp_path: Path) -> None:
        touch(tmp_path, "one/videos/yoga/a.mp4", "flat/videos/a.mp4", "parts/videos/train/yoga/a.mp4")
        assert labels(read_source(tmp_path / "one")) == {"yoga/a.mp4": "yoga"}
        assert labels(read_source(tmp_path / "flat")) == {"a.mp4": "-"}
        assert splits(read_source(tmp_path / "parts")) == {"train/yoga/a.mp4": {"folders": "train"}}

    def test_also_where_it_is_a_link_to_another_disk(self, tmp_path: Path) -> None:
        disk = touch(tmp_path / "disk" / "k", "yoga/a.mp4", "tango/b.mp4")
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "videos").symlink_to(disk)
        assert read_source(tmp_path / "project").root == disk

    def test_a_lone_class_stays_one(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/a.mp4", "yoga/day 1/b.mp4", "yoga/day 2/c.mp4")
        assert set(labels(read_source(tmp_path)).values()) == {"yoga"}

    def test_nor_is_one_below_others_or_beside_loose_videos(self, tmp_path: Path) -> None:
        touch(tmp_path, "deep/a/b/videos/yoga/a.mp4", "deep/a/b/videos/tango/b.mp4")
        assert read_source(tmp_path / "deep").root == tmp_path / "deep" / "a" / "b" / "videos"
        touch(tmp_path, "loose/demo.mp4", "loose/videos/yoga/a.mp4", "loose/clips/tango/b.mp4")
        assert labels(read_source(tmp_path / "loose")) == {
            "clips/tango/b.mp4": "tango",
            "demo.mp4": "-",
            "videos/yoga/a.mp4": "yoga",
        }

    def test_a_class_of_two_words_beside_one_of_the_first(self, tmp_path: Path) -> None:
        touch(tmp_path, "swing/a.mp4", "swing/b/c.mp4", "swing dance/d.mp4")
        assert read_source(tmp_path).class_names == ("swing", "swing dance")

    def test_is_no_class_within_parts(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/train/videos/yoga/a.mp4", "a/test/videos/tango/b.mp4", "b/train/videos/a.mp4")
        assert read_source(tmp_path / "a").class_names == ("tango", "yoga")
        with pytest.raises(SourceError, match=r"a\.mp4: lies in .*in no class folder.*--format files"):
            read_source(tmp_path / "b")


class TestParts:
    @pytest.mark.parametrize(
        "names", [("Train", "VAL"), ("train_256", "val_256"), ("train_videos", "validation-set")]
    )
    def test_by_other_names(self, tmp_path: Path, names: tuple[str, str]) -> None:
        touch(tmp_path, f"{names[0]}/yoga/a.mp4", f"{names[1]}/tango/b.mp4")
        source = read_source(tmp_path)
        assert source.class_names == ("tango", "yoga")
        assert [video.splits["folders"] for video in source.videos] == ["train", "val"]

    def test_below_the_classes(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/train/a.mp4", "yoga/test/b.mp4", "tango/train/c.mp4")
        source = read_source(tmp_path)
        assert source.class_names == ("tango", "yoga")
        assert splits(source)["yoga/test/b.mp4"] == {"folders": "test"}
        touch(tmp_path, "waltz/solo/d.mp4")
        assert set(splits(read_source(tmp_path))["yoga/test/b.mp4"]) == {"auto"}

    def test_below_a_lone_class(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/train/a.mp4", "yoga/test/b.mp4")
        assert labels(read_source(tmp_path)) == {"yoga/test/b.mp4": "yoga", "yoga/train/a.mp4": "yoga"}
        assert splits(read_source(tmp_path))["yoga/test/b.mp4"] == {"folders": "test"}

    def test_beside_folders_that_are_none(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/yoga/a.mp4", "val/yoga/b.mp4", "extra/yoga/c.mp4")
        with pytest.raises(SourceError, match=r"'train', 'val' are parts of a split.*'extra'"):
            read_source(tmp_path)

    def test_one_class_with_its_name_composed_in_two_ways(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/caf\u00e9/a.mp4", "test/cafe\u0301/b.mp4")
        assert len(read_source(tmp_path).class_names) == 1


class TestLeftOut:
    def test_counted_by_extension_and_bare_classes_are_named(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/a.mp4", "tango/b.xyz", "tango/c.XYZ", "tango/d.jpg", "waltz/.keep", "x.csv")
        notes = read_source(tmp_path).notes
        assert "files left out, no videos by their extension: 2 .xyz, 1 .jpg" in notes
        assert "folders without videos, so no classes: 2, 'tango', 'waltz'" in notes

    def test_a_link_that_leads_nowhere_may_have_been_a_class(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/a.mp4")
        (tmp_path / "tango").symlink_to(tmp_path / "gone")
        for follow in (False, True):
            notes = read_source(tmp_path, follow_links=follow).notes
            assert "1 hidden video file or broken link is left out" in notes

    def test_in_a_part(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/yoga/a.mp4", "train/tango/b.mp4", "test/yoga/c.mp4", "test/tango/d.xyz")
        assert "folders without videos, so no classes: 1, 'test/tango'" in read_source(tmp_path).notes

    def test_nothing_but_other_files(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/a.xyz", "yoga/b.xyz")
        with pytest.raises(SourceError, match=r"no videos in .*files left out.*2 \.xyz"):
            read_source(tmp_path)


# Extension → the codec and container that cameras, discs and sites put behind it.
CONTAINERS = {
    "MTS": ("libx264", "mpegts", {"mpegts_m2ts_mode": "1"}),
    "m2ts": ("libx264", "mpegts", {"mpegts_m2ts_mode": "1"}),
    "ts": ("mpeg2video", "mpegts", {}),
    "vob": ("mpeg2video", "vob", {}),
    "mpg": ("mpeg1video", "mpeg", {}),
    "ogv": ("libvpx", "ogg", {}),
    "asf": ("mpeg4", "asf", {}),
    "wmv": ("wmv2", "asf", {}),
    "f4v": ("libx264", "mp4", {}),
    "3g2": ("mpeg4", "3g2", {}),
    "flv": ("flv", "flv", {}),
    "WebM": ("libvpx", "webm", {}),
    "divx": ("mpeg4", "avi", {}),
    "gif": ("gif", "gif", {}),
}


class TestContainers:
    @pytest.fixture
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A video of each container, with its extension in `named/` and without one in `bare/`."""
        open_container = av.open
        for extension, (codec, container, options) in CONTAINERS.items():
            path = tmp_path / "v" / "named" / f"{extension}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with monkeypatch.context() as patched:
                patched.setattr(
                    av,
                    "open",
                    lambda file, mode, c=container, o=options: open_container(
                        file, mode, format=c, options=o
                    ),
                )
                if codec == "gif":
                    patched.undo()
                    make_gif(path)
                else:
                    make_video(path, codec=codec, frames=20)
            (tmp_path / "v" / "bare").mkdir(exist_ok=True)
            (tmp_path / "v" / "bare" / extension).write_bytes(path.read_bytes())
        touch(tmp_path / "v" / "bare", "README", "LICENSE")
        (tmp_path / "v" / "bare" / "README").write_text("Videos without extensions.\n" * 99)
        return tmp_path

    def test_all_are_extracted(self, root: Path) -> None:
        videos = read_source(root / "v").videos
        assert {video.path for video in videos} == {
            *(f"named/{extension}.{extension}" for extension in CONTAINERS),
            *(f"bare/{extension}" for extension in CONTAINERS),
        }
        store = root / "s.zarr"
        words = f"{root / 'v'} --model r2d14-w4 --allow-random --size 32 --clips 1 --store {store}"
        result = CliRunner().invoke(extract_command, words.split())
        assert result.exit_code == 0, result.output
        assert f"{len(videos)} of {len(videos)} videos are whole" in result.output
        assert stores.open(store).class_names == ("bare", "named")

    def test_a_bare_file_can_be_named_and_listed(self, root: Path) -> None:
        assert [v.id for v in read_source(root / "v" / "bare" / "vob").videos] == ["vob"]
        with pytest.raises(SourceError, match="is no video"):
            read_source(root / "v" / "bare" / "README")


def make_gif(path: Path) -> None:
    import numpy as np

    with av.open(path, "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for level in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level * 12, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode(None))


class TestFollowLinks:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name, level in (("yoga", 1), ("tango", 2)):
            (tmp_path / "disk" / name).mkdir(parents=True)
            make_video(tmp_path / "disk" / name / "a.mp4", frames=16, number=level)
            (tmp_path / "root").mkdir(exist_ok=True)
            (tmp_path / "root" / name).symlink_to(tmp_path / "disk" / name)
        return tmp_path / "root"

    def test_class_folders_on_other_disks(self, root: Path) -> None:
        with pytest.raises(SourceError, match=r"outside the video root .*--follow-links"):
            read_source(root)
        store = root.parent / "s.zarr"
        words = f"{root} --follow-links --model r2d14-w4 --allow-random --size 32 --clips 1 --store {store}"
        result = CliRunner().invoke(extract_command, words.split())
        assert result.exit_code == 0, result.output
        assert stores.open(store).class_names == ("tango", "yoga")
        assert "2 of 2 videos are whole" in result.output

    def test_never_in_a_circle(self, root: Path) -> None:
        (root.parent / "disk" / "yoga" / "up").symlink_to(root.parent)
        (root.parent / "disk" / "yoga" / "back").symlink_to(root)
        (root / "loop").symlink_to(root.parent / "disk")
        found = {video.path for video in read_source(root, follow_links=True).videos}
        assert {"yoga/a.mp4", "tango/a.mp4", "loop/yoga/a.mp4"} <= found
        assert all(path.count("/") < 6 for path in found)

    def test_links_to_files_and_lists_of_them(self, root: Path) -> None:
        (root / "b.mp4").symlink_to(root.parent / "disk" / "yoga" / "a.mp4")
        (root / "gone.mp4").symlink_to(root.parent / "nowhere.mp4")
        (root / "train_list.txt").write_text("yoga/a.mp4 0\nb.mp4 1\n")
        with pytest.raises(SourceError, match=r"train_list\.txt:1: .*--follow-links"):
            read_source(root)
        assert [v.id for v in read_source(root, follow_links=True).videos] == ["yoga/a.mp4", "b.mp4"]
        named = read_source([root / "b.mp4", root / "yoga" / "a.mp4"], follow_links=True)
        assert len(named.videos) == 2


class TestCommands:
    @pytest.mark.parametrize("name", ["", "rtsp://camera/1"])
    def test_an_empty_name_or_an_address_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(touch(tmp_path, "a.mp4"))
        result = CliRunner().invoke(extract_command, [name, "--model", "r2d14-w4", "--allow-random"])
        assert isinstance(result.exception, UsageError)
        assert repr(name) in str(result.exception) or "the source is empty" in str(result.exception)
        with pytest.raises(UsageError, match=r"is empty|not supported yet"):
            list_videos([name])
