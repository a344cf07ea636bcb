"""Lists in the forms people keep them: other separators, headers, encodings, names, extensions, folders."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from faster.errors import SourceError, UsageError
from faster.extract.sources import formats as annotation_formats
from faster.extract.sources.formats import Listing
from faster.extract.sources.read import read_source
from sources import KINETICS_HEADER, labels, splits, touch, write

YOGA, TANGO = "yoga/a b.mp4", "tango/c.mp4"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder with none beside it: sources look beside themselves, where other tests' lists would lie."""
    inner = tmp_path / "data"
    inner.mkdir()
    return inner


def two_videos(folder: Path) -> Path:
    return touch(folder / "videos", YOGA, TANGO).parent


class TestForms:
    @pytest.mark.parametrize(
        ("name", "text", "format"),
        [
            ("train.csv", "path,label\nyoga/a b.mp4,yoga\ntango/c.mp4,tango\n", "csv"),
            ("train.csv", '"Label";"Video Path"\n"yoga";"yoga/a b.mp4"\n"tango";"tango/c.mp4"\n', "csv"),
            ("train.tsv", "FILENAME\tCLASS-NAME\tx\nyoga/a b.mp4\tyoga\t1\ntango/c.mp4\ttango\t2\n", "csv"),
            ("train.txt", "path|label\nyoga/a b.mp4|yoga\ntango/c.mp4|tango\n", "csv"),
            ("train.txt", "path label\nyoga/a b.mp4 yoga\ntango/c.mp4 tango\n", "csv"),
            ("train.csv", "sep=;\npath;label\nyoga/a b.mp4;yoga;;\ntango/c.mp4;tango;;\n", "csv"),
            (
                "train.csv",
                "# path,label\nyoga/a b.mp4,yoga\n\n# tango/d.mp4,tango\ntango/c.mp4,tango\n",
                "csv",
            ),
            ("train.csv", "path,label\nyoga/a b.mp4,yoga\npath,label\ntango/c.mp4,tango\n", "csv"),
            ("train.csv", "id,label\na b,yoga\nc,tango\n", "csv"),
            ("train.csv", "clip_name,clip_path,label\nx,/yoga/a b.mp4,yoga\ny,/tango/c.mp4,tango\n", "csv"),
            ("train.csv", "path,label,label_id\nyoga/a b.mp4,yoga,1\ntango/c.mp4,tango,0\n", "csv"),
            ("train.csv", "yoga/a b.mp4,1\ntango/c.mp4,0\n", "mmaction"),
            ("train.csv", "1;yoga/a b.mp4\n0;tango/c.mp4\n", "mmaction"),
            ("train.txt", "yoga/a b.mp4\t1\ntango/c.mp4\t0\n", "mmaction"),
            ("train.txt", "yoga/a b.mp4, 1\ntango/c.mp4, 0\n", "mmaction"),
            ("train.txt", '"yoga/a b.mp4" 1\n"tango/c.mp4" 0\n', "mmaction"),
            ("train.txt", "yoga/a b.mp4 yoga\n# a remark\ntango/c.mp4 tango\n", "mmaction"),
            ("train.txt", "yoga/a b 300 1\ntango/c 250 0\n", "mmaction"),
            ("train.txt", "yoga/a b 1\ntango/c 0\n", "mmaction"),
            ("train.csv", ",path,label\n0,yoga/a b.mp4,yoga\n1,tango/c.mp4,tango\n", "csv"),
            ("train.csv", "path,y\nyoga/a b.mp4,1.0\ntango/c.mp4,0.0\n", "csv"),
            ("train.txt", "yoga/a b.mp4 ,1\ntango/c.mp4 ,0\n", "mmaction"),
            ("x.csv", "yoga/a b.mp4,yoga,train\ntango/c.mp4,tango,train\n", "mmaction"),
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
    @pytest.mark.parametrize("place", ["in", "beside", "named"])
    def test_are_read(
        self, tmp_path: Path, name: str, text: str, format: str, encoding: str, place: str
    ) -> None:
        file = two_videos(tmp_path) / (name if place != "beside" else name.replace("train", "train_list"))
        file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        source = read_source({"in": tmp_path, "beside": tmp_path / "videos", "named": file}[place])
        assert source.format == format
        assert labels(source) == {YOGA: "yoga", TANGO: "tango"}
        assert source.class_names == ("tango", "yoga")
        assert set(splits(source)[YOGA].values()) == {"train"}

    @pytest.mark.parametrize(
        "header",
        [
            '"label","youtube_id","time_start","time_end","split"',
            "Split;YouTube ID;Time_End;time start;LABEL",
        ],
    )
    def test_a_kinetics_header_in_any_dress(self, tmp_path: Path, header: str) -> None:
        touch(tmp_path / "videos", "abc_000003_000013.mp4")
        line = '"yoga","abc","3","13","test"' if header.startswith('"') else "test;abc;13;3;yoga"
        write(tmp_path / "all.csv", header, line)
        source = read_source(tmp_path)
        assert (source.format, splits(source)) == (
            "kinetics",
            {"abc_000003_000013.mp4": {"kinetics": "test"}},
        )
        assert labels(source) == {"abc_000003_000013.mp4": "yoga"}

    def test_a_name_that_begins_like_a_comment_is_a_video_where_it_is_on_disk(self, tmp_path: Path) -> None:
        touch(tmp_path, "#1.mp4", "2.mp4")
        write(tmp_path / "list.txt", "# 1.mp4 1", "#1.mp4 0", "#3.mp4 1", "2.mp4 0")
        assert labels(read_source(tmp_path)) == {"#1.mp4": "0", "2.mp4": "0"}

    def test_a_column_decides_the_part_before_the_name_of_the_file(self, tmp_path: Path) -> None:
        two_videos(tmp_path)
        write(tmp_path / "train.csv", "path,label,subset", f"{YOGA},yoga,validation", f"{TANGO},tango,")
        assert splits(read_source(tmp_path)) == {YOGA: {"csv": "val"}, TANGO: {"csv": "train"}}

    def test_a_video_without_a_label_is_unlabelled(self, tmp_path: Path) -> None:
        two_videos(tmp_path)
        write(tmp_path / "all.csv", "path,label,group", f"{YOGA},yoga,g1", f"{TANGO},,g2")
        source = read_source(tmp_path)
        assert labels(source) == {YOGA: "yoga", TANGO: "-"}
        assert [video.group for video in source.videos] == ["g1", "g2"]

    def test_a_test_set_without_labels(self, tmp_path: Path) -> None:
        two_videos(tmp_path)
        write(tmp_path / "train.csv", "clip_name,clip_path,label", f"x,{YOGA},yoga")
        write(tmp_path / "test.csv", "clip_name,clip_path", f"y,{TANGO}")
        source = read_source(tmp_path)
        assert labels(source) == {YOGA: "yoga", TANGO: "-"}
        assert splits(source)[TANGO] == {"csv": "test"}

    def test_lists_in_the_folder_that_is_read_as_the_source(self, tmp_path: Path) -> None:
        file = write(two_videos(tmp_path) / "videos" / "train.csv", "path,label", f"{YOGA},a", f"{TANGO},b")
        assert labels(read_source(tmp_path)) == {YOGA: "a", TANGO: "b"}
        write(file, "clip;genre")
        with pytest.raises(SourceError, match=r"train\.csv' is a list in no known form"):
            read_source(tmp_path)

    def test_lists_of_frames_yield_to_lists_of_videos_beside_them(self, tmp_path: Path) -> None:
        two_videos(tmp_path)
        write(tmp_path / "train_list_videos.txt", f"{YOGA} 0", f"{TANGO} 1")
        write(tmp_path / "train_list_rawframes.txt", "frames/nowhere 300 5")
        source = read_source(tmp_path)
        assert labels(source) == {YOGA: "yoga", TANGO: "tango"}
        assert any("folders of frames: train_list_rawframes.txt" in note for note in source.notes)

    @pytest.mark.parametrize(
        ("lines", "what"),
        [
            (["yoga/a b.mp4,0,1", "tango/c.mp4,1,0"], r"train\.csv:1: 3 fields where a path and one label"),
            (["path,label,id", "yoga/a b.mp4,yoga,1,2"], r"train\.csv:2: 4 fields where the header has 3"),
            (["path,label", ",yoga"], r"train\.csv:2: the column 'path' is empty"),
            (["path,label", "yoga/a b.mp4,0", "tango/c.mp4,tango"], r"train\.csv:3: a label, 0 to 99999"),
            (["path,label,split", "yoga/a b.mp4,0,holdout"], r"train\.csv:2: unknown split 'holdout'"),
            (
                ["path,label,label_id", "yoga/a b.mp4,yoga,0", "tango/c.mp4,tango,0"],
                r"train\.csv:3: class 'tango' has number 0 here, but 'yoga' has 0 above",
            ),
            (["https://host/a.mp4,0", "tango/c.mp4,1"], r"train\.csv:1: 'https://host/a\.mp4' is an address"),
        ],
    )
    def test_what_is_wrong_names_its_line(self, tmp_path: Path, lines: list[str], what: str) -> None:
        write(two_videos(tmp_path) / "train.csv", *lines)
        with pytest.raises(SourceError, match=what):
            read_source(tmp_path, allow_missing=True)

    def test_latin_1_names_the_command_that_mends_it(self, tmp_path: Path) -> None:
        file = two_videos(tmp_path) / "train.csv"
        file.write_bytes("path,label\nyoga/a b.mp4,yôga\n".encode("latin-1"))
        with pytest.raises(SourceError, match=r"train\.csv:2: not UTF-8 .*iconv -f latin1 -t utf-8 "):
            read_source(tmp_path)


class TestAFormatOfOnesOwn:
    def test_goes_before_those_that_take_what_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(annotation_formats, "_formats", dict(annotation_formats._formats))

        @annotation_formats.annotation_format("own", recognise=lambda file: file.name == "own_list.txt")
        def read_own(files: Sequence[Path], listing: Listing) -> None:
            listing.class_names = ["no", "yes"]
            for where, line in listing.lines(files[0]):
                listing.add(where, line.partition("\t")[0], label=line.endswith("yes"))

        write(two_videos(tmp_path) / "own_list.txt", f"{YOGA}\tyes", f"{TANGO}\tno")
        assert read_source(tmp_path).format == "own"


class TestUnknownForms:
    @pytest.mark.parametrize(
        ("name", "text", "first"),
        [
            ("train.csv", "clip;genre\nyoga/a b.mp4;yoga\n", "first line 'clip;genre'"),
            ("val_split.txt", "yoga/a b.mp4\n", "first line 'yoga/a b.mp4'"),
            ("annotations.json", '{"a": 1}\n', """first line '{"a": 1}'"""),
            ("test.csv", "", "it is empty"),
            ("train.xlsx", "PK\0\3", "it is not text"),
        ],
    )
    def test_a_list_that_no_format_knows_is_an_error(
        self, tmp_path: Path, name: str, text: str, first: str
    ) -> None:
        write(two_videos(tmp_path) / name).write_text(text)
        with pytest.raises(SourceError) as error:
            read_source(tmp_path)
        for said in (name, first, "path,label", "--format class-folders"):
            assert said in str(error.value)
        assert read_source(tmp_path, format="class-folders").class_names == ("tango", "yoga")

    def test_a_list_beside_the_folder_too(self, tmp_path: Path) -> None:
        write(two_videos(tmp_path) / "train.csv", "clip;genre", "yoga/a b.mp4;yoga")
        with pytest.raises(SourceError, match=r"train\.csv' is a list in no known form"):
            read_source(tmp_path / "videos")

    def test_one_of_two_lists(self, tmp_path: Path) -> None:
        write(two_videos(tmp_path) / "train.csv", "path,label", f"{YOGA},yoga")
        write(tmp_path / "val.csv", "clip;genre", f"{TANGO};tango")
        with pytest.raises(SourceError, match=r"val\.csv' is a list in no known form"):
            read_source(tmp_path)
        write(tmp_path / "val.csv")
        assert list(labels(read_source(tmp_path))) == [YOGA]

    def test_a_table_of_something_else_is_said_and_left(self, tmp_path: Path) -> None:
        write(two_videos(tmp_path) / "predictions.csv", "id,label,predicted", "a,b,c")
        source = read_source(tmp_path)
        assert source.format == "class-folders"
        assert any("not read, in no form of a list: predictions.csv" in note for note in source.notes)


class TestOtherNames:
    """Files that are not called as the lists say."""

    def ucf(self, folder: Path, where: str) -> Path:
        names = [f"v_{name}_g0{group}_c01" for name in ("Archery", "Surfing") for group in (1, 2)]
        touch(folder / "UCF-101", *(where.format(c=name.split("_")[1], n=name) for name in names))
        lists = folder / "ucfTrainTestlist"
        write(lists / "classInd.txt", "1 Archery", "2 Surfing")
        write(lists / "trainlist01.txt", *(f"{n.split('_')[1]}/{n}.avi 1" for n in names[:1]))
        write(lists / "testlist01.txt", *(f"{n.split('_')[1]}/{n}.avi" for n in names[1:]))
        return folder / "UCF-101"

    @pytest.mark.parametrize(
        "where", ["{c}/{n}.mp4", "{c}/{n}.MKV", "{n}.mp4", "train/{c}/{n}.webm", "{c}/part1/{n}.mp4"]
    )
    def test_ucf101_with_another_extension_or_in_other_folders(self, tmp_path: Path, where: str) -> None:
        source = read_source(self.ucf(tmp_path, where))
        assert source.format == "ucf101"
        assert [dict(video.splits)["split1"] for video in source.videos] == ["train", "test", "test", "test"]
        assert [video.id for video in source.videos] == [video.path for video in source.videos]
        assert source.videos[0].path == where.format(c="Archery", n="v_Archery_g01_c01")
        assert source.videos[0].group == "Archery/g01"
        assert any("found by the stem: 4, as 'Archery/v_Archery_g01_c01.avi' is" in n for n in source.notes)

    def test_a_list_that_fits_in_part_says_how_many_names_found_no_file(self, tmp_path: Path) -> None:
        videos = self.ucf(tmp_path, "{c}/{n}.mp4")
        for name in ("Archery/v_Archery_g01_c01.mp4", "Archery/v_Archery_g02_c01.mp4"):
            (videos / name).unlink()
        touch(videos, "Archery/new.mp4")
        said = r"2 of 4 listed videos .*'Archery/v_Archery_g01_c01\.avi', 'Archery/v_Archery_g02_c01\.avi'"
        with pytest.raises(SourceError, match=said):
            read_source(videos)
        source = read_source(videos, allow_missing=True)
        assert {dict(video.splits)["split1"] for video in source.videos} == {"test"}
        assert any("2 of 4 listed" in note and "g02_c01.avi'" in note for note in source.notes)
        assert "in no list and left out: 1 of the videos on disk: 'Archery/new.mp4'" in source.notes

    @pytest.mark.parametrize("where", ["wave/{}.mp4", "{}.mp4", "all/wave/{}.mp4"])
    def test_hmdb51(self, tmp_path: Path, where: str) -> None:
        touch(tmp_path / "videos", where.format("a#1"), where.format("b"))
        write(tmp_path / "lists" / "wave_test_split1.txt", "a#1.avi 1 ", "b.avi 2 ")
        assert splits(read_source(tmp_path / "videos")) == {
            where.format("a#1"): {"split1": "train"},
            where.format("b"): {"split1": "test"},
        }

    @pytest.mark.parametrize(
        "listed",
        [
            "yoga/a b.avi",
            "yoga/a b.MP4",
            "./yoga//a b.mp4",
            "yoga\\a b.mp4",
            "videos/yoga/a b.mp4",
            "../data/videos/yoga/a b.mp4",
            "tango/../yoga/a b.mp4",
            "/home/someone/ucf/yoga/a b.mp4",
            "D:\\films\\yoga\\a b.avi",
            "a b.mkv",
            "Yoga/A B.mp4",
            "yoga/a%20b.mp4",
        ],
    )
    def test_one_path_in_many_spellings(self, tmp_path: Path, listed: str) -> None:
        write(two_videos(tmp_path) / "train_list.txt", f"{listed} 0", "tango/c.mp4 1")
        assert labels(read_source(tmp_path / "videos")) == {YOGA: "yoga", TANGO: "tango"}

    def test_absolute_paths_within_the_root_also_by_another_way_to_it(self, tmp_path: Path) -> None:
        two_videos(tmp_path)
        (tmp_path / "link").symlink_to(tmp_path / "videos")
        write(
            tmp_path / "train_list.txt", f"{tmp_path / 'link' / YOGA} 0", f"{tmp_path / 'videos' / TANGO} 1"
        )
        source = read_source(tmp_path / "train_list.txt")
        assert [video.id for video in source.videos] == [YOGA, TANGO]

    def test_an_absolute_path_of_another_file_leaves_the_root(self, tmp_path: Path) -> None:
        touch(two_videos(tmp_path), "elsewhere/yoga/a b.mp4")
        write(tmp_path / "train_list.txt", f"{tmp_path / 'elsewhere' / YOGA} 0", f"{TANGO} 1")
        with pytest.raises(SourceError, match=r"train_list\.txt:1: .*leaves the video root"):
            read_source(tmp_path / "videos")

    def test_names_composed_otherwise(self, tmp_path: Path) -> None:
        here, listed = (unicodedata.normalize(form, "é") for form in ("NFD", "NFC"))
        touch(tmp_path / "videos", f"caf{here}/v_{here}_g01_c01.avi", f"caf{here}/{here}b_000003_000013.mp4")
        lists = tmp_path / "ucfTrainTestlist"
        write(lists / "classInd.txt", f"1 caf{listed}")
        write(lists / "trainlist01.txt", f"caf{listed}/v_{listed}_g01_c01.avi 1")
        write(lists / "testlist01.txt", f"caf{here}/v_{listed}_g01_c01.avi")
        write(tmp_path / "k.csv", KINETICS_HEADER, f"yoga,{listed}b,3,13,train")
        source = read_source(lists / "trainlist01.txt")
        assert [video.path for video in source.videos] == [f"caf{here}/v_{here}_g01_c01.avi"]
        assert source.class_names == (f"caf{listed}",)
        assert ascii(f"caf{here}/v_{here}_g01_c01.avi") in source.notes[-2]
        assert [v.path for v in read_source(lists / "testlist01.txt").videos] == [source.videos[0].path]
        assert len(read_source(tmp_path / "k.csv").videos) == 1

    def test_two_names_that_look_alike_are_told_apart_in_the_message(self, tmp_path: Path) -> None:
        names = [unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD")]
        touch(tmp_path / "videos", *names)
        if len(list((tmp_path / "videos").iterdir())) < 2:
            pytest.skip("this file system takes these names for one")
        write(tmp_path / "list.txt", "é.avi 0")
        with pytest.raises(SourceError, match=r"2 files fit .*e\\u0301\.mp4.*\\xe9\.mp4"):
            read_source(tmp_path)

    def test_two_files_that_fit_are_an_error(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "yoga/a.mp4", "yoga/a.mkv")
        file = write(tmp_path / "train_list.txt", "yoga/a.avi 0")
        with pytest.raises(SourceError, match=r":1: 2 files fit 'yoga/a\.avi': 'yoga/a\.mkv', 'yoga/a\.mp4'"):
            read_source(file)
        write(file, "yoga/a.mp4 0")
        assert labels(read_source(file)) == {"yoga/a.mp4": "yoga"}

    def test_a_file_is_one_listed_videos_alone(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "a/1.mp4")
        file = write(tmp_path / "list.txt", "a/1.mp4 0", "b/1.mp4 1", "a/1.avi 1")
        source = read_source(file, allow_missing=True)
        assert labels(source) == {"a/1.mp4": "0"}
        assert [video.id for video in source.missing] == ["b/1.mp4", "a/1.avi"]
        touch(tmp_path / "flat", "1.mp4")
        write(file, "a/1.mp4 0", "b/1.mp4 0")
        with pytest.raises(SourceError, match=r"list\.txt:2: 'b/1\.mp4', 'a/1\.mp4' both fit the file"):
            read_source(file, video_root=tmp_path / "flat")

    def test_a_root_where_names_fit_exactly_goes_before_one_where_stems_do(self, tmp_path: Path) -> None:
        two_videos(tmp_path)
        write(tmp_path / "train_list.txt", f"videos/{YOGA} 0", f"videos/{TANGO} 1")
        source = read_source(tmp_path)
        assert source.root == tmp_path
        assert [video.id for video in source.videos] == [f"videos/{YOGA}", f"videos/{TANGO}"]

    def test_lists_in_a_folder_of_annotations(self, tmp_path: Path) -> None:
        write(
            two_videos(tmp_path) / "annotations" / "train.csv", "path,label", f"{YOGA},yoga", f"{TANGO},tango"
        )
        for folder in (tmp_path, tmp_path / "videos"):
            source = read_source(folder)
            assert (source.format, source.root) == ("csv", tmp_path / "videos")


class TestWhatIsNoSource:
    @pytest.mark.parametrize("name", ["", " "])
    def test_an_empty_name_is_not_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(touch(tmp_path, "a.mp4"))
        with pytest.raises(UsageError, match="the source is empty"):
            read_source(name)
        with pytest.raises(UsageError, match="--video-root is empty"):
            read_source(".", video_root="")
        with pytest.raises(UsageError, match="--format is empty"):
            read_source(".", format="")

    @pytest.mark.parametrize(
        "address",
        ["rtsp://cam/1", "https://host/a.mp4", "s3://bucket/videos", "udp://@239.0.0.1:1", "rtmp:/host/live"],
    )
    def test_an_address_is_shown_as_it_was_given(self, address: str) -> None:
        with pytest.raises(UsageError) as error:
            read_source(address)
        assert repr(address) in str(error.value) and "not supported yet" in str(error.value)

    def test_a_file_address(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="name the file's path alone"):
            read_source(f"file://{tmp_path}")

    def test_a_device(self) -> None:
        with pytest.raises(SourceError, match="no regular file; devices and streams are not supported yet"):
            read_source(os.devnull)
