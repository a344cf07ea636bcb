"""Weights from a URL: downloaded once into a cache, complete or not at all, and checked by SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from .... import __version__
from ....errors import StorageError, WeightsError
from ....runtime.atomic import replace, replacing
from ....terminal.progress_bars import tqdm

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file of the cache, its URL, and its SHA-256."""

    path: Path
    url: str
    sha256: str


def is_url(place: object) -> bool:
    """Whether this is a URL of any scheme, and not a file's path."""
    return "://" in str(place)


def fetch(url: str, *, cache: Path | None = None, progress: bool = True) -> Download:
    """Return the file at `url`, from the cache if it is there and complete, else downloaded into it.

    The cache keeps each file's SHA-256 next to it, and compares it at each use. If the name ends in a part of
    the SHA-256, as in `r3d_18-b3b3357e.pth`, the file must match it.

    Args:
        url: http or https, also for all redirections.
        cache: the folder; by default `faster/weights` in $XDG_CACHE_HOME or ~/.cache.
        progress: show a progress bar.

    Raises:
        WeightsError: another scheme or suffix; no answer; an incomplete or different file.
        StorageError: the cache cannot be written.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WeightsError(
            f"{url}: weights are fetched by http:// and https:// only; name a file, or such a URL"
        )
    name = re.sub(r"[^A-Za-z0-9._-]", "-", PurePosixPath(unquote(parts.path)).name)
    if Path(name).suffix not in SUFFIXES:
        raise WeightsError(f"{url} is no weights file by its name; known are {', '.join(SUFFIXES)}")
    folder = cache or cache_folder()
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    record = path.with_name(f"{path.name}.sha256")
    if path.is_file() and record.is_file():
        sha256 = record.read_text(encoding="ascii").strip()
        if file_sha256(path) == sha256:
            return Download(path=path, url=url, sha256=sha256)
    try:
        with replacing(path) as file:
            sha256 = _receive(url, file, folder, name if progress else None)
            _require_named(sha256, name, url)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}") from error
    replace(record, f"{sha256}\n".encode())
    return Download(path=path, url=url, sha256=sha256)


def cache_folder() -> Path:
    """Return the folder of downloaded weights."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faster" / "weights"


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _receive(url: str, file: BinaryIO, folder: Path, shown: str | None) -> str:
    """Write the URL's content to `file`, which is in `folder`; return its SHA-256."""
    sha, received = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"faster-video/{__version__}"})
        with _opener().open(request, timeout=TIMEOUT_SECONDS) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            with tqdm(total=total, unit="B", unit_scale=True, desc=shown, disable=shown is None) as bar:
                while part := answer.read(CHUNK_BYTES):
                    _write(file.fileno(), part, folder)
                    sha.update(part)
                    received += len(part)
                    bar.update(len(part))
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{url} cannot be fetched: {reason or type(error).__name__}") from error
    if total is not None and received != total:
        raise WeightsError(f"{url} ended after {received} of {total} bytes; run the same command again")
    return sha.hexdigest()


def _write(descriptor: int, part: bytes, folder: Path) -> None:
    """Write all of `part`. Raises StorageError, so that a full disk is not reported as a network error."""
    try:
        while part:
            part = part[os.write(descriptor, part) :]
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}") from error


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https only: urllib's own also follows redirections to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _require_named(sha256: str, name: str, url: str) -> None:
    """Raise WeightsError if the SHA-256 does not match the part of it in the name."""
    named = re.search(r"-([0-9a-f]{8,64})\.", name)
    if named and not sha256.startswith(named[1]):
        raise WeightsError(
            f"{url} gave another file than its name says: its SHA-256 begins with {sha256[:8]}"
        )
