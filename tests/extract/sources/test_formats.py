"""Every annotation format, on a small data set of empty files with the right names."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from faster.errors import SourceError
from faster.extract.sources.formats import annotation_format, file_formats, known_formats
from faster.extract.sources.read import VideoRecord, read_source
from places import SHARED
from sources import KINETICS_HEADER, labels, splits, touch, write


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder with none beside it: sources look beside themselves, where other tests' lists would lie."""
    inner = tmp_path / "data"
    inner.mkdir()
    return inner


# A small data set of each format that reads files: the list, its lines, a broken line, and a second copy of
# the last line that contradicts it.
CASES: dict[str, dict[str, str]] = {
    "kinetics": {
        "file": "all.csv",
        "before": KINETICS_HEADER,
        "line": "opening a bottle,-aB_x é,7,17,train",
        "path": "opening a bottle/-aB_x é_000007_000017.mkv",
        "class": "opening a bottle",
        "missing": "opening a bottle,zzz,7,17,train",
        "malformed": "opening a bottle,zzz,seven,17,train",
        "contradiction": "yoga,-aB_x é,7,17,train",
        "leaving": "yoga,../../up,7,17,train",
    },
    "mmaction": {
        "file": "val_list.txt",
        "before": "yoga/first.mp4 0",
        "line": "héading soccer/a video (1).mp4 1",
        "path": "héading soccer/a video (1).mp4",
        "class": "héading soccer",
        "missing": "yoga/zzz.mp4 0",
        "malformed": "yoga/x.mp4 one",
        "contradiction": "héading soccer/a video (1).mp4 0",
        "leaving": "../up.mp4 1",
    },
    "csv": {
        "file": "train.csv",
        "before": "path,label,split",
        "line": "héading soccer/a video (1).mp4,héading soccer,train",
        "path": "héading soccer/a video (1).mp4",
        "class": "héading soccer",
        "missing": "yoga/zzz.mp4,yoga,train",
        "malformed": "yoga/x.mp4,yoga",
        "contradiction": "héading soccer/a video (1).mp4,yoga,train",
        "leaving": "../up.mp4,yoga,train",
    },
    "ucf101": {
        "file": "trainlist01.txt",
        "before": "Yoga/v_Yoga_g01_c01.avi 1",
        "line": "Åir Guitar/v_Air Guitar_g07_c02.avi 2",
        "path": "Åir Guitar/v_Air Guitar_g07_c02.avi",
        "class": "Åir Guitar",
        "missing": "Yoga/v_Yoga_g01_c03.avi 1",
        "malformed": "Yoga/v_Yoga_g01_c02.avi",
        "contradiction": "Åir Guitar/v_Air Guitar_g07_c02.avi 1",
        "leaving": "Yoga/../../up.avi 1",
    },
    "hmdb51": {
        "file": "brush_hair_test_split1.txt",
        "before": "first.avi 2 ",
        "line": "Kate & Åsa [x] #1.avi 1 ",
        "path": "brush_hair/Kate & Åsa [x] #1.avi",
        "class": "brush_hair",
        "missing": "zzz.avi 0",
        "malformed": "x.avi 3",
        "contradiction": "Kate & Åsa [x] #1.avi 2",
        "leaving": "../../up.avi 1",
    },
}
FIRST = {"mmaction": "yoga/first.mp4", "ucf101": "Yoga/v_Yoga_g01_c01.avi", "hmdb51": "brush_hair/first.avi"}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str], Path]:
    """(format, its case, the list's path): the list with two lines, its videos in `videos/` beside it."""
    name = request.param
    data = CASES[name]
    touch(tmp_path / "videos", data["path"], *([FIRST[name]] if name in FIRST else []))
    if name == "ucf101":
        write(tmp_path / "classInd.txt", "1 Yoga", "2 Åir Guitar")
    return name, data, write(tmp_path / data["file"], data["before"], data["line"])


class TestEveryListFormat:
    def test_has_a_case_here(self) -> None:
        assert {each.name for each in file_formats()} == set(CASES)
        assert set(known_formats()) == {*CASES, "class-folders", "files"}

    def test_a_format_registers_once(self) -> None:
        with pytest.raises(ValueError, match="'kinetics' is registered twice"):
            annotation_format("kinetics")(lambda files, listing: None)

    def test_is_recognised_and_read(self, case: tuple[str, dict[str, str], Path]) -> None:
        name, data, file = case
        source = read_source(file)
        assert source.format == name
        assert source.root == file.parent / "videos"
        assert labels(source)[data["path"]] == data["class"]
        assert source.missing == ()
        assert read_source(file, format=name, video_root=source.root) == source

    def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
        self, case: tuple[str, dict[str, str], Path]
    ) -> None:
        _, _, file = case
        plain = read_source(file)
        for each in file.parent.glob("*.[ct][sx][vt]"):
            each.write_bytes(b"\xef\xbb\xbf" + each.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
        assert read_source(file) == plain

    def test_a_line_said_twice_is_one_record(self, case: tuple[str, dict[str, str], Path]) -> None:
        _, data, file = case
        once = read_source(file)
        write(file, data["before"], data["line"], data["line"])
        assert read_source(file) == once

    @pytest.mark.parametrize("what", ["malformed", "contradiction", "leaving"])
    def test_the_line_at_fault_is_named(self, case: tuple[str, dict[str, str], Path], what: str) -> None:
        _, data, file = case
        write(file, data["before"], data["line"], "", data[what], data[what])
        with pytest.raises(SourceError) as error:
            read_source(file, allow_missing=True)
        assert str(error.value).startswith(f"{file}:4: ")
        assert str(error.value).endswith("(and 1 more such problems)")
        assert "\n" not in str(error.value)

    def test_a_video_not_on_disk_is_an_error_or_recorded(
        self, case: tuple[str, dict[str, str], Path]
    ) -> None:
        _, data, file = case
        write(file, data["before"], data["missing"], data["line"])
        whole = read_source(file, allow_missing=True)
        assert len(whole.missing) == 1 and data["path"] in labels(whole)
        assert any("recorded as missing" in note for note in whole.notes)
        with pytest.raises(SourceError, match="1 of ") as error:
            read_source(file)
        assert "--allow-missing" in str(error.value)

    def test_all_videos_missing_is_always_an_error(self, case: tuple[str, dict[str, str], Path]) -> None:
        _, _, file = case
        empty = file.parent / "elsewhere"
        empty.mkdir()
        with pytest.raises(SourceError, match="none of the") as error:
            read_source(file, video_root=empty, allow_missing=True)
        assert str(empty) in str(error.value) and "--video-root" in str(error.value)

    def test_a_link_out_of_the_root_is_refused(
        self, case: tuple[str, dict[str, str], Path], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        _, data, file = case
        secret = tmp_path_factory.mktemp("outside") / "secret.mp4"
        secret.touch()
        video = file.parent / "videos" / data["path"]
        video.unlink()
        video.symlink_to(secret)
        with pytest.raises(SourceError, match="outside the video root"):
            read_source(file, allow_missing=True)

    def test_text_that_is_not_utf8_names_its_line(self, case: tuple[str, dict[str, str], Path]) -> None:
        _, data, file = case
        file.write_bytes(f"{data['before']}\n".encode() + b"\xff\xfe")
        with pytest.raises(SourceError, match=":2: not UTF-8"):
            read_source(file)


class TestKinetics:
    @pytest.mark.parametrize("folder", ["", "yoga", "validate", "val/yoga", "validate/some name"])
    def test_files_lie_flat_or_in_folders(self, tmp_path: Path, folder: str) -> None:
        path = f"{folder}/abc_000003_000013.webm".lstrip("/")
        touch(tmp_path / "k400", path)
        file = write(tmp_path / "a.csv", KINETICS_HEADER, "yoga,abc,3,13,validate")
        source = read_source(file, video_root=tmp_path / "k400")
        assert source.videos == (
            VideoRecord(id="abc_000003_000013", path=path, label=0, splits={"kinetics": "val"}),
        )

    def test_a_folder_of_several(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", *(f"{letter}_000000_000010.mp4" for letter in "abcd"))
        write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split", "d,0,10,test")
        write(tmp_path / "train.csv", KINETICS_HEADER, "yoga,a,0,10,train", '"a, b",b,0.0,10.0,train')
        write(tmp_path / "validate.csv", KINETICS_HEADER + ",is_cc", "yoga,c,0,10,validate,0")
        source = read_source(tmp_path)
        assert source.class_names == ("a, b", "yoga")
        assert [(v.id[0], v.label, v.splits["kinetics"]) for v in source.videos] == [
            ("d", -1, "test"),
            ("a", 1, "train"),
            ("b", 0, "train"),
            ("c", 1, "val"),
        ]
        assert any("kinetics" in note and "train.csv" in note for note in source.notes)

    def test_of_two_files_of_one_clip_the_folder_decides_or_it_is_an_error(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.csv", KINETICS_HEADER, "yoga,abc,3,13,train")
        touch(tmp_path, "videos/yoga/abc_000003_000013.mp4", "videos/tango/abc_000003_000013.mp4")
        assert labels(read_source(file)) == {"yoga/abc_000003_000013.mp4": "yoga"}
        touch(tmp_path, "videos/yoga/abc_000003_000013.mkv")
        with pytest.raises(SourceError, match=r"a\.csv:2: 2 files fit"):
            read_source(file)

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            ("yoga,b,0,10", "4 fields where the header has 5"),
            ("yoga,b,0,10,holdout", "unknown split 'holdout'"),
            ("yoga,b,0,inf,train", "must be seconds"),
        ],
    )
    def test_malformed_lines(self, tmp_path: Path, line: str, what: str) -> None:
        touch(tmp_path, "a_000000_000010.mp4")
        file = write(tmp_path / "a.csv", KINETICS_HEADER, "yoga,a,0,10,train", line)
        with pytest.raises(SourceError, match=rf"a\.csv:3: .*{what}"):
            read_source(file)

    def test_a_missing_column(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.csv", "label,youtube_id,split", "yoga,a,train")
        with pytest.raises(SourceError, match=r"a\.csv:1: the header lacks time_end, time_start"):
            read_source(file, format="kinetics")

    def test_one_clip_in_two_parts_is_an_error(self, tmp_path: Path) -> None:
        touch(tmp_path, "a_000000_000010.mp4")
        file = write(tmp_path / "a.csv", KINETICS_HEADER, "yoga,a,0,10,train", "yoga,a,0,10,test")
        with pytest.raises(SourceError, match=r"a\.csv:3: .* in test here, but in train of the same split"):
            read_source(file)


class TestMmaction:
    def test_parts_from_the_names_of_several_lists(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "yoga/a.mp4", "tango/b.mp4", "tango/c.mp4")
        write(tmp_path / "k_train_list_videos.txt", "yoga/a.mp4 1", "./tango//b.mp4 0")
        write(tmp_path / "k_val_list_videos.txt", "tango/c.mp4 0")
        source = read_source(tmp_path)
        assert labels(source) == {"yoga/a.mp4": "yoga", "tango/b.mp4": "tango", "tango/c.mp4": "tango"}
        assert splits(source) == {
            "yoga/a.mp4": {"mmaction": "train"},
            "tango/b.mp4": {"mmaction": "train"},
            "tango/c.mp4": {"mmaction": "val"},
        }

    def test_numbered_lists_are_splits_of_their_own(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "a.mp4", "b.mp4")
        for number, (train, val) in enumerate(["ab", "ba"], start=1):
            write(tmp_path / f"h_train_split_{number}_videos.txt", f"{train}.mp4 0")
            write(tmp_path / f"h_val_split_{number}_videos.txt", f"{val}.mp4 0")
        assert splits(read_source(tmp_path)) == {
            "a.mp4": {"split1": "train", "split2": "val"},
            "b.mp4": {"split1": "val", "split2": "train"},
        }

    def test_classes_without_folders_are_numbers(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4", "b.mp4")
        source = read_source(write(tmp_path / "list.txt", "a.mp4 2", "b.mp4 0"))
        assert source.class_names == ("0", "1", "2")
        assert set(next(iter(source.videos)).splits) == {"auto"}

    @pytest.mark.parametrize("label", ["-1", "1.0", "100000", "9" * 5000])
    def test_what_is_no_label(self, tmp_path: Path, label: str) -> None:
        touch(tmp_path, "a.mp4")
        file = write(tmp_path / "list.txt", "a.mp4 0", f"a.mp4 {label}")
        with pytest.raises(SourceError, match=r"list\.txt:2: a label, 0 to 99999"):
            read_source(file)

    @pytest.mark.parametrize(
        "path", ["/etc/x.mp4", "..", "a/../../x.mp4", "x.m3u8", "x.ffconcat", "frames 90"]
    )
    def test_what_is_no_path_of_a_video(self, tmp_path: Path, path: str) -> None:
        touch(tmp_path, "a.mp4", "x.m3u8")
        file = write(tmp_path / "list.txt", "a.mp4 0", f"{path} 0")
        with pytest.raises(SourceError, match=r"list\.txt:2: .*(leaves the video root|not a video file)"):
            read_source(file, allow_missing=True)


class TestUcf101:
    @pytest.fixture
    def lists(self, tmp_path: Path) -> Path:
        lists = tmp_path / "ucfTrainTestlist"
        a, b, c = (f"Archery/v_Archery_g0{group}_c01.avi" for group in (1, 2, 3))
        d = "Surfing/v_Surfing_g25_c04.avi"
        write(lists / "classInd.txt", "1 Archery", "2 Surfing")
        write(lists / "trainlist01.txt", f"{b} 1", f"{c} 1", f"{d} 2")
        write(lists / "testlist01.txt", a)
        write(lists / "trainlist02.txt", f"{a} 1", f"{d} 2")
        write(lists / "testlist02.txt", b)
        touch(tmp_path / "UCF-101", a, b, c, d)
        return lists

    def test_all_lists_make_one_record_a_video(self, lists: Path) -> None:
        source = read_source(lists)
        assert source.class_names == ("Archery", "Surfing")
        assert [(v.path.partition("_")[2], v.label, v.group, dict(v.splits)) for v in source.videos] == [
            ("Archery_g02_c01.avi", 0, "Archery/g02", {"split1": "train", "split2": "test"}),
            ("Archery_g03_c01.avi", 0, "Archery/g03", {"split1": "train"}),
            ("Surfing_g25_c04.avi", 1, "Surfing/g25", {"split1": "train", "split2": "train"}),
            ("Archery_g01_c01.avi", 0, "Archery/g01", {"split1": "test", "split2": "train"}),
        ]

    def test_found_from_the_videos_from_their_parent_and_from_one_list(self, lists: Path) -> None:
        whole = read_source(lists)
        for folder, place in ((lists.parent / "UCF-101", "beside"), (lists.parent, "in")):
            found = read_source(folder)
            assert (found.videos, found.root) == (whole.videos, whole.root)
            assert any(f"found {place} the folder" in note for note in found.notes)
        one = read_source(lists / "testlist02.txt")
        assert [dict(v.splits) for v in one.videos] == [{"split2": "test"}]

    @pytest.mark.parametrize(
        ("file", "line", "what"),
        [
            ("trainlist01.txt", "Archery/v_Archery_g01_c09.avi 0", "a class number of 1 to 2"),
            ("trainlist01.txt", "Archery/v_Archery_g01_c09.avi 3", "a class number of 1 to 2"),
            (
                "trainlist01.txt",
                "Archery/v_Archery_g01_c09.avi 2",
                "has class 2, 'Surfing', but lies in 'Arch",
            ),
            ("testlist01.txt", "Diving/v_Diving_g01_c01.avi", "'Diving' is no class of classInd.txt"),
            ("classInd.txt", "4 Diving", "expected '3 ClassName', found '4 Diving'"),
        ],
    )
    def test_malformed_lines(self, lists: Path, file: str, line: str, what: str) -> None:
        with (lists / file).open("a") as stream:
            stream.write(line + "\n")
        with pytest.raises(SourceError, match=rf"{file}:\d+: .*{what}"):
            read_source(lists)

    def test_needs_its_class_file(self, lists: Path) -> None:
        (lists / "classInd.txt").unlink()
        with pytest.raises(SourceError, match=r"classInd\.txt: cannot be read"):
            read_source(lists)

    def test_the_official_lists(self) -> None:
        if not SHARED.is_dir():
            pytest.skip("the reference data is not here")
        source = read_source(SHARED / "ucf6" / "UCF-101", allow_missing=True)
        assert (source.format, len(source.videos), len(source.missing)) == ("ucf101", 731, 12_589)
        assert Counter(labels(source).values()) == {
            folder.name: len(list(folder.iterdir())) for folder in (SHARED / "ucf6" / "UCF-101").iterdir()
        }
        everything = (*source.videos, *source.missing)
        for split, (train, test) in {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)}.items():
            parts = Counter(v.splits[f"split{split}"] for v in everything)
            assert parts == {"train": train, "test": test}
            groups = {
                part: {v.group for v in everything if v.splits[f"split{split}"] == part} for part in parts
            }
            assert groups["train"].isdisjoint(groups["test"])
        assert all(v.path.startswith(source.class_names[v.label] + "/") for v in everything)


class TestHmdb51:
    def test_flags_are_parts_and_zero_is_neither(self, tmp_path: Path) -> None:
        lists = tmp_path / "testTrainMulti_7030_splits"
        write(lists / "wave_test_split1.txt", "a.avi 1 ", "b.avi 2 ", "c.avi 0 ")
        write(lists / "wave_test_split2.txt", "a.avi 0 ", "b.avi 1 ", "c.avi 0 ")
        write(lists / "ride_bike_test_split1.txt", "d.avi 1 ")
        touch(tmp_path / "hmdb", "wave/a.avi", "b.avi", "wave/c.avi", "ride_bike/d.avi")
        source = read_source(tmp_path / "hmdb")
        assert source.format == "hmdb51"
        assert labels(source) == {
            "ride_bike/d.avi": "ride_bike",
            "wave/a.avi": "wave",
            "b.avi": "wave",
            "wave/c.avi": "wave",
        }
        assert splits(source) == {
            "ride_bike/d.avi": {"split1": "train"},
            "wave/a.avi": {"split1": "train"},
            "b.avi": {"split1": "test", "split2": "train"},
            "wave/c.avi": {},
        }
        assert {v.group for v in source.videos} == {""}


class TestClassFolders:
    def test_sorted_by_path_at_any_depth(self, tmp_path: Path) -> None:
        touch(tmp_path, "b/2.mp4", "b/1.MOV", "a c/x.avi", "a/deep/er/y.gif", "a/notes.txt", "empty/.keep")
        source = read_source(tmp_path)
        assert source.format == "class-folders"
        assert [(v.id, v.path) for v in source.videos] == [(p, p) for p in labels(source)]
        assert list(labels(source).items()) == [
            ("a/deep/er/y.gif", "a"),
            ("a c/x.avi", "a c"),
            ("b/1.MOV", "b"),
            ("b/2.mp4", "b"),
        ]

    def test_parts_at_the_top_are_the_split(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/yoga/a.mp4", "val/tango/b.mp4", "test/yoga/sub/c.mp4")
        source = read_source(tmp_path)
        assert labels(source) == {
            "test/yoga/sub/c.mp4": "yoga",
            "train/yoga/a.mp4": "yoga",
            "val/tango/b.mp4": "tango",
        }
        assert {v.splits["folders"] for v in source.videos} == {"train", "val", "test"}
        touch(tmp_path, "train/loose.mp4")
        with pytest.raises(SourceError, match=r"loose\.mp4: lies in 'train'"):
            read_source(tmp_path)

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/a.mp4", "tram/b.mp4")
        assert read_source(tmp_path).class_names == ("train", "tram")

    def test_auto_split_is_a_property_of_the_id_alone(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{i % 3}/{i}.mp4" for i in range(60)))
        source = read_source(tmp_path)
        for video in source.videos:
            bucket = int.from_bytes(hashlib.sha256(video.id.encode()).digest(), "big") % 5
            assert video.splits == {"auto": "test" if bucket == 0 else "train"}
        assert set(Counter(v.splits["auto"] for v in source.videos)) == {"train", "test"}
        assert any("'auto'" in note for note in source.notes)
        before = splits(source)
        touch(tmp_path, *(f"new/{i}.mp4" for i in range(20)))
        after = splits(read_source(tmp_path))
        assert {path: after[path] for path in before} == before

    def test_loose_videos_are_unlabelled_and_said(self, tmp_path: Path) -> None:
        touch(tmp_path, "loose.mp4", "yoga/a.mp4")
        source = read_source(tmp_path)
        assert labels(source) == {"loose.mp4": "-", "yoga/a.mp4": "yoga"}
        assert splits(source)["loose.mp4"] == {}
        assert any("unlabelled, beside the class folders: 1 " in note for note in source.notes)

    def test_needs_folders(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.mp4")
        with pytest.raises(SourceError, match=r"no class folders .*--format files"):
            read_source(tmp_path, format="class-folders")
