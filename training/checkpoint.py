"""Checkpoints of a training run: one file with the complete state, from which the run resumes bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import RunError
from .run_folder import write_json, write_tensors


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """The epoch, counted from 1, of the weights in best.safetensors, and its validation figures."""

    epoch: int
    metrics: dict[str, float]


@dataclass
class TrainState:
    """The progress of a run: `step` steps of `epoch` (both from 0) are done, with this sum of losses."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: BestEpoch | None = None

    @classmethod
    def from_json(cls, text: str) -> TrainState:
        """Read back what `save_last` wrote. Raises ValueError, KeyError or TypeError."""
        fields = json.loads(text)
        best = fields.pop("best")
        return cls(**fields, best=BestEpoch(**best) if best else None)


def write_best(run_dir: Path, weights: Mapping[str, Tensor], best: BestEpoch) -> None:
    """Write best.safetensors, and its figures to best.json."""
    write_tensors(run_dir / "best.safetensors", weights)
    write_json(run_dir / "best.json", asdict(best))


def save_last(run_dir: Path, model: nn.Module, optimizer: Optimizer, state: TrainState) -> None:
    """Write last.safetensors atomically, so that a kill leaves either the previous file or the new one.

    Raises:
        StorageError: the disk failed; the previous file still exists.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{key}/{name}"] = value
    # One file is one commit: it contains the train state and the tensors. The .json is for people, and comes
    # first: after a kill between the two, the step is done again, and both are written.
    write_json(run_dir / "last.json", asdict(state))
    write_tensors(
        run_dir / "last.safetensors", tensors, {"state": json.dumps(asdict(state), allow_nan=False)}
    )


def load_last(run_dir: Path, model: nn.Module, optimizer: Optimizer) -> TrainState:
    """Restore model and optimiser from last.safetensors; return the initial state if there is none.

    Raises:
        RunError: the file is damaged, or of another network.
    """
    path = run_dir / "last.safetensors"
    if not path.exists():
        return TrainState()
    try:
        with safe_open(path, framework="pt") as file:
            state = TrainState.from_json(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        model.load_state_dict(
            {name[len("model/") :]: value for name, value in tensors.items() if name.startswith("model/")}
        )
        parameters = dict(model.named_parameters())
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                key, _, owner = rest.partition("/")
                counter = key == "step"  # AdamW's; it stays on the CPU, the others go with their parameter
                optimizer.state[parameters[owner]][key] = (
                    value if counter else _like(parameters[owner], value)
                )
    except Exception as error:  # the library raises many unrelated types
        raise RunError(f"{path} cannot be resumed from: {error}; delete {run_dir} to start again") from error
    return state


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return the value on the parameter's device, in its memory format."""
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
