"""A store on object storage, read from a real server that speaks S3, on loopback."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from exchanges import contents, run_export
from faster import store as stores
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.runs import load_run
from faster.aggregate.train import TrainConfig, train_agg
from faster.errors import StoreError, UsageError
from faster.store.io.s3 import TAIL_BYTES, RemotePath, RemoteRanges, store_location
from faster.store.maintain.verify import verify
from faster.store.write import create as writer
from stores import make_spec, make_store, make_videos

obstore = pytest.importorskip("obstore", reason="obstore is not installed: pip install 'faster-video[cloud]'")
from obstore.store import S3Store  # noqa: E402

BUCKET = "videos"
# Around 50 KB a clip and 800 KB a shard, so that a whole shard cannot be mistaken for a few clips.
SHAPE = (1, 7, 7, 512)
KINDS = {"r2d26": ("float16", "none"), "r2plus1d50": ("uint8", "none"), "r3d50": ("float16", "zstd")}
VIDEOS = 10


@dataclass
class Server:
    """A proxy in front of the S3 server that writes down what is asked of it."""

    port: int
    requests: list[tuple[str, str, str, int]] = field(default_factory=list)  # method, path, range, bytes sent

    def put(self, path: str, data: bytes = b"") -> None:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("PUT", quote(path), body=data)
            assert connection.getresponse().status == 200

    def upload(self, folder: Path, to: str) -> None:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"/{BUCKET}/{to}/{file.relative_to(folder)}", file.read_bytes())


def moto_command() -> list[str] | None:
    """How moto's server is started here, from this or the system's Python; None where it is not installed."""
    if importlib.util.find_spec("moto"):
        return [sys.executable, "-m", "moto.server"]
    if found := shutil.which("moto_server"):
        return [found]
    for python in ("python3", "/usr/bin/python3"):
        probe = [python, "-c", "import moto.server"]
        if shutil.which(python) and not subprocess.run(probe, capture_output=True, check=False).returncode:
            return [python, "-m", "moto.server"]
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            threading.Event().wait(0.05)
        else:
            return
    pytest.fail("the S3 server did not start")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = moto_command()
    if command is None:
        pytest.skip("no S3 server here: moto is not installed (pip install 'moto[server]')")
    behind = free_port()
    process = subprocess.Popen(
        [*command, "-H", "127.0.0.1", "-p", str(behind)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(behind, process)
        with logging_proxy(behind) as running:
            running.put(f"/{BUCKET}")
            yield running
    finally:
        process.terminate()
        process.wait(timeout=30)


class logging_proxy:
    """Forwards to a port on loopback, and keeps method, path, range and size of every answer."""

    def __init__(self, behind: int) -> None:
        record = Server(port=0)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                connection = HTTPConnection("127.0.0.1", behind, timeout=30)
                connection.request(self.command, self.path, body=body, headers=dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                record.requests.append(
                    (self.command, self.path, self.headers.get("range", ""), len(data)),
                )
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in (
                        "transfer-encoding",
                        "connection",
                        "content-length",
                        "date",
                        "server",
                    ):
                        self.send_header(name, value)
                length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
                self.send_header("content-length", length or "0")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_HEAD = do_PUT = forward

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        record.port = self._http.server_address[1]
        self._record = record
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self._record

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> stores.Store:
    specs = [
        make_spec(model, map_shape=SHAPE, dtype=dtype, codec=codec) for model, (dtype, codec) in KINDS.items()
    ]
    path = tmp_path_factory.mktemp("remote") / "kinetics of é.zarr"
    return make_store(
        path, specs, make_videos(VIDEOS), failed={3: "audio only"}, trained_on=["x/1.mp4"], signal=True
    )


@pytest.fixture(scope="module")
def uploaded(server: Server, local: stores.Store) -> str:
    server.upload(local.path, f"cache/{local.path.name}")
    return f"s3://{BUCKET}/cache/{local.path.name}"


def environment(port: int) -> dict[str, str]:
    """What a user sets; nothing of this machine's own credentials, and never a metadata service outside loopback."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_METADATA_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def remote(server: Server, uploaded: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in environment(server.port).items():
        monkeypatch.setenv(name, value)
    server.requests.clear()
    return uploaded


def faster(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faster.cli", *arguments],
        env={"PATH": "", **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("model", KINDS)
def test_the_same_maps_logits_and_facts_come_from_object_storage(
    remote: str, local: stores.Store, model: str
) -> None:
    here, there = local.features(model, 8), stores.open(remote).features(model, 8)
    rng = np.random.default_rng(0)
    rows, clips = rng.choice([0, 1, 2, 4, 5, 6, 7, 8, 9], size=40), rng.integers(0, 4, size=40)

    np.testing.assert_array_equal(there.read_maps(rows, 0, clips), here.read_maps(rows, 0, clips))
    np.testing.assert_array_equal(there.read_logits(rows, 0, clips), here.read_logits(rows, 0, clips))
    for mine, theirs in zip(here.read_stored(rows, 0, clips), there.read_stored(rows, 0, clips), strict=True):
        np.testing.assert_array_equal(theirs, mine)
    assert there.spec == here.spec
    assert there.trained_on == here.trained_on == {"x/1.mp4"}
    assert there.coverage.reasons == here.coverage.reasons == {(3, 0): "audio only"}
    for name, column in here.coverage.columns.items():
        np.testing.assert_array_equal(there.coverage.columns[name], column)


def test_the_store_itself_is_the_same(remote: str, local: stores.Store) -> None:
    there = stores.open(remote)
    assert str(there.path) == remote
    assert there.fingerprint == local.fingerprint
    assert there.models == local.models
    assert there.videos.ids == local.videos.ids
    np.testing.assert_array_equal(there.videos.split("split1"), local.videos.split("split1"))
    dask_here, dask_there = (store.to_dask("r2d26", 8) for store in (local, there))
    np.testing.assert_array_equal(dask_there[:2].compute(), dask_here[:2].compute())


def test_clips_are_asked_for_as_byte_ranges(server: Server, remote: str, local: stores.Store) -> None:
    features = stores.open(remote).features("r2d26", 8)
    assert features.ok.sum() == VIDEOS - 1
    server.requests.clear()
    features.read_stored([0, 5, 9, 5], 0, [1, 2, 3, 0])

    assert all(method == "GET" and asked for method, _, asked, _ in server.requests)
    size = features.spec.clip_bytes
    opened = [entry for entry in server.requests if entry[2] == f"bytes=-{TAIL_BYTES}"]
    clips = [entry for entry in server.requests if entry not in opened]
    assert len(opened) == 3 and len({path for _, path, _, _ in opened}) == 3  # one for each shard's index
    assert [sent for *_, sent in clips] == [size] * 4
    server.requests.clear()
    features.read_stored([5], 0, [3])
    assert len(server.requests) == 1  # the index is kept


def test_consolidated_columns_spare_the_receipts(server: Server, remote: str) -> None:
    assert stores.open(remote).features("r2d26", 8).ok.sum() == VIDEOS - 1
    read = [path for _, path, _, _ in server.requests if re.search(r"receipts/\d", path)]
    assert not read


def test_receipts_newer_than_the_columns_are_read(server: Server, remote: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "fresh.zarr", [make_spec()], make_videos(6), finalise=False)
    server.upload(store.path, "fresh.zarr")
    there = stores.open(f"s3://{BUCKET}/fresh.zarr").features("r2d26", 8)
    assert there.ok[:6].all()
    np.testing.assert_array_equal(
        there.read_maps([5, 0], 0, [0, 3]), store.features("r2d26", 8).read_maps([5, 0], 0, [0, 3])
    )


def test_a_damaged_clip_is_told(server: Server, remote: str, local: stores.Store, tmp_path: Path) -> None:
    shutil.copytree(local.path, tmp_path / "bad.zarr")
    shard = next(
        file for file in (tmp_path / "bad.zarr/features/r2d26/L8/maps/c").rglob("*") if file.is_file()
    )
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    server.upload(tmp_path / "bad.zarr/features/r2d26", "bad.zarr/features/r2d26")
    for part in ("zarr.json", "manifest/000000.json"):
        server.put(f"/{BUCKET}/bad.zarr/{part}", (local.path / part).read_bytes())
    features = stores.open(f"s3://{BUCKET}/bad.zarr").features("r2d26", 8)
    row = int(shard.relative_to(features_maps(tmp_path / "bad.zarr")).parts[0]) * local.shard_videos
    with pytest.raises(StoreError, match="is damaged"):
        features.read_maps(row, 0, [0])


def features_maps(store: Path) -> Path:
    return store / "features/r2d26/L8/maps/c"


def test_an_object_that_ends_too_soon_is_told(server: Server, remote: str) -> None:
    server.put(f"/{BUCKET}/short", bytes(3 * TAIL_BYTES))
    ranges = RemoteRanges(RemotePath(f"s3://{BUCKET}/short"))
    assert ranges.size == 3 * TAIL_BYTES
    for offset in (ranges.size - 5, ranges.size - TAIL_BYTES - 1):
        with pytest.raises(StoreError, match="ends before"):
            ranges.read_into(memoryview(bytearray(TAIL_BYTES + 2)), offset)
    # Someone replaces it by a shorter one, and what the server then gives is less than was asked.
    obstore.put(S3Store(BUCKET, client_options={"allow_http": True}), "short", bytes(TAIL_BYTES))
    with pytest.raises(StoreError, match="ends before"):
        ranges.read_into(memoryview(bytearray(100)), TAIL_BYTES - 50)


@pytest.mark.parametrize("out", ["maps.h5", "maps"])
def test_an_export_from_there_is_the_same(remote: str, local: stores.Store, tmp_path: Path, out: str) -> None:
    model = next(iter(KINDS))
    for name, path in (("here", local.path), ("there", Path(remote))):
        run_export(path, tmp_path / name / out, model=model)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_what_cannot_be_done_there_is_refused(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="mapped"):
        stores.open(remote, mapped=True)
    for write in (
        lambda: writer.require_writable(Path(remote)),
        lambda: writer.create(Path(remote), shard_videos=4),
        lambda: stores.finalise(stores.open(remote)),
        lambda: (RemotePath(remote) / "x").write_bytes(b""),
        lambda: (RemotePath(remote) / "x").mkdir(),
    ):
        with pytest.raises(UsageError, match="only read"):
            write()
    with pytest.raises(
        UsageError, match=r"only read; verify a copy: aws s3 sync s3://.*, then faster verify .*"
    ):
        verify(remote, repair=True, progress=False)
    assert not list(tmp_path.iterdir())  # least of all is a folder "s3:" made


def test_locations() -> None:
    assert str(store_location(Path("s3://bucket/a/b.zarr"))) == "s3://bucket/a/b.zarr"
    assert store_location("s3://bucket/a.zarr").stem == "a"
    assert store_location("some/folder.zarr") == Path("some/folder.zarr")
    assert not isinstance(store_location("some/folder.zarr"), RemotePath)
    for text in ("gs://bucket/a.zarr", "https://host/a.zarr"):
        with pytest.raises(UsageError, match="s3://"):
            store_location(text)
    with pytest.raises(UsageError, match="names no bucket"):
        stores.open("s3://")


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match=r"pip install 'faster-video\[cloud\]'"):
        stores.open("s3://bucket/a.zarr")


def test_nothing_there_is_told(remote: str) -> None:
    for place in (f"s3://{BUCKET}/nothing.zarr", "s3://no-such-bucket/kinetics.zarr"):
        with pytest.raises(StoreError, match="no such object, or no such bucket"):
            stores.open(place)
    with pytest.raises(StoreError, match="has no maps of r2d14 at 8 frames"):
        stores.open(remote).features("r2d14", 8)


def test_inspect_shows_the_same_figures_and_reads_no_whole_shard(
    server: Server, remote: str, local: stores.Store
) -> None:
    result = faster("inspect", remote, "--json", env=environment(server.port))
    assert result.returncode == 0, result.stderr
    shown, expected = json.loads(result.stdout), stores.inspect(local.path).to_dict()
    assert shown["path"] == remote and shown["free_bytes"] is None
    for name in ("path", "free_bytes"):
        del shown[name], expected[name]
    assert shown == json.loads(json.dumps(expected))
    assert not [entry for entry in server.requests if "/maps/c/" in entry[1] and not entry[2]]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
    ],
    ids=["server-gone", "no-credentials"],
)
def test_no_answer_ends_as_one_line(
    server: Server, uploaded: str, changes: dict[str, str], told: str
) -> None:
    env = {name: value for name, value in {**environment(server.port), **changes}.items() if value}
    result = faster("inspect", uploaded, env=env)
    assert result.returncode == 65
    assert result.stderr.count("\n") == 1 and told in result.stderr
    assert "Traceback" not in result.stderr


def test_the_commands_that_write_say_so(server: Server, remote: str) -> None:
    result = faster("verify", remote, "--repair", env=environment(server.port))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "only read" in result.stderr


def test_training_from_there_is_the_same_bit_for_bit(server: Server, remote: str, tmp_path: Path) -> None:
    specs = [make_spec("dear"), make_spec("cheap")]
    here = make_store(tmp_path / "small.zarr", specs, make_videos(12), signal=True)
    server.upload(here.path, "small.zarr")
    there = f"s3://{BUCKET}/small.zarr"
    for name, store in (("here", str(here.path)), ("there", there)):
        config = TrainConfig(
            store=store, out=tmp_path / name, pattern="1:3", epochs=1, batch_size=16, device="cpu"
        )
        train_agg(config, progress=False)
    best = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("here", "there")]
    assert best[0] == best[1]
    reports = [train_report(tmp_path / name) for name in ("here", "there")]
    assert reports[0] == reports[1]


def train_report(out: Path) -> dict[str, object]:
    run = load_run(out)
    assert str(run.config.store).startswith("s3://") == (out.name == "there")
    return {**evaluate(run, device="cpu").to_dict(), "predictions": ""}
