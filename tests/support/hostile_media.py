"""Files that try to make a reader open other files, reach the network, or take all memory; and what loading them does.

Run as a script (`hostile_media.py FILE …`) it loads the first file, which is sound, and then each of the others
between two marks that a tracer of system calls sees.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from pathlib import Path

import av
from videos import make_video

CANARY_NUMBER = 0xA5A
MARK = "/a-mark-that-is-not-there"


def make_canary(path: Path) -> Path:
    """A sound video whose every picture shows `CANARY_NUMBER`: nobody but the attacker names it."""
    return make_video(path, frames=12, number=CANARY_NUMBER)


def make_playlists(folder: Path, canary: Path, url: str) -> list[Path]:
    """Text files that name the canary, and `url`, in every language that FFmpeg follows; with honest and false names."""
    folder.mkdir()
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n"
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n'
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        'bandwidth="1"><BaseURL>{}</BaseURL><SegmentList><Initialization sourceURL="{}"/><SegmentURL media="{}"/>'
        "</SegmentList></Representation></AdaptationSet></Period></MPD>"
    )
    texts = {
        "local.m3u8": f"{head}#EXTINF:10,\n{canary}\n#EXT-X-ENDLIST\n",
        "remote.m3u8": f"{head}#EXTINF:10,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
        "key.m3u8": f"{head}{key}#EXTINF:10,\n{canary}\n#EXT-X-ENDLIST\n",
        "master.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}/inner.m3u8\n",
        "concat.m3u8": f"{head}#EXTINF:10,\nconcat:{canary}|{canary}\n#EXT-X-ENDLIST\n",
        "local.ffconcat": f"ffconcat version 1.0\nfile '{canary}'\n",
        "remote.ffconcat": f"ffconcat version 1.0\nfile '{url}/a.mp4'\n",
        "subfile.ffconcat": f"ffconcat version 1.0\nfile 'subfile,,start,0,end,0,,:{canary}'\n",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "local.mpd": dash.format(canary, canary, canary),
        "remote.mpd": dash.format(f"{url}/", f"{url}/a.mp4", f"{url}/b.mp4"),
        "list.txt": f"file {canary}\n",
        "link.strm": f"{url}/a.mp4\n",
        "link.rtsp": f"[Reference]\nRef1={url}/a.mp4\n",
    }
    paths = []
    for name, text in texts.items():
        for path in (folder / name, folder / f"{name}.mp4"):
            path.write_text(text)
            paths.append(path)
    return paths


def make_references(folder: Path, canary: Path, url: str) -> list[Path]:
    """MOV files with the canary's index, whose pictures, as they say, lie in another file: QuickTime's references."""
    folder.mkdir()
    (folder / canary.name).write_bytes(canary.read_bytes())
    data = bytearray(canary.read_bytes())
    pictures = data.index(b"mdat") + 4
    size = int.from_bytes(data[pictures - 8 : pictures - 4], "big") - 8
    data[pictures : pictures + size] = bytes(size)
    entries = {
        "absolute.mov": _alias(canary, levels=0),
        "relative.mov": _alias(canary, levels=1),
        "url_file.mov": b"url \0\0\0\0" + f"file://{canary}".encode() + b"\0",
        "url_http.mov": b"url \0\0\0\0" + f"{url}/a.mov".encode() + b"\0",
    }
    paths = []
    for name, entry in entries.items():
        (folder / name).write_bytes(_with_data_reference(bytes(data), entry))
        paths.append(folder / name)
    return paths


def make_misnamed(folder: Path, canary: Path) -> list[Path]:
    """Sound videos, number 1 in each picture, whose names are addresses to FFmpeg; the canary lies beside them."""
    folder.mkdir()
    (folder / "canary.mp4").write_bytes(canary.read_bytes())
    sound = make_video(folder / "sound.mp4", frames=12, number=1).read_bytes()
    names = [
        "concat:canary.mp4",
        "concat:canary.mp4|canary.mp4",
        "file:canary.mp4",
        "subfile,,start,0,end,0,,:canary.mp4",
        "async:canary.mp4",
        "cache:canary.mp4",
        "crypto:canary.mp4",
        "pipe:0",
        "udp:127.0.0.1:9",
        "frame%03d.mp4",
        "canary.m3u8",
        "canary.sdp",
        "canary.mpd",
        "*.mp4",
    ]
    for name in names:
        (folder / name).write_bytes(sound)
    return [folder / name for name in names]


def make_pixel_bombs(folder: Path) -> list[Path]:
    """Small files whose pictures would take gigabytes."""
    folder.mkdir()
    huge = folder / "huge.avi"
    with av.open(huge, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 8000, 4400, "yuv420p"
        frame = av.VideoFrame(8000, 4400, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    gif = folder / "screen.gif"
    gif.write_bytes(
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
        b"," + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0" + b"\x02\x02\x44\x01\0;"
    )
    jpeg = make_video(folder / "jpeg.avi", codec="mjpeg", frames=2)
    data = bytearray(jpeg.read_bytes())
    at = -1
    while (at := data.find(b"\xff\xc0\0\x11\x08", at + 1)) >= 0:
        data[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    jpeg.write_bytes(bytes(data))
    vp8 = make_video(folder / "vp8.webm", codec="libvpx", frames=2)
    data = bytearray(vp8.read_bytes())
    at = data.index(b"\x9d\x01\x2a")
    data[at + 3 : at + 7] = b"\xff\x3f\xff\x3f"
    vp8.write_bytes(bytes(data))
    return [huge, gif, jpeg, vp8]


def _alias(target: Path, *, levels: int) -> bytes:
    """A Macintosh alias record as FFmpeg reads it: a name, then typed strings, of which 2 is the whole path.

    With `levels` 1 the file lies beside the one that names it; with 0 the path counts.
    """
    path = str(target).encode()
    path += bytes(len(path) % 2)
    name = target.name.encode()[:63]
    record = bytes(10) + bytes([1]) + b"d".ljust(27, b"\0") + bytes(12)
    record += (
        bytes([len(name)])
        + name.ljust(63, b"\0")
        + bytes(16)
        + struct.pack(">HH", levels, levels)
        + bytes(16)
    )
    record += struct.pack(">HH", 2, len(path)) + path + struct.pack(">hH", -1, 0)
    return b"alis\0\0\0\0" + record


def _with_data_reference(data: bytes, entry: bytes) -> bytes:
    """Replace a file's one data reference, and mend the sizes of the boxes around it (the index lies at the end)."""
    at = data.index(b"dref") + 12
    old = int.from_bytes(data[at : at + 4], "big")
    new = struct.pack(">I", len(entry) + 4) + entry
    grown = bytearray(data[:at] + new + data[at + old :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = data.rindex(name, 0, at) - 4
        size = int.from_bytes(data[place : place + 4], "big") + len(new) - old
        grown[place : place + 4] = size.to_bytes(4, "big")
    return bytes(grown)


def main(files: list[str]) -> None:
    """Load each file; print a JSON object: its reason, or the number in its pictures; and the memory's growth."""
    from faster.errors import VideoError
    from faster.extract.video.decode import load_clips
    from videos import frame_number

    def load(path: str) -> str | int:
        try:
            return frame_number(load_clips(Path(path), clips=1, clip_frames=1, size=32).clips[0, 0])
        except VideoError as error:
            return str(error)

    load(files[0])  # what is imported late is imported now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = {}
    for path in files:
        os.access(f"{MARK}{path}", os.F_OK)
        results[path] = load(path)
    os.access(MARK, os.F_OK)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"results": results, "grown_bytes": grown}))


if __name__ == "__main__":
    main(sys.argv[1:])
