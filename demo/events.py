"""The demo's videos: ordered pairs of short events; a clip shows the events but not their order.

A class is an ordered pair of different events, "sweep-then-grow". A video has two halves of equal length.
Each half shows one event at a random time and then stays neutral for longer than a clip. All other properties
of a half (start, duration, place, colour and size of its event, every pixel of noise) have the same
distribution in both halves, are drawn independently, and do not depend on the class. The background runs
through one closed loop in each half.

So a video of class (A, B) with its halves exchanged **is** a video of class (B, A), with the same
probability. Both consist of the same clips, so a method that pools clips without their order cannot
distinguish the two classes: see `average_ceiling`. Each frame is coded independently, with a fixed quantiser,
so that this also holds for the decoded video.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .shapes import FORMS, HUES, KINDS, MOTIONS, FloatArray, cover_of, pixel_grid

FrameArray = npt.NDArray[np.uint8]

# --- accuracy limits of averaging -------------------------------------------------------------------------


def chance(events: int) -> float:
    """Return the accuracy of guessing among K(K-1) equally frequent ordered pairs of K events: 1/(K(K-1))."""
    return 1 / math.perm(events, 2)


def clip_ceiling(events: int) -> float:
    """Return the best accuracy from one clip that shows one of K events: 1/(2(K-1)).

    The clip tells one event of the pair. It does not tell if this is the first or the second, nor which of
    the K-1 others is its partner: 2(K-1) equally probable classes.
    """
    return 1 / (2 * (events - 1))


def average_ceiling(events: int) -> float:
    """Return the best expected accuracy of a rule that ignores the clips' order: exactly 1/2, for every K.

    Exchange the halves of a video of (A, B): the result is a video of (B, A), with the same probability and
    the same clips. Given the clips without their order, the two classes are therefore equally probable, and
    any answer is right with probability 1/2 at most. A rule can tell perfectly *which* two events occur: one
    of the K(K-1)/2 unordered pairs, each with 2 of the K(K-1) classes. So 1/2 is reached.

    This is exact for an even number N of clips that do not overlap, and for a pattern that gives clips i and
    i + N/2 the same model. It is an expectation: the accuracy on a finite test set varies around it.
    """
    return math.comb(events, 2) / math.perm(events, 2)


# --- the set and one video's random numbers ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EventSet:
    """All parameters of the set's videos; the same values give the same pixels.

    `difficulty` in [0, 1] lowers contrast and adds noise and distractors. `disguised` in [0, 1] is the share
    of events with a random form and colour instead of their kind's own: at 1 the kinds differ in motion only.

    Raises UsageError for values that cannot be rendered.
    """

    events: int = 3  # K, the first K of KINDS
    videos_per_class: int = 110  # train and test together
    test_videos_per_class: int = 50
    singles_per_kind: int = 310  # videos of one event, train and test together
    test_singles_per_kind: int = 60
    frames: int = 64
    size: int = 64  # height and width, pixels
    fps: int = 25
    event_frames: tuple[int, int] = (14, 20)  # shortest and longest, inclusive
    gap_frames_min: int = 10  # neutral frames after an event, at least
    difficulty: float = 0.0
    disguised: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        shortest, longest = self.event_frames
        half_frames_min = longest + self.gap_frames_min
        rules = (
            (3 <= self.events <= len(KINDS), f"events={self.events}: 3 to {len(KINDS)} are possible"),
            (
                0 < self.test_videos_per_class < self.videos_per_class,
                f"test_videos_per_class={self.test_videos_per_class}: 1 to videos_per_class - 1 "
                f"= {self.videos_per_class - 1} are possible",
            ),
            (
                0 < self.test_singles_per_kind < self.singles_per_kind,
                f"test_singles_per_kind={self.test_singles_per_kind}: 1 to singles_per_kind - 1 "
                f"= {self.singles_per_kind - 1} are possible",
            ),
            (
                4 <= shortest <= longest,
                f"event_frames={self.event_frames}: (shortest, longest), shortest at least 4",
            ),
            (
                self.gap_frames_min > 8,
                f"gap_frames_min={self.gap_frames_min}: must be longer than a clip of 8 frames",
            ),
            (
                self.frames % 2 == 0 and self.frames // 2 >= half_frames_min,
                f"frames={self.frames}: must be even, and each half must hold the longest event "
                f"and the gap, so at least {2 * half_frames_min}",
            ),
            (
                self.size % 2 == 0 and self.size >= 32,
                f"size={self.size}: must be even (H.264 chroma) and at least 32",
            ),
            (self.fps > 0, f"fps={self.fps}: must be positive"),
            (0 <= self.difficulty <= 1, f"difficulty={self.difficulty}: must lie in [0, 1]"),
            (0 <= self.disguised <= 1, f"disguised={self.disguised}: must lie in [0, 1]"),
            (self.seed >= 0, f"seed={self.seed}: must not be negative"),
        )
        for holds, message in rules:
            if not holds:
                raise UsageError(message)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (first, second) event of each of the K(K-1) classes, in label order."""
        return tuple(itertools.permutations(KINDS[: self.events], 2))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names such as "sweep-then-grow", in label order."""
        return tuple(f"{first}-then-{second}" for first, second in self.pairs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """The random numbers of one half of a video: its event's properties, except the kind, and its noise."""

    start_frame: int  # within the half
    event_frames: int
    centre: tuple[float, float]  # (x, y) in frame sizes
    radius: float  # in frame sizes
    colour: FloatArray  # (3,), 0 to 255; shifts the kind's own hue if `form` is None
    direction: int  # +1 or -1
    form: int | None  # a form for any kind; None: the kind's own form and hue
    noise: FloatArray  # (frames / 2, size, size, 1), grey levels


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoScript:
    """All random numbers of one video; together with a class they decide its pixels."""

    background: FloatArray  # (frames / 2, size, size, 3), one closed loop, shown in both halves
    first: Half
    second: Half

    def exchanged(self) -> VideoScript:
        """Return the script with the halves exchanged; it has the same probability."""
        return replace(self, first=self.second, second=self.first)


def draw_script(config: EventSet, index: int) -> VideoScript:
    """Draw the random numbers of video `index`: a function of `config` and `index`, not of a class."""
    rng = np.random.default_rng([config.seed, index])
    base = rng.uniform(90, 150, 3).astype(np.float32)
    return VideoScript(
        background=_draw_background(config, rng, base),
        first=_draw_half(config, rng, base),
        second=_draw_half(config, rng, base),
    )


def _draw_half(config: EventSet, rng: np.random.Generator, base: FloatArray) -> Half:
    half_frames = config.frames // 2
    shortest, longest = config.event_frames
    event_frames = int(rng.integers(shortest, longest + 1))
    x, y = rng.uniform(0.35, 0.65, 2)
    shared, form = rng.random() < config.disguised, int(rng.integers(config.events))
    noise = rng.standard_normal((half_frames, config.size, config.size, 1), dtype=np.float32)
    return Half(
        start_frame=int(rng.integers(half_frames - config.gap_frames_min - event_frames + 1)),
        event_frames=event_frames,
        centre=(float(x), float(y)),
        radius=float(rng.uniform(0.12, 0.18)),
        colour=_draw_colour(config, rng, base),
        direction=int(rng.choice((-1, 1))),
        form=form if shared else None,
        noise=noise * np.float32(3 + 15 * config.difficulty),
    )


def _draw_colour(config: EventSet, rng: np.random.Generator, base: FloatArray) -> FloatArray:
    """Draw a colour (3,) lighter or darker than the background's; a harder set has less contrast."""
    contrast = (100 - 55 * config.difficulty) * rng.choice((-1, 1)) * rng.uniform(0.7, 1.3, 3)
    colour: FloatArray = np.clip(base + contrast, 0, 255).astype(np.float32)
    return colour


def _draw_background(config: EventSet, rng: np.random.Generator, base: FloatArray) -> FloatArray:
    """Draw a smooth texture with distractors that moves once round a small circle in half a video."""
    turn = np.arange(config.frames // 2) / (config.frames // 2) + rng.random()
    sway = rng.uniform(0.03, 0.07)
    dx = (sway * np.cos(2 * np.pi * turn)).astype(np.float32)
    dy = (sway * np.sin(2 * np.pi * turn) * rng.choice((-1, 1))).astype(np.float32)
    y, x = pixel_grid(config.size)
    frames = np.tile(base, (len(turn), config.size, config.size, 1))
    for _ in range(3):
        wave_x, wave_y = rng.normal(0, 1.2, 2).astype(np.float32)
        angle = (
            2 * np.pi * (wave_x * (x - dx[:, None, None]) + wave_y * (y - dy[:, None, None]) + rng.random())
        )
        frames += np.cos(angle, dtype=np.float32)[..., None] * rng.uniform(-14, 14, 3).astype(np.float32)
    for _ in range(rng.integers(1 + round(6 * config.difficulty))):
        centre_x, centre_y = rng.uniform(0, 1, 2)
        cover = cover_of(
            FORMS[rng.integers(config.events)],
            config.size,
            centre_x + dx,
            centre_y + dy,
            np.full(len(turn), rng.uniform(0.06, 0.12), np.float32),
        )
        frames += cover[..., None] * (_draw_colour(config, rng, base) - frames)
    return frames


# --- rendering --------------------------------------------------------------------------------------------


def render_frames(config: EventSet, label: int, index: int) -> FrameArray:
    """Render video `index` as class `label`: uint8 RGB (frames, size, size, 3), before encoding."""
    return render_script(config, label, draw_script(config, index))


def render_single(config: EventSet, kind: int, index: int) -> FrameArray:
    """Render one event of kind `KINDS[kind]`, without the frames around it: (14 to 20, size, size, 3)."""
    script = draw_script(config, index)
    start, frames = script.first.start_frame, script.first.event_frames
    return _render_half(config, script.background, script.first, KINDS[kind])[start : start + frames]


def render_script(config: EventSet, label: int, script: VideoScript) -> FrameArray:
    """Render a script as class `label`: uint8 RGB (frames, size, size, 3).

    The exchanged script with the exchanged pair of events gives the same two halves in the other order.
    """
    halves = zip((script.first, script.second), config.pairs[label], strict=True)
    return np.concatenate([_render_half(config, script.background, half, kind) for half, kind in halves])


def _render_half(config: EventSet, background: FloatArray, half: Half, kind: str) -> FrameArray:
    frame = np.arange(half.event_frames, dtype=np.float32)
    dx, dy, scale, opacity = MOTIONS[kind](frame / (half.event_frames - 1), frame, half.direction)
    own = KINDS.index(kind)
    form, colour = FORMS[own if half.form is None else half.form], half.colour
    if half.form is None:
        colour = np.clip(128 + np.asarray(HUES[own], np.float32) + 0.25 * (half.colour - 128), 0, 255).astype(
            np.float32
        )
    x, y = half.centre
    radius = np.broadcast_to(half.radius * np.asarray(scale), frame.shape)
    cover = cover_of(form, config.size, x + np.asarray(dx), y + np.asarray(dy), radius)
    cover = cover * np.broadcast_to(opacity, frame.shape).astype(np.float32)[:, None, None]

    canvas = background.copy()
    event = canvas[half.start_frame : half.start_frame + half.event_frames]
    event += cover[..., None] * (colour - event)
    canvas += half.noise
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
