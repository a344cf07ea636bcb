"""Sources: which files and formats are found, links, limits, segments."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faster.errors import SourceError, UsageError
from faster.extract.sources.folder import is_video_name
from faster.extract.sources.read import Source, VideoRecord, read_source, segment_source
from sources import KINETICS_HEADER, labels, touch, write


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder with none beside it: sources look beside themselves, where other tests' lists would lie."""
    inner = tmp_path / "data"
    inner.mkdir()
    return inner


class TestFiles:
    def test_an_unlabelled_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.mp4", "a b.webm", ".hidden.mp4", "list.m3u8", "c.sdp", "c.ffconcat", "mp4")
        source = read_source(tmp_path)
        assert source.format == "files"
        assert source.videos == tuple(VideoRecord(id=name, path=name) for name in ("a b.webm", "b.mp4"))
        assert source.class_names == ()
        assert source.notes == ("1 hidden video file or broken link is left out",)

    def test_named_files_keep_their_order_and_share_a_root(self, tmp_path: Path) -> None:
        touch(tmp_path, "x/b.mp4", "x/y/a.mp4", "x/not named.mp4")
        source = read_source(
            [tmp_path / "x" / "b.mp4", str(tmp_path / "x/y/a.mp4"), tmp_path / "x/y/../b.mp4"]
        )
        assert source.root == tmp_path / "x"
        assert [v.id for v in source.videos] == ["b.mp4", "y/a.mp4"]
        assert read_source([tmp_path / "x/b.mp4"], video_root=tmp_path).videos[0].id == "x/b.mp4"
        assert read_source(tmp_path / "x/y/a.mp4").videos == (VideoRecord(id="a.mp4", path="a.mp4"),)

    def test_a_folder_without_its_classes(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/a.mp4")
        assert labels(read_source(tmp_path, format="files")) == {"yoga/a.mp4": "-"}

    def test_named_files_not_on_disk(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4")
        files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
        with pytest.raises(SourceError, match=r"1 of 2 .*'b\.mp4'"):
            read_source(files)
        assert [v.id for v in read_source(files, allow_missing=True).missing] == ["b.mp4"]

    def test_what_is_no_source(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4", "b.mp4", "empty/x.txt", "hidden/.a.mp4", "list.m3u8")
        cases: list[tuple[object, str]] = [
            (tmp_path / "none", "no such file or folder"),
            (tmp_path / "empty", "no videos in .*extensions: 3gp, avi"),
            (tmp_path / "hidden", "no videos in .*1 hidden file or broken link is left out"),
            (tmp_path / "list.m3u8", "is no video .* --format"),
            ([tmp_path / "a.mp4", tmp_path / "list.m3u8"], "is not a video file"),
        ]
        for source, what in cases:
            with pytest.raises(SourceError, match=what):
                read_source(source)  # type: ignore[arg-type]
        with pytest.raises(SourceError, match="is not under the video root"):
            read_source([tmp_path / "a.mp4"], video_root=tmp_path / "empty")
        with pytest.raises(UsageError, match="no source"):
            read_source([])

    @pytest.mark.parametrize("name", ["a.mp4", "a.MKV", "a.b.Webm", "x y.3gp"])
    def test_videos_by_name(self, name: str) -> None:
        assert is_video_name(name)

    @pytest.mark.parametrize(
        "name", ["mp4", "a.m3u8", "a.m3u", "a.sdp", "a.mpd", "a.ffconcat", "a.mp4.part", "a.txt"]
    )
    def test_no_videos_by_name(self, name: str) -> None:
        assert not is_video_name(name)


class TestLinks:
    def test_within_the_root_are_followed_but_never_in_circles(self, tmp_path: Path) -> None:
        root = touch(tmp_path / "root", "a/x.mp4", "b/y.mp4")
        (root / "a" / "to_b").symlink_to(root / "b")
        (root / "b" / "to_a").symlink_to("../a")
        (root / "b" / "up").symlink_to(root)
        (root / "a" / "again.mp4").symlink_to("x.mp4")
        found = {v.path for v in read_source(root).videos}
        assert found == {
            "a/x.mp4",
            "a/again.mp4",
            "a/to_b/y.mp4",
            "b/y.mp4",
            "b/to_a/x.mp4",
            "b/to_a/again.mp4",
        }

    @pytest.mark.parametrize("target", ["file", "folder"])
    @pytest.mark.parametrize("name", ["class-folders", "files"])
    def test_out_of_the_root_are_refused(self, tmp_path: Path, target: str, name: str) -> None:
        root = touch(tmp_path / "root", "a/x.mp4")
        touch(tmp_path / "other", "y.mp4")
        if target == "file":
            (root / "a" / "y.mp4").symlink_to(tmp_path / "other" / "y.mp4")
        else:
            (root / "b").symlink_to(tmp_path / "other")
        with pytest.raises(SourceError, match=r"outside the video root"):
            read_source(root, format=name)

    def test_a_listed_path_through_a_folder_out_of_the_root_is_refused(self, tmp_path: Path) -> None:
        root = touch(tmp_path / "root", "a/x.mp4")
        touch(tmp_path / "other", "y.mp4")
        (root / "b").symlink_to(tmp_path / "other")
        file = write(tmp_path / "list.txt", "a/x.mp4 0", "b/y.mp4 1")
        with pytest.raises(SourceError, match=r"list\.txt:2: 'b/y\.mp4' is a link to .*outside"):
            read_source(file, video_root=root)

    def test_a_named_file_out_of_the_root_is_refused(self, tmp_path: Path) -> None:
        touch(tmp_path, "other/y.mp4", "root/x.mp4")
        (tmp_path / "root" / "y.mp4").symlink_to(tmp_path / "other" / "y.mp4")
        with pytest.raises(SourceError, match=r"outside the video root"):
            read_source([tmp_path / "root" / "x.mp4", tmp_path / "root" / "y.mp4"])

    def test_broken_ones_are_left_out_and_said(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/x.mp4")
        (tmp_path / "a" / "y.mp4").symlink_to("gone.mp4")
        source = read_source(tmp_path)
        assert labels(source) == {"a/x.mp4": "a"}
        assert any("1 hidden video file or broken link is left out" in note for note in source.notes)

    def test_the_root_itself_may_be_one_and_its_lists_lie_beside_the_link(self, tmp_path: Path) -> None:
        touch(tmp_path / "disk" / "k", "a.mp4")
        write(tmp_path / "project" / "train_list.txt", "a.mp4 0")
        (tmp_path / "project" / "videos").symlink_to(tmp_path / "disk" / "k")
        for given in (tmp_path / "project" / "videos", tmp_path / "project" / "train_list.txt"):
            source = read_source(given)
            assert (source.format, source.root) == ("mmaction", tmp_path / "disk" / "k")

    def test_a_name_that_is_no_text_is_listed_with_escapes_among_the_others(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/x.mp4")
        others = [Path(os.fsdecode(bytes(tmp_path) + name)) for name in (b"/a/caf\xe9.mp4", b"/\xff/y.mp4")]
        try:
            for other in others:
                other.parent.mkdir(exist_ok=True)
                other.touch()
        except OSError:
            pytest.skip("this file system takes only UTF-8 names")
        assert labels(read_source(tmp_path)) == {
            "\\xff/y.mp4": "\\xff",
            "a/caf\\xe9.mp4": "a",
            "a/x.mp4": "a",
        }
        assert labels(read_source([others[0], tmp_path / "a" / "x.mp4"])) == {
            "caf\\xe9.mp4": "-",
            "x.mp4": "-",
        }


class TestChoice:
    def test_two_formats_that_fit_are_named_and_either_can_be_chosen(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "yoga/abc_000003_000013.mp4")
        write(tmp_path / "train.csv", KINETICS_HEADER, "yoga,abc,3,13,train")
        write(tmp_path / "train_list.txt", "yoga/abc_000003_000013.mp4 0")
        for folder in (tmp_path, tmp_path / "videos"):
            with pytest.raises(
                SourceError, match=r"kinetics \(train\.csv .*mmaction \(train_list\.txt .*--format"
            ):
                read_source(folder)
        for name in ("kinetics", "mmaction", "class-folders", "files"):
            assert read_source(tmp_path / "videos", format=name).format == name
        assert read_source(tmp_path / "train.csv").format == "kinetics"

    def test_lists_in_the_folder_go_before_lists_beside_it(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "yoga/a.mp4", "abc_000003_000013.mp4")
        write(tmp_path / "train.csv", KINETICS_HEADER, "yoga,abc,3,13,train")
        write(tmp_path / "videos" / "list.txt", "yoga/a.mp4 0")
        assert read_source(tmp_path / "videos").format == "mmaction"

    def test_text_that_is_no_list_is_no_candidate(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "yoga/a.mp4")
        write(tmp_path / "shopping list.txt", "eggs 12")
        write(tmp_path / "results.csv", "video,score", "a.mp4,0.5")
        write(tmp_path / "videos" / "README.txt", "Videos of yoga.")
        (tmp_path / "videos" / "broken_list.txt").write_bytes(bytes(range(256)))
        assert read_source(tmp_path / "videos").format == "class-folders"

    def test_lists_beside_the_folder_that_are_about_other_videos(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "yoga/a.mp4")
        write(tmp_path / "splits" / "wave_test_split1.txt", "b.avi 1")
        source = read_source(tmp_path / "videos")
        assert source.format == "class-folders"
        assert any("about none of its videos: hmdb51 (wave_test" in note for note in source.notes)
        with pytest.raises(SourceError, match="nor any beside it that names its videos"):
            read_source(tmp_path / "videos", format="hmdb51")
        write(tmp_path / "train_list.txt", "b.mp4 0")
        with pytest.raises(
            SourceError, match=r"none of the 1 video listed by mmaction .*--format class-folders"
        ):
            read_source(tmp_path / "videos", allow_missing=True)
        write(tmp_path / "train.csv", KINETICS_HEADER, "yoga,abc,3,13,train")
        touch(tmp_path / "videos", "abc_000003_000013.mp4")
        assert read_source(tmp_path / "videos").format == "kinetics"

    def test_the_video_root_is_the_first_that_holds_a_listed_video(self, tmp_path: Path) -> None:
        file = write(tmp_path / "annotations" / "train_list.txt", "a.mp4 0")
        for place in ("annotations", "videos", "annotations/videos"):
            touch(tmp_path / place, "a.mp4")
            assert read_source(file).root == tmp_path / place
        touch(tmp_path / "explicit", "a.mp4")
        assert read_source(file, video_root=tmp_path / "explicit").root == tmp_path / "explicit"

    def test_unknown_format_names_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"unknown annotation format 'ucf'.*did you mean ucf101"):
            read_source(tmp_path, format="ucf")

    def test_options_that_do_not_go_together(self, tmp_path: Path) -> None:
        touch(tmp_path, "yoga/a.mp4")
        file = write(tmp_path / "lists" / "l.txt", "yoga/a.mp4 0")
        with pytest.raises(UsageError, match="does not go with them"):
            read_source(tmp_path / "yoga" / "a.mp4", format="kinetics")
        with pytest.raises(UsageError, match="takes a folder"):
            read_source(file, format="class-folders")
        with pytest.raises(UsageError, match="--video-root goes with annotation files"):
            read_source(tmp_path, format="class-folders", video_root=tmp_path)
        with pytest.raises(SourceError, match="no annotation files in"):
            read_source(tmp_path / "yoga", video_root=tmp_path)
        with pytest.raises(SourceError, match=r"no hmdb51 annotation files in .*, nor any beside"):
            read_source(tmp_path, format="hmdb51")
        with pytest.raises(SourceError, match="no folder"):
            read_source(file, video_root=tmp_path / "nowhere")

    def test_an_empty_list(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.csv", KINETICS_HEADER)
        with pytest.raises(SourceError, match=r"no videos are listed by kinetics \(a\.csv"):
            read_source(file)


class TestLimit:
    def counts(self, source: Source, key: Callable[[VideoRecord], object]) -> dict[object, int]:
        return dict(Counter(key(v) for v in source.videos))

    def test_covers_the_classes_evenly_in_source_order(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"a/{i:02}.mp4" for i in range(20)), "b/0.mp4", *(f"c/{i}.mp4" for i in range(5)))
        whole = read_source(tmp_path).videos
        limited = read_source(tmp_path, limit=7)
        assert self.counts(limited, lambda v: v.label) == {0: 3, 1: 1, 2: 3}
        assert list(limited.videos) == [v for v in whole if v in limited.videos]
        assert any("limited to 7 of 26" in note for note in limited.notes)
        assert limited.class_names == ("a", "b", "c")
        assert read_source(tmp_path, limit=26).videos == read_source(tmp_path, limit=99).videos == whole

    def test_covers_the_parts_within_a_class(self, tmp_path: Path) -> None:
        touch(tmp_path / "v", *(f"{c}/{i}.mp4" for c in "ab" for i in range(9)))
        write(
            tmp_path / "v_train_list.txt", *(f"{c}/{i}.mp4 {'ab'.index(c)}" for c in "ab" for i in range(7))
        )
        write(tmp_path / "v_val_list.txt", *(f"{c}/{i}.mp4 {'ab'.index(c)}" for c in "ab" for i in (7, 8)))
        limited = read_source(tmp_path / "v", limit=6)
        parts = self.counts(limited, lambda v: (v.label, v.splits["mmaction"]))
        assert parts == {(0, "train"): 2, (0, "val"): 1, (1, "train"): 2, (1, "val"): 1}

    def test_more_is_a_superset_of_less(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{i % 4}/{i}.mp4" for i in range(23)))
        taken = [{v.id for v in read_source(tmp_path, limit=n).videos} for n in range(1, 24)]
        assert [len(ids) for ids in taken] == list(range(1, 24))
        assert all(less < more for less, more in itertools.pairwise(taken))

    def test_counts_videos_on_disk(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.mp4", "c.mp4")
        file = write(tmp_path / "list.txt", "a.mp4 0", "b.mp4 0", "c.mp4 0")
        source = read_source(file, limit=1, allow_missing=True)
        assert [v.id for v in source.videos] == ["b.mp4"]
        assert [v.id for v in source.missing] == ["a.mp4"]

    def test_must_be_one_or_more(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="limit must be at least 1, found 0"):
            read_source(tmp_path, limit=0)


class TestSegments:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        touch(tmp_path, "yoga/a.mp4", "yoga/b.mp4")
        return read_source(tmp_path)

    @pytest.mark.parametrize(
        ("duration", "bounds"),
        [
            (30.0, ["0,10", "10,20", "20,30"]),
            (24.999, ["0,10", "10,24.999"]),
            (25.0, ["0,10", "10,20", "20,25"]),
            (27.36, ["0,10", "10,20", "20,27.36"]),
            (10.0, ["0,10"]),
            (3.2, ["0,3.2"]),
        ],
    )
    def test_bounds(self, source: Source, duration: float, bounds: list[str]) -> None:
        cut = segment_source(source, {"yoga/a.mp4": duration}, 10)
        segments = [v for v in cut.videos if v.path == "yoga/a.mp4"]
        assert [v.id for v in segments] == [f"yoga/a.mp4#t={bound}" for bound in bounds]
        assert [f"{v.start_seconds:g},{v.end_seconds:g}" for v in segments] == bounds
        assert segments[0].start_seconds == 0 and segments[-1].end_seconds == duration

    def test_segments_keep_what_their_video_is(self, source: Source) -> None:
        cut = segment_source(source, {"yoga/a.mp4": 5.0, "yoga/b.mp4": 2.0}, 1)
        assert [v.path for v in cut.videos] == ["yoga/a.mp4"] * 5 + ["yoga/b.mp4"] * 2
        assert len({v.id for v in cut.videos}) == 7
        for video in source.videos:
            mine = [v for v in cut.videos if v.path == video.path]
            assert {(v.label, v.splits["auto"], v.group) for v in mine} == {
                (video.label, video.splits["auto"], video.id)
            }
        assert (cut.root, cut.class_names, cut.format) == (source.root, source.class_names, source.format)

    def test_lengths_that_are_no_binary_fraction_leave_no_sliver(self, source: Source) -> None:
        for count in range(1, 200):
            cut = segment_source(source, {"yoga/a.mp4": count * 0.1}, 0.1).videos[:-1]
            assert len(cut) == count
            assert all(a.end_seconds == pytest.approx(b.start_seconds) for a, b in itertools.pairwise(cut))

    @pytest.mark.parametrize("duration", [None, 0.0, float("nan"), float("inf")])
    def test_a_video_without_a_duration_stays_whole(self, source: Source, duration: float | None) -> None:
        durations = {} if duration is None else {"yoga/a.mp4": duration}
        assert segment_source(source, durations, 10).videos == source.videos

    def test_refusals(self, source: Source) -> None:
        for every in (0.0, -1.0, 0.05, float("nan"), float("inf")):
            with pytest.raises(UsageError, match=r"at least 0\.1 s"):
                segment_source(source, {}, every)
        cut = segment_source(source, {"yoga/a.mp4": 5.0}, 1)
        with pytest.raises(UsageError, match="is a segment already"):
            segment_source(cut, {}, 1)
