"""Weights by URL: fetched once, whole or not at all, over http and https only."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from faster.errors import StorageError, WeightsError
from faster.extract.backbones.weights.download import fetch
from faster.extract.backbones.weights.load import load_weights
from networks import randomised

BODY = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """On the loopback device; `answers` are (status, headers, body) by path, `asked` the paths asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache/faster/weights").rglob("*"))


def test_it_is_fetched_once_and_known_by_its_digest(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/a/net.pth?v=1"] = (200, {}, BODY)
    url = f"{server.url}/a/net.pth?v=1"
    first = fetch(url)
    assert first.path.read_bytes() == BODY and (first.sha256, first.url) == (SHA256, url)
    assert first.path.parent == tmp_path / "cache/faster/weights" and first.path.name.endswith("-net.pth")
    assert first.path.with_name(f"{first.path.name}.sha256").read_text() == f"{SHA256}\n"
    assert "net.pth: 100%" in capsys.readouterr().err
    assert fetch(url) == first and len(server.asked) == 1
    first.path.write_bytes(BODY[:-1])  # damaged on the disk
    assert fetch(url) == first and first.path.read_bytes() == BODY and len(server.asked) == 2
    assert len(cached(tmp_path)) == 2


def test_equal_names_of_other_places_do_not_meet(server: Server) -> None:
    server.answers |= {"/a/net.pth": (200, {}, b"a"), "/b/net.pth": (200, {}, b"b")}
    assert [fetch(f"{server.url}/{place}/net.pth").path.read_bytes() for place in "abab"] == [b"a", b"b"] * 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {}, b""), "cannot be fetched: Not Found"),
        ((500, {}, b""), "cannot be fetched"),
        (
            (200, {"Content-Length": str(len(BODY) + 1)}, BODY),
            "ended after 1280000 of 1280001 bytes|cannot be fetched",
        ),
        ((302, {"Location": "ftp://127.0.0.1/net.pth"}, b""), "cannot be fetched"),
        ((302, {"Location": "file:///etc/hostname"}, b""), "cannot be fetched"),
    ],
)
def test_what_is_not_the_whole_file_leaves_nothing(
    server: Server, tmp_path: Path, answer: tuple[int, dict[str, str], bytes], message: str
) -> None:
    server.answers["/net.pth"] = answer
    with pytest.raises(WeightsError, match=message) as caught:
        fetch(f"{server.url}/net.pth", progress=False)
    assert "\n" not in str(caught.value) and cached(tmp_path) == []


def test_redirections_within_http_are_followed(server: Server) -> None:
    server.answers |= {"/net.pth": (302, {"Location": "/b.pth"}, b""), "/b.pth": (200, {}, BODY)}
    assert fetch(f"{server.url}/net.pth").sha256 == SHA256


def test_a_name_with_a_digest_is_held_to_it(server: Server, tmp_path: Path) -> None:
    good, bad = f"/net-{SHA256[:8]}.pth", "/net-0123abcd.pth"
    server.answers |= {good: (200, {}, BODY), bad: (200, {}, BODY)}
    assert fetch(server.url + good).sha256 == SHA256
    with pytest.raises(
        WeightsError, match=f"another file than its name says: its SHA-256 begins with {SHA256[:8]}"
    ):
        fetch(server.url + bad)
    assert len(cached(tmp_path)) == 2


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/net.pth",
        "file:///net.pth",
        "s3://bucket/net.pth",
        "http:///net.pth",
        "data://,net.pth",
    ],
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(WeightsError, match=r"by http:// and https:// only"):
        load_weights("r2d14-w4", path=url)


def test_no_weights_by_their_name_are_not_asked_for(server: Server) -> None:
    with pytest.raises(WeightsError, match="is no weights file by its name"):
        fetch(f"{server.url}/net.zip")
    assert server.asked == []


def test_a_name_cannot_leave_the_cache(server: Server, tmp_path: Path) -> None:
    server.answers["/x/..%2F..%2F%2Fetc%2Fnet.pth"] = (200, {}, BODY)
    assert (
        fetch(f"{server.url}/x/..%2F..%2F%2Fetc%2Fnet.pth").path.parent == tmp_path / "cache/faster/weights"
    )


def test_a_cache_that_cannot_be_written_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        fetch(f"{server.url}/net.pth")


def test_nobody_there(server: Server) -> None:
    server.answers.clear()
    url = f"{server.url}/net.pth"
    server.server_close()
    with pytest.raises(WeightsError, match="cannot be fetched"):
        fetch(url)


def test_weights_load_from_a_url(server: Server, tmp_path: Path) -> None:
    state = randomised("r2d14-w4", 3).state_dict()
    torch.save(state, tmp_path / "w.pth")
    body = (tmp_path / "w.pth").read_bytes()
    server.answers["/w.pth"] = (200, {}, body)
    backbone, info = load_weights("r2d14-w4", path=f"{server.url}/w.pth")
    assert torch.equal(backbone.state_dict()["fc.weight"], state["fc.weight"])
    assert info.extra == {"url": f"{server.url}/w.pth", "sha256": hashlib.sha256(body).hexdigest()}
    assert info.path is not None and info.path.startswith(str(tmp_path / "cache"))
