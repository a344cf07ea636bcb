"""A file that is replaced is the old one or the new one, never a half of either."""

from __future__ import annotations

from pathlib import Path

import pytest
from faster.runtime.atomic import replacing


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_takes_its_name_at_the_end(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new folder" / "file"
    for text in (b"first", b"second"):
        with replacing(path, durable=durable) as file:
            before = path.read_bytes() if path.exists() else None
            file.write(text)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, OSError])
def test_what_goes_wrong_leaves_the_old_one_alone(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(stop), replacing(path) as file:
        file.write(b"half of")
        raise stop
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
