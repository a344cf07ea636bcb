"""Weights of backbones: find a model's file, load it strictly, save it with its facts.

A weights file is `<name>.safetensors`; its facts (`WeightsInfo`) are in `<name>.safetensors.json` next to it.
Files from elsewhere (`.safetensors`, `.pth`, `.pt`) have no JSON; they load too, see `state_dicts`, also from
URLs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ....errors import WeightsError
from ....runtime.canonical_json import read_as
from ....runtime.file_names import file_stem
from ....terminal.text import counted
from ....training.run_folder import write_json, write_tensors
from .. import LIBRARIES, Backbone, build, on_meta, require_known
from ..libraries.registry import pretrained
from .download import SUFFIXES, fetch, is_url
from .state_dicts import StateDict, fit_names, read_state, require_fits

RANDOM_SEED = 0
"""Seed of the weights for `allow_random`."""


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """The facts of a backbone's weights."""

    model: str
    digest: str = ""
    """Hex SHA-256 of the weights themselves, see `weights_digest`; set on saving and loading."""
    path: str | None = None
    """The file they were loaded from."""
    random: bool = False
    """Whether they are random: for smoke tests and timing only."""
    seed: int | None = None
    class_names: tuple[str, ...] | None = None
    """Names of the classifier's classes, in its order."""
    trained_on: tuple[str, ...] = ()
    """Ids of the videos seen in training."""
    clip_frames: int | None = None
    """L in training."""
    size: int | None = None
    """Pixels of a frame's side in training."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Other facts of the training, as JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, without `path`, which is only the current location."""
        values = asdict(self)
        del values["path"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WeightsInfo:
        """Invert `to_dict`. Raises ValueError if keys are unknown or missing."""
        if "digest" not in values or "path" in values:
            raise ValueError('no "digest"' if "digest" not in values else "unknown keys ['path']")
        return read_as(cls, values, refuse_unknown=True)


def load_weights(
    model: str,
    *,
    path: str | Path | None = None,
    allow_random: bool = False,
    num_classes: int | None = None,
    search: str | Path = "weights",
) -> tuple[Backbone, WeightsInfo]:
    """Return the backbone called `model` with its weights, in evaluation mode on the CPU.

    `path` is a weights file, its URL, or a run folder that holds `best.safetensors`. Without it, the file is
    `<model>.*` in `search`, or else in the checkpoint that an `hf:` model is named after. The classifier has
    as many classes as the file (`num_classes` is for a user's network, whose file does not tell). With
    `allow_random`, and only if no file is found, the weights are random but always the same. There is then no
    classifier, so that no meaningless logits come out.

    Raises UsageError for an unknown model. Raises WeightsError if nothing is found, or if the file is damaged
    or does not fit this network exactly.
    """
    require_known(model)
    source: dict[str, Any] = {}
    found: Path | None
    if path is not None and is_url(path):
        download = fetch(str(path))
        found, source = download.path, {"url": download.url, "sha256": download.sha256}
    else:
        found = _given(Path(path)) if path is not None else find_weights(model, search)
    if found is None:
        theirs = _librarys_own(model, allow_random)
        found = theirs if isinstance(theirs, Path) else None
    if found is None:
        if not allow_random:
            if theirs is not None:
                raise WeightsError(
                    f"no weights for {model} in {search}/; its library's own are at `--weights {theirs}`, "
                    "or go on with random ones with `--allow-random`"
                )
            raise WeightsError(
                f"no weights for {model} in {search}/: train them with `faster train-backbone --model "
                f"{model}`, put a file "
                f"at {Path(search) / file_stem(model)}.safetensors, name one with `--weights FILE`, or go "
                "on with random ones with `--allow-random`"
            )
        return random_weights(model)

    state = read_state(found)
    info = _read_info(found)
    if info is not None and info.model != model:
        raise WeightsError(f"{found} holds weights of {info.model}, not of {model}")
    classes = _classes(model, found, state, info, num_classes)
    backbone = _build(model, classes)
    fitted = fit_names(state, backbone)
    require_fits(fitted, backbone, model, found)
    backbone.load_state_dict(fitted)
    digest = weights_digest(backbone.state_dict())
    if info is None:
        info = WeightsInfo(model=model, digest=digest, class_names=backbone.class_names, extra=source)
    elif info.digest != digest:
        raise WeightsError(
            f"{_info_path(found)} is about other weights than {found}; restore the pair, or remove the .json"
        )
    return backbone.eval(), replace(info, path=str(found))


def random_weights(model: str) -> tuple[Backbone, WeightsInfo]:
    """Return the backbone called `model` with random weights (always the same) and no classifier.

    It is in evaluation mode.
    """
    backbone = _build(model, None)
    digest = weights_digest(backbone.state_dict())
    return backbone.eval(), WeightsInfo(model=model, digest=digest, random=True, seed=RANDOM_SEED)


def save_weights(backbone: Backbone, path: str | Path, info: WeightsInfo) -> WeightsInfo:
    """Write `path` (`….safetensors`) and its facts (`….safetensors.json`); return the facts as saved.

    Each file is written completely or not at all. The digest is always computed from the backbone's weights,
    not taken from `info`. Raises WeightsError for another suffix, or if the class names do not fit the
    classifier; StorageError if the disk fails.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"weights are saved as .safetensors, not as {path.name}")
    if info.class_names is not None and len(info.class_names) != backbone.num_classes:
        raise WeightsError(
            f"{counted(len(info.class_names), 'class name')} for a "
            f"classifier of {backbone.num_classes} classes"
        )
    state = backbone.state_dict()
    info = replace(info, digest=weights_digest(state), path=str(path))
    write_tensors(path, state)
    write_json(_info_path(path), info.to_dict())
    return info


def find_weights(model: str, folder: str | Path = "weights") -> Path | None:
    """Return `folder/<model>` with the suffix .safetensors, .pth or .pt; None if there is none.

    '/' and ':' in the model's name become '-'. Raises WeightsError if there are several.
    """
    stem = file_stem(model)
    found = [path for suffix in SUFFIXES if (path := Path(folder) / f"{stem}{suffix}").is_file()]
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise WeightsError(
            f"several weights for {model}: {names}; keep one, or name one with `--weights FILE`"
        )
    return found[0] if found else None


def weights_digest(state: StateDict) -> str:
    """Return the hex SHA-256 over name, dtype, shape and bytes of each tensor, sorted by name.

    It does not depend on the file format.
    """
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _given(path: Path) -> Path:
    """Return the file for a user's path. Raises WeightsError if there is none."""
    if path.is_dir() and (path / "config.json").exists() and not (path / "result.json").exists():
        raise WeightsError(
            f"{path} is not finished: which videos its weights saw is written at "
            "the end; run its command again, it goes on"
        )
    file = path / "best.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(
            f"no weights at {file}; give a .safetensors, .pth or .pt file, or the folder of a finished run"
        )
    if file.suffix not in SUFFIXES:
        raise WeightsError(f"{file} is not a weights file by its name; known are {', '.join(SUFFIXES)}")
    return file


def _librarys_own(model: str, allow_random: bool) -> str | Path | None:
    """Return where the model's library keeps its weights: a file to load or a URL to show; None without."""
    try:
        return pretrained(model)
    except WeightsError:
        if allow_random:
            return None
        raise


def _build(model: str, num_classes: int | None) -> Backbone:
    """Build with the fixed seed, without changing the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            RANDOM_SEED
        )  # the CPU's only: torch.manual_seed would touch the GPUs' as well
        return build(model, num_classes)


def _classes(
    model: str, path: Path, state: StateDict, info: WeightsInfo | None, asked: int | None
) -> int | None:
    """Return the number of classes; file, facts and caller must agree, else WeightsError is raised."""
    key = on_meta(model).classifier_key if model.partition(":")[0] in LIBRARIES else Backbone.classifier_key
    weight = state.get(key)
    says = {
        f"its {key}": weight.shape[0] if weight is not None and weight.ndim else None,
        "its class names": len(info.class_names)
        if info is not None and info.class_names is not None
        else None,
        "num_classes": asked,
    }
    counts = {who: count for who, count in says.items() if count is not None}
    if len(set(counts.values())) > 1:
        raise WeightsError(
            f"{path}: "
            + ", ".join(f"{counted(count, 'class', 'classes')} by {who}" for who, count in counts.items())
        )
    return next(iter(counts.values()), None)


def _info_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_info(path: Path) -> WeightsInfo | None:
    """Return the facts for a weights file; None without any. Raises WeightsError if they cannot be read."""
    beside = _info_path(path)
    if not beside.is_file():
        return None
    try:
        return WeightsInfo.from_dict(json.loads(beside.read_bytes()))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{beside} is not the record of weights that belongs to {path.name}: {error}"
        ) from error
