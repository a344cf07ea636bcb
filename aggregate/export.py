"""Export a run's aggregator for programs that need only PyTorch: init, step and readout by torch.export."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.utils import _pytree as pytree

from .. import __version__
from ..errors import UsageError
from ..runtime.atomic import replace
from ..runtime.canonical_json import indented_json
from ..runtime.file_names import file_stem, require_text
from .models.base import Aggregator
from .runs import Run, load_run

FORMAT = 1
DESCRIPTION = "model.json"

FlatState = Sequence[Tensor | int]
"""An aggregator's state as one list: tensors, and counts of clips."""


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What `export_model` wrote: `files` in `folder`, and `description`, the JSON file about them."""

    folder: Path
    files: tuple[str, ...]
    description: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"folder": str(self.folder), "files": list(self.files), "description": self.description}


def export_model(run: str | Path | Run, out: str | Path) -> ExportedModel:
    """Write a run's aggregator into the folder `out`: init, step and readout as .pt2 files, and model.json.

    `init(x)` and `step(*state, x)` return the state as a list, `readout(*state)` the logits (B, K). Softmax
    turns them into probabilities. x is float32: a map (B, l, h, w, c), or the backbone's logits (B, K) if
    "reads" in model.json is "logits". B is free. If the aggregator treats its models differently, each model
    has its own init and step.

    Raises:
        RunError: the run is not complete.
        UsageError: `out` is a file, or a folder that holds something else.
        StorageError: the disk failed.
    """
    run = run if isinstance(run, Run) else load_run(run)
    folder = Path(out)
    require_text(folder, "--out")
    if (
        folder.exists()
        and not (folder / DESCRIPTION).exists()
        and (folder.is_file() or any(folder.iterdir()))
    ):
        raise UsageError(f"{folder} holds something else; name a new folder")
    config = run.config
    aggregator = _frozen(run.aggregator)
    shapes = {
        model: (len(config.class_names),) if aggregator.reads == "logits" else config.map_shapes[model]
        for model in config.models
    }
    # torch.export takes counts of 0 and 1 for constants, so the example state has seen three clips.
    examples = {model: torch.zeros(2, *shape) for model, shape in shapes.items()}
    with torch.no_grad():
        model, x = next(iter(examples.items()))
        state = aggregator.init(x, model)
        for _ in range(2):
            state = aggregator.step(state, x, model)
        leaves, structure = pytree.tree_flatten(state)
        programs = {
            "init": {
                name: _export(_Init(aggregator, name), (example,)) for name, example in examples.items()
            },
            "step": {
                name: _export(_Step(aggregator, structure, name), (*leaves, example))
                for name, example in examples.items()
            },
            "readout": {"": _export(_Readout(aggregator, structure), tuple(leaves))},
        }
    names = {what: _names(what, of_model) for what, of_model in programs.items()}
    files = {names[what][model]: programs[what][model] for what in programs for model in programs[what]}
    folder.mkdir(parents=True, exist_ok=True)
    for file, program in files.items():
        data = io.BytesIO()
        torch.export.save(program, data)
        replace(folder / file, data.getvalue())
    description = {
        "format": FORMAT,
        "aggregator": config.aggregator,
        "programs": {"init": names["init"], "step": names["step"], "readout": names["readout"][""]},
        "reads": aggregator.reads,
        "input": {model: {"dtype": "float32", "shape": ["B", *shape]} for model, shape in shapes.items()},
        "state": [_describe(leaf) for leaf in leaves],
        "map_shapes": {model: list(shape) for model, shape in config.map_shapes.items()},
        "skip_scores": config.skip_scores,
        "pattern": str(config.pattern),
        "expensive": config.expensive,
        "cheap": config.cheap,
        "clips": config.clips,
        "clip_frames": config.clip_frames,
        "class_names": list(config.class_names),
        "models": {model: dict(entry["spec"]) for model, entry in config.models.items()},
        "versions": {"faster": __version__, "torch": torch.__version__},
    }
    replace(folder / DESCRIPTION, indented_json(description))
    return ExportedModel(folder=folder, files=tuple(files), description=DESCRIPTION)


class _Init(nn.Module):
    def __init__(self, aggregator: Aggregator[Any], model: str) -> None:
        super().__init__()
        self.aggregator, self.model = aggregator, model

    def forward(self, *x: Tensor) -> list[Any]:
        return pytree.tree_leaves(self.aggregator.init(x[0], self.model))


class _Step(nn.Module):
    def __init__(self, aggregator: Aggregator[Any], structure: Any, model: str) -> None:
        super().__init__()
        self.aggregator, self.structure, self.model = aggregator, structure, model

    def forward(self, *state_and_x: Any) -> list[Any]:
        *state, x = state_and_x
        before = pytree.tree_unflatten(state, self.structure)
        return pytree.tree_leaves(self.aggregator.step(before, x, self.model))


class _Readout(nn.Module):
    def __init__(self, aggregator: Aggregator[Any], structure: Any) -> None:
        super().__init__()
        self.aggregator, self.structure = aggregator, structure

    def forward(self, *state: Any) -> Tensor:
        logits: Tensor = self.aggregator.readout(pytree.tree_unflatten(list(state), self.structure))
        return logits


def _frozen(aggregator: Aggregator[Any]) -> Aggregator[Any]:
    """Return a copy on the CPU in evaluation mode. Its counting buffers become ints, that is, constants."""
    frozen = copy.deepcopy(aggregator).cpu().float().eval().requires_grad_(False)
    for module in frozen.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.ndim == 0 and not buffer.is_floating_point():
                delattr(module, name)
                setattr(module, name, int(buffer))
    return frozen


def _export(module: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """Return the exported program, with the number of videos and all counts free."""
    free = tuple(
        Dim.DYNAMIC if isinstance(x, int) else ({0: Dim.DYNAMIC} if x.ndim else None) for x in inputs
    )
    return export(module, inputs, dynamic_shapes=(free,))


def _names(what: str, programs: dict[str, ExportedProgram]) -> dict[str, str]:
    """Return file names: one for all models if their programs are the same, else one per model."""
    distinct = {
        (program.graph_module.code, *(spec.target for spec in program.graph_signature.input_specs))
        for program in programs.values()
    }
    if len(distinct) == 1:
        return dict.fromkeys(programs, f"{what}.pt2")
    return {model: f"{what}-{file_stem(model)}.pt2" for model in programs}


def _describe(leaf: Tensor | int) -> dict[str, Any]:
    if isinstance(leaf, int):
        return {"dtype": "int"}
    return {
        "dtype": str(leaf.dtype).removeprefix("torch."),
        "shape": ["B", *leaf.shape[1:]] if leaf.ndim else [],
    }
