"""The run folder of a training command: its config, and files that are written atomically."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ..errors import RunError, UsageError
from ..runtime.atomic import TEMPORARY_SUFFIX, replace
from ..runtime.canonical_json import as_json_types, indented_json
from ..runtime.file_names import require_text
from ..terminal.outputs import require_folder
from ..terminal.text import counted


def init_run_dir(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Begin a run folder with this config, or check that an existing one has the same.

    Keys under "versions" are recorded but not compared. Raises RunError with the difference, and UsageError
    for a store's folder, or one whose name is not UTF-8.
    """
    path = run_dir / "config.json"
    require_text(run_dir, "--out")
    if (run_dir / "zarr.json").exists():
        raise UsageError(f"{run_dir} is a store; name another folder with --out")
    config = as_json_types(config)
    if not path.exists():
        require_folder(run_dir, "--out")
        write_json(path, config)
        return
    there, asked = _flat(read_json(path)), _flat(config)
    keys = [k for k in there.keys() | asked.keys() if k.split(".")[0] != "versions"]
    digests = {k for k in keys if _is_digest(there.get(k)) or _is_digest(asked.get(k))}
    differing = sorted(
        # An option that did not exist in the version which began the folder counts as off.
        (k for k in keys if _on(there.get(k)) != _on(asked.get(k))),
        key=lambda k: (k in digests, k.count("."), k),
    )
    # A setting can stand at several places: under its own name, and in what follows from it.
    leaves: dict[tuple[str, str, str], str] = {}
    for k in differing:
        leaves.setdefault((k.split(".")[-1], str(there.get(k)), str(asked.get(k))), k)
    changed = list(leaves.values())
    if changed:
        shown = "; ".join(
            f"{k} differs" if k in digests else f"{k} is {there.get(k)} there, {asked.get(k)} asked"
            for k in changed[:4]
        )
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise RunError(
            f"{run_dir} was begun with another config: {shown}{more}; "
            "name another folder with --out, or remove this one"
        )


def _on(value: object) -> object:
    return None if value is False else value


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


@contextmanager
def lock_run_dir(run_dir: Path) -> Iterator[None]:
    """Lock a folder that `init_run_dir` opened, until the end of the block or of this process.

    Raises RunError if another process has the lock. Without effect if the file system has no locks.
    """
    with (run_dir / "config.json").open("r+b") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is training into {run_dir}; let it end, or name another folder with --out"
            ) from None
        except OSError:  # the lock only prevents mistakes
            pass
        yield


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}".lstrip(".")).items()
    }


def read_json(path: Path) -> Any:
    """Read a JSON file; RunError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: this is no run folder; name one that a training command made"
            + _runs_inside(path.parent)
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _runs_inside(folder: Path) -> str:
    """Return a hint where a folder holds run folders."""
    runs = sum(1 for _ in folder.glob("*/config.json"))
    return f"; {counted(runs, 'run')} are in it: {folder}/*" if runs > 1 else ""


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    replace(path, indented_json(value) + b"\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; `header` becomes its metadata."""
    contiguous = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    # safetensors cannot read back an empty file that was written with an empty header.
    replace(path, save(contiguous, metadata=dict(header) if header else None))


def remove_unfinished(run_dir: Path) -> None:
    """Remove temporary files of a killed process."""
    for left in run_dir.glob(f".*{TEMPORARY_SUFFIX}"):
        left.unlink(missing_ok=True)


def run_began(run_dir: Path) -> bool:
    """Return whether the folder holds a run's config."""
    return (run_dir / "config.json").exists()
