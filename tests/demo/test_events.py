"""The demo's generator: the symmetry on which its ceilings rest, and the files it writes."""

import itertools
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest
from faster.demo.events import (
    EventSet,
    average_ceiling,
    chance,
    clip_ceiling,
    draw_script,
    render_frames,
    render_script,
    render_single,
)
from faster.demo.shapes import KINDS
from faster.demo.video_files import encode, planned_singles, planned_videos, write_set, write_singles
from faster.errors import DataError, StorageError, UsageError

CLIP_FRAMES = 8
SMALL = EventSet(
    videos_per_class=3, test_videos_per_class=1, singles_per_kind=3, test_singles_per_kind=1, size=32
)


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def label_of(config, first, second):
    return config.class_names.index(f"{first}-then-{second}")


def event_mask(config, script):
    """Which frames of the video belong to an event: bool (2, frames), one row an event."""
    mask = np.zeros((2, config.frames), bool)
    for row, half in zip(mask, (script.first, script.second), strict=True):
        offset = half.start_frame + (half is script.second) * config.frames // 2
        row[offset : offset + half.event_frames] = True
    return mask


def clips_of(frames, clips):
    """The multiset of a video's clips and who reads them, by the project's rule for uniform clips."""
    starts = [min(i * len(frames) // clips, len(frames) - CLIP_FRAMES) for i in range(clips)]
    return [frames[start : start + CLIP_FRAMES].tobytes() for start in starts]


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("events", [3, 6])
def test_exchanging_the_events_exchanges_the_kinds_and_nothing_else(events, difficulty):
    config = EventSet(events=events, difficulty=difficulty, disguised=difficulty, size=48)
    for index, (first, second) in enumerate(config.pairs[:6]):
        other = next(kind for kind in KINDS if kind not in (first, second))
        script = draw_script(config, index)
        in_first, in_second = event_mask(config, script)
        ab = render_frames(config, label_of(config, first, second), index)
        ba = render_frames(config, label_of(config, second, first), index)
        ao = render_frames(config, label_of(config, first, other), index)
        bo = render_frames(config, label_of(config, second, other), index)

        outside = ~(in_first | in_second)
        np.testing.assert_array_equal(ab[outside], ba[outside])
        # A slot's pixels are a function of that slot's kind alone.
        np.testing.assert_array_equal(ab[in_first], ao[in_first])
        np.testing.assert_array_equal(ba[in_first], bo[in_first])
        assert (ab[in_first] != ba[in_first]).any()
        assert (ab[in_second] != ba[in_second]).any()


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_a_video_with_its_halves_exchanged_is_one_of_the_other_order(difficulty):
    config = EventSet(difficulty=difficulty, disguised=difficulty, size=32)
    for index in range(12):
        script, (first, second) = draw_script(config, index), config.pairs[index % 6]
        ab = render_script(config, label_of(config, first, second), script)
        ba = render_script(config, label_of(config, second, first), script.exchanged())
        np.testing.assert_array_equal(ba, np.roll(ab, config.frames // 2, axis=0))


@pytest.mark.parametrize("pattern_clips", [1, 2, 4])  # one expensive clip in so many: all-E, 1:1, 1:3
def test_both_orders_consist_of_the_same_clips_even_after_coding(tmp_path, pattern_clips):
    config, clips = SMALL, 8
    first, second = config.pairs[0]
    script = draw_script(config, 7)
    decoded = []
    for name, frames in (
        ("ab", render_script(config, label_of(config, first, second), script)),
        ("ba", render_script(config, label_of(config, second, first), script.exchanged())),
    ):
        encode(frames, tmp_path / f"{name}.mp4", fps=config.fps)
        decoded.append(decode(tmp_path / f"{name}.mp4"))
    assert (decoded[0] != decoded[1]).any()
    ab, ba = (
        Counter((clip, i % pattern_clips == 0) for i, clip in enumerate(clips_of(frames, clips)))
        for frames in decoded
    )
    assert ab == ba


def test_both_halves_are_drawn_alike_and_apart():
    halves = [
        [(h.start_frame, h.event_frames, *h.centre, h.radius, *h.colour, h.direction, h.form is None)]
        for script in (draw_script(replace(SMALL, disguised=0.5), index) for index in range(400))
        for h in (script.first, script.second)
    ]
    first, second = np.array(halves[0::2], float)[:, 0], np.array(halves[1::2], float)[:, 0]
    error = np.sqrt((first.var(0) + second.var(0)) / len(first))
    assert (abs(first.mean(0) - second.mean(0)) < 4 * error).all()
    # Apart from the colours, which share the background's, the halves know nothing of each other.
    for column in (0, 1, 2, 3, 4, 8, 9):
        assert abs(np.corrcoef(first[:, column], second[:, column])[0, 1]) < 4 / np.sqrt(len(first))


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, frames=60),  # the shortest halves that can hold an event and its gap
        replace(SMALL, frames=90, event_frames=(4, 20), gap_frames_min=9),
    ],
)
def test_events_are_complete_and_further_apart_than_a_clip(config):
    for index in range(200):
        mask = event_mask(config, draw_script(config, index))
        shortest, longest = config.event_frames
        assert (shortest <= mask.sum(1)).all() and (mask.sum(1) <= longest).all()
        first, second = (np.flatnonzero(row) for row in mask)
        assert second[0] - first[-1] - 1 >= config.gap_frames_min > CLIP_FRAMES
        both = [mask[:, s : s + CLIP_FRAMES].any(1).all() for s in range(config.frames - CLIP_FRAMES + 1)]
        assert not any(both)


def test_rendering_is_a_function_of_seed_label_and_index():
    video = render_frames(SMALL, 2, 5)
    assert video.shape == (64, 32, 32, 3) and video.dtype == np.uint8
    np.testing.assert_array_equal(video, render_frames(SMALL, 2, 5))
    for other in (
        render_frames(SMALL, 2, 6),
        render_frames(SMALL, 3, 5),
        render_frames(replace(SMALL, seed=1), 2, 5),
    ):
        assert (video != other).any()


def test_the_more_are_disguised_the_fewer_events_keep_their_own_form():
    def own_forms(disguised):
        scripts = [draw_script(replace(SMALL, disguised=disguised), index) for index in range(100)]
        return sum(half.form is None for script in scripts for half in (script.first, script.second))

    assert own_forms(0.0) == 200
    assert 60 < own_forms(0.5) < 140
    assert own_forms(1.0) == 0


def test_in_disguise_the_kinds_have_one_look():
    config = replace(SMALL, disguised=1.0)
    scripts = [draw_script(config, index) for index in range(50)]
    assert all(half.form is not None for script in scripts for half in (script.first, script.second))
    # The kind then shows in the motion alone: in its middle frame a sweep is what a grow is, but for the size.
    half = replace(scripts[0].first, noise=np.zeros_like(scripts[0].first.noise))
    plain = replace(half, form=None)
    script = scripts[0]
    kinds = [config.class_names.index(f"{kind}-then-orbit") for kind in ("sweep", "grow")]
    colours = []
    for first in (half, plain):
        videos = [render_script(config, label, replace(script, first=first)) for label in kinds]
        middle = half.start_frame + half.event_frames // 2
        x, y = (int(place * config.size) for place in half.centre)
        colours.append([video[middle, y, x].astype(int) for video in videos])
    assert abs(colours[1][0] - colours[1][1]).max() > 60  # the kinds' own hues
    assert np.array_equal(*colours[0]) or abs(colours[0][0] - colours[0][1]).max() < 30


@pytest.mark.parametrize("kind", range(3))
def test_a_single_is_the_event_of_a_video_and_nothing_else(kind):
    for index in range(6):
        first = draw_script(SMALL, index).first
        label = next(i for i, pair in enumerate(SMALL.pairs) if pair[0] == KINDS[kind])
        video = render_frames(SMALL, label, index)
        span = slice(first.start_frame, first.start_frame + first.event_frames)
        np.testing.assert_array_equal(render_single(SMALL, kind, index), video[span])


def test_write_singles_writes_as_many_of_each_kind_and_none_is_part_of_a_pair(tmp_path):
    paths = write_singles(SMALL, tmp_path)
    counts = Counter(path.relative_to(tmp_path).parts[:2] for path in paths)
    assert counts == {(part, kind): n for kind in KINDS[:3] for part, n in (("train", 2), ("test", 1))}
    shortest, longest = SMALL.event_frames
    assert all(shortest <= len(decode(path)) <= longest for path in paths)
    singles, pairs = (
        {video.index for video in planned(SMALL)} for planned in (planned_singles, planned_videos)
    )
    assert len(singles) == 9 and len(pairs) == 18 and not singles & pairs
    names = {video.path.name for planned in (planned_singles, planned_videos) for video in planned(SMALL)}
    assert len(names) == 27
    before = [path.stat().st_mtime_ns for path in paths]
    assert write_singles(SMALL, tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_and_moves(kind):
    config = EventSet(events=6, difficulty=0)
    label = next(i for i, pair in enumerate(config.pairs) if pair[0] == kind)
    script = draw_script(config, 3)
    still = replace(script, first=replace(script.first, noise=np.zeros_like(script.first.noise)))
    start, frames = script.first.start_frame, script.first.event_frames
    video = render_script(config, label, still)[start : start + frames].astype(float)
    event = abs(video - script.background[start : start + frames]).max(-1) > 30
    assert event.any((1, 2)).sum() >= frames // 2 - 1
    assert (event[1:] != event[:-1]).any((1, 2)).sum() >= frames // 2 - 2


def test_write_set_writes_a_balanced_set_once(tmp_path):
    config = SMALL
    paths = write_set(config, tmp_path)
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)
    relative = [path.relative_to(tmp_path) for path in paths]
    counts = Counter((path.parts[0], path.parts[1]) for path in relative)
    assert counts == {
        (part, name): videos for name in config.class_names for part, videos in (("train", 2), ("test", 1))
    }
    assert len({path.name for path in paths}) == len(paths)

    video = planned_videos(config)[4]
    decoded = decode(paths[4])
    rendered = render_frames(config, video.label, video.index)
    assert decoded.shape == rendered.shape
    assert abs(decoded.astype(float) - rendered).mean() < 12  # chroma is stored at half the resolution
    assert paths[4].parent.name == config.class_names[video.label]

    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in paths[1:]]
    first = paths[0].read_bytes()
    paths[0].unlink()
    paths[0].with_name(f".{paths[0].stem}.part").write_bytes(b"killed half-way")
    assert write_set(config, tmp_path) == paths
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in paths[1:]] == before
    assert paths[0].read_bytes() == first


def test_names_say_nothing_of_the_class_and_differ_between_sets():
    planned = planned_videos(EventSet())
    assert len(planned) == 660
    # Sorted by name, the classes lie mixed: as many neighbours share a class as chance has it (1/6).
    labels = [video.label for video in sorted(planned, key=lambda video: video.path.name)]
    same = sum(a == b for a, b in itertools.pairwise(labels))
    assert 80 <= same <= 140
    names = {video.path.name for video in planned}
    assert not names & {video.path.name for video in planned_videos(EventSet(seed=1))}
    assert not names & {video.path.name for video in planned_videos(EventSet(difficulty=0.4))}


def test_write_set_refuses_a_folder_of_another_set(tmp_path):
    stranger = tmp_path / "train" / "sweep-then-grow" / "mine.mp4"
    stranger.parent.mkdir(parents=True)
    stranger.touch()
    with pytest.raises(DataError, match=r"holds 1 video that is not of this set.*mine\.mp4"):
        write_set(SMALL, tmp_path)
    assert list(tmp_path.rglob("*.mp4")) == [stranger]


def test_write_set_reports_a_disk_that_fails(tmp_path):
    (tmp_path / "train").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write videos below"):
        write_set(SMALL, tmp_path)


@pytest.mark.parametrize("events", range(3, 7))
def test_ceilings_against_counting(events):
    pairs = EventSet(events=events).pairs
    assert len(pairs) == len(set(pairs)) and all(a != b for a, b in pairs)
    assert chance(events) == pytest.approx(1 / len(pairs))
    # Best guess from what is known: right for one class of those that fit, averaged over the classes.
    assert average_ceiling(events) == len({frozenset(pair) for pair in pairs}) / len(pairs) == 0.5
    assert clip_ceiling(events) == pytest.approx(1 / sum("sweep" in pair for pair in pairs))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("events", 2),
        ("events", 7),
        ("frames", 58),
        ("frames", 61),
        ("size", 33),
        ("size", 16),
        ("difficulty", 1.1),
        ("gap_frames_min", 8),
        ("event_frames", (14, 8)),
        ("test_videos_per_class", 0),
        ("test_videos_per_class", 1000),
        ("test_singles_per_kind", 0),
        ("test_singles_per_kind", 1000),
        ("disguised", -0.1),
        ("disguised", 1.5),
        ("seed", -1),
        ("fps", 0),
    ],
)
def test_values_that_cannot_be_rendered_are_refused(field, value):
    with pytest.raises(UsageError, match=f"^{field}="):
        EventSet(**{field: value})
