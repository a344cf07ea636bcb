"""A "video" opens no file but itself, asks nobody on the network, and takes little memory.

Python's audit hooks do not see what FFmpeg opens. So it is shown from outside: a loopback server that nobody may
reach, a canary video that no picture may come from, and where it is allowed, a trace of the system calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest
from faster.errors import VideoError
from faster.extract.video.decode import load_clips, probe
from hostile_media import (
    CANARY_NUMBER,
    MARK,
    make_canary,
    make_misnamed,
    make_pixel_bombs,
    make_playlists,
    make_references,
)
from places import SUPPORT
from videos import frame_number, make_video

CALLS = "open,openat,openat2,creat,access,faccessat,faccessat2,execve,execveat,%network"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Files that must be refused, files that must show their own pictures, what they aim at, and who listens."""

    sound: Path
    canary: Path
    playlists: list[Path]
    references: list[Path]
    misnamed: list[Path]
    bombs: list[Path]
    server: socket.socket
    url: str

    @property
    def files(self) -> list[Path]:
        return [*self.playlists, *self.references, *self.misnamed, *self.bombs]


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    folder = tmp_path_factory.mktemp("hostile")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        canary = make_canary(folder / "canary.mov")
        yield Attack(
            sound=make_video(folder / "sound.mp4", frames=12),
            canary=canary,
            playlists=make_playlists(folder / "playlists", canary, url),
            references=make_references(folder / "references", canary, url),
            misnamed=make_misnamed(folder / "misnamed", canary),
            bombs=make_pixel_bombs(folder / "bombs"),
            server=server,
            url=url,
        )


def requests(server: socket.socket) -> int:
    """Connections since the last call."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def shown_number(path: Path) -> int:
    return frame_number(load_clips(path, clips=1, clip_frames=1, size=32).clips[0, 0])


def run_loader(attack: Attack, *tracer: str) -> dict[str, Any]:
    """Load all files in a process of its own, which `tracer` may start."""
    done = subprocess.run(
        [
            *tracer,
            sys.executable,
            str(SUPPORT / "hostile_media.py"),
            *map(str, [attack.sound, *attack.files]),
        ],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_attacks_work_on_a_reader_without_defence(attack: Attack) -> None:
    """Else the tests below would prove nothing."""
    local = next(path for path in attack.playlists if path.name == "local.ffconcat")
    with av.open(str(local), format="concat", options={"safe": "0"}) as played:
        picture = next(played.decode(video=0)).to_ndarray(format="rgb24")
    assert frame_number(picture) == CANARY_NUMBER == shown_number(attack.canary)
    with av.open(f"concat:{attack.canary}") as played:
        assert frame_number(next(played.decode(video=0)).to_ndarray(format="rgb24")) == CANARY_NUMBER
    for alias in attack.references[:2]:
        with av.open(str(alias), options={"enable_drefs": "1", "use_absolute_path": "1"}) as played:
            assert frame_number(next(played.decode(video=0)).to_ndarray(format="rgb24")) == CANARY_NUMBER
    remote = next(path for path in attack.playlists if path.name == "remote.m3u8")
    with contextlib.suppress(av.error.FFmpegError):
        av.open(
            str(remote),
            format="hls",
            options={"protocol_whitelist": "file,http,tcp", "extension_picky": "0"},
            timeout=(0.2, 0.2),
        ).close()
    assert requests(attack.server) > 0


def test_what_is_no_video_is_refused_and_pictures_are_the_files_own(attack: Attack) -> None:
    requests(attack.server)
    for path in attack.playlists:
        with pytest.raises(VideoError, match="no video container that can be read"):
            probe(path)
    for path in attack.references:
        with contextlib.suppress(VideoError):
            assert shown_number(path) != CANARY_NUMBER
    for path in attack.misnamed:
        assert shown_number(path) == 1
    for trick in (
        f"concat:{attack.canary}",
        f"file:{attack.canary}",
        f"subfile,,start,0,end,0,,:{attack.canary}",
        attack.url,
        "rtsp://127.0.0.1/x",
        "data:video/mp4;base64,AAAA",
    ):
        with pytest.raises(VideoError, match="No such file"):
            probe(Path(trick))
    assert requests(attack.server) == 0


def test_pixel_bombs_are_refused_before_they_take_memory(attack: Attack) -> None:
    requests(attack.server)
    found = run_loader(attack)
    for path in attack.bombs:
        assert "can be decoded" in found["results"][str(path)], found["results"][str(path)]
    assert found["grown_bytes"] < 100 << 20
    assert requests(attack.server) == 0


def test_no_system_call_opens_another_file_or_a_socket(attack: Attack, tmp_path: Path) -> None:
    tracer = shutil.which("strace")
    if tracer is None or subprocess.run([tracer, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace is not there, or may not trace")
    log = tmp_path / "calls"
    requests(attack.server)
    found = run_loader(attack, tracer, "-f", "-s", "4096", "-o", str(log), "-e", f"trace={CALLS}")
    assert len(found["results"]) == len(attack.files) + 1
    calls: dict[str, list[str]] = {}
    current = None
    for line in log.read_text(errors="surrogateescape").splitlines():
        if mark := re.search(rf'"{MARK}(.*?)"', line):
            current = mark[1] or None
            calls.setdefault(mark[1], [])
        elif current is not None and re.search(r"\w+\(", line):
            calls[current].append(line)
    opened = {
        path: {name for line in lines for name in re.findall(r'"([^"]*)"', line)}
        for path, lines in calls.items()
    }
    for path in [attack.sound, *attack.files]:
        assert opened[str(path)] == {str(path)}, calls[str(path)]
        assert all("O_RDONLY" in line and re.search(r"\bopenat?\d?\(", line) for line in calls[str(path)])
    assert requests(attack.server) == 0
