"""Initial weights of backbone training: another data set's, a new classifier, frozen modules (§4.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from ...errors import DataError, UsageError
from ...store import VideoRecord
from ...terminal.suggest import did_you_mean
from ...terminal.text import agreeing, counted
from ..backbones import Backbone, on_meta
from ..backbones.weights.load import WeightsInfo, load_weights

FEATURES = "features"
"""For `freeze`: everything but the classifier."""


def start_from(
    model: str, place: str, backbone: Backbone, class_names: tuple[str, ...]
) -> tuple[WeightsInfo, str]:
    """Load the weights at `place` into a fresh backbone called `model`.

    Returns the weights' facts, and a line on what was loaded. The classifier (all tensors whose size depends
    on the number of classes) keeps its fresh weights unless the class names are the same.

    Raises:
        WeightsError: the weights are missing, damaged or another network's.
    """
    theirs, info = load_weights(model, path=place)
    state = theirs.state_dict()
    same_classes = info.class_names == class_names
    fresh = set() if same_classes else classifier_names(model, len(class_names))
    taken = {name: value for name, value in state.items() if name not in fresh}
    backbone.load_state_dict({**backbone.state_dict(), **taken})
    classifier = "its classifier too, the classes are the same" if same_classes else "with a new classifier"
    unknown = (
        ""
        if info.trained_on
        else "; which videos it was trained on is unknown: test videos may be among them"
    )
    return info, f"starts from {info.path}, {counted(len(taken), 'tensor')}, {classifier}{unknown}"


def require_unseen_by(info: WeightsInfo, videos: Sequence[VideoRecord], what: str) -> None:
    """Refuse weights that have seen videos, by id, that must stay unseen.

    Raises:
        DataError: they have.
    """
    seen = {video.id for video in videos}.intersection(info.trained_on)
    if seen:
        raise DataError(
            f"{len(seen)} of the {len(videos)} {what} {agreeing(len(seen), 'was', 'were')} in the training "
            f"of {info.path} ({min(seen)}, …), so it must not "
            "be started from; start from weights of the same split and fold, or of other videos"
        )


def freeze(model: str, backbone: Backbone, parts: Iterable[str]) -> list[nn.Module]:
    """Exclude the named modules from training; return them, to be kept in evaluation mode.

    A name is a module of the network, as "conv1", "res2" or "res4.0", or "features" for all but the
    classifier.

    Raises:
        UsageError: there is no such module, or nothing is left to train.
    """
    modules = dict(backbone.named_modules())
    own = classifier_names(model, backbone.num_classes or 1)
    frozen: list[nn.Module] = []
    for part in parts:
        if part == FEATURES:
            owners = {name.rpartition(".")[0] for name in own}
            frozen += [module for name, module in modules.items() if name not in owners and _is_leaf(module)]
            for name, parameter in backbone.named_parameters():  # also parameters outside leaf modules
                parameter.requires_grad_(parameter.requires_grad and name.rpartition(".")[0] in owners)
        elif part and part in modules:
            frozen.append(modules[part])
        else:
            tops = [
                name for name, child in backbone.named_children() if any(True for _ in child.parameters())
            ]
            hint = did_you_mean(part, [FEATURES, *tops])
            raise UsageError(f"no part {part!r} to freeze; there is: {FEATURES}, {', '.join(tops)}{hint}")
    for module in frozen:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise UsageError("--freeze leaves nothing to train; name fewer parts")
    return frozen


def classifier_names(model: str, num_classes: int) -> set[str]:
    """Return the names of the tensors whose size depends on the number of classes."""
    sizes, other = (on_meta(model, n).state_dict() for n in (num_classes, num_classes + 1))
    return {name for name in sizes if sizes[name].shape != other[name].shape}


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())
