import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from faster.errors import StorageError, WeightsError
from faster.extract.backbones import build
from faster.extract.backbones.weights.load import (
    WeightsInfo,
    find_weights,
    load_weights,
    save_weights,
    weights_digest,
)
from networks import randomised

MODEL = "r2d14-w4"
CLASSES = ("run", "jump", "swim")
INFO = WeightsInfo(
    model=MODEL,
    class_names=CLASSES,
    trained_on=("a/1.mp4", "b/2.mp4"),
    clip_frames=8,
    size=64,
    extra={"epochs": 3, "top1": 0.5},
)


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_saved_weights_load_with_their_facts(tmp_path):
    backbone = randomised(MODEL, 3)
    saved = save_weights(backbone, tmp_path / "new" / f"{MODEL}.safetensors", INFO)
    loaded, info = load_weights(MODEL, search=tmp_path / "new")
    assert same(backbone, loaded) and not loaded.training and loaded.num_classes == 3
    assert info == saved == replace(INFO, digest=weights_digest(backbone.state_dict()), path=info.path)
    assert Path(info.path) == tmp_path / "new" / f"{MODEL}.safetensors"
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        f"{MODEL}.safetensors",
        f"{MODEL}.safetensors.json",
    ]


def test_facts_survive_json():
    assert WeightsInfo.from_dict(json.loads(json.dumps(INFO.to_dict()))) == INFO
    assert WeightsInfo.from_dict({"model": "m", "digest": "d"}) == WeightsInfo(model="m", digest="d")


def test_the_digest_is_of_the_weights_not_of_their_file(tmp_path):
    state = randomised(MODEL, 3).state_dict()
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode() + tensor.numpy().tobytes())
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c.pt")
    torch.save({"model": dict(reversed(state.items())), "best": 0.5}, tmp_path / "d.pth")
    for name in ("a.safetensors", "b.pth", "c.pt", "d.pth"):
        backbone, info = load_weights(MODEL, path=tmp_path / name)
        assert info.digest == sha.hexdigest()
        assert backbone.num_classes == 3 and info.class_names is None and info.trained_on == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["fc.bias"].add_(1e-3),
        lambda state: state.update({"fc.bias": state["fc.bias"].half()}),
        lambda state: state.update({"fc.bias": state["fc.bias"].view(1, -1)}),
        lambda state: state.update({"fc.offset": state.pop("fc.bias")}),
    ],
)
def test_the_digest_sees_value_dtype_shape_and_name(change):
    state = randomised(MODEL, 3).state_dict()
    before = weights_digest(state)
    change(state)
    assert weights_digest(state) != before


def test_a_run_folder_gives_its_best(tmp_path):
    backbone = randomised(MODEL, 3)
    save_weights(backbone, tmp_path / "best.safetensors", INFO)
    assert same(load_weights(MODEL, path=tmp_path)[0], backbone)


def test_weights_without_a_classifier(tmp_path):
    save_weights(randomised(MODEL), tmp_path / "w.safetensors", WeightsInfo(model=MODEL))
    assert load_weights(MODEL, path=tmp_path / "w.safetensors")[0].num_classes is None


# --- what is refused ------------------------------------------------------------------------------------------------


def test_nothing_found_names_the_ways(tmp_path):
    with pytest.raises(WeightsError) as caught:
        load_weights("nets:own", search=tmp_path)
    message = str(caught.value)
    for way in (
        "faster train-backbone --model nets:own",
        f"{tmp_path}/nets-own.safetensors",
        "--weights FILE",
        "--allow-random",
    ):
        assert way in message
    assert "\n" not in message


def test_several_files_are_refused(tmp_path):
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"{MODEL}{suffix}").touch()
    with pytest.raises(WeightsError, match=rf"several weights.*{MODEL}\.safetensors, .*{MODEL}\.pth"):
        load_weights(MODEL, search=tmp_path, allow_random=True)


def test_find_weights(tmp_path):
    assert find_weights("my/nets.x:own", tmp_path) is None
    assert find_weights("r2d26", tmp_path / "no-such-folder") is None
    (tmp_path / "my-nets.x-own.pt").touch()
    (tmp_path / "my-nets.x-own.json").touch()
    assert find_weights("my/nets.x:own", tmp_path) == tmp_path / "my-nets.x-own.pt"


def test_keys_and_shapes_must_fit_exactly(tmp_path):
    state = randomised(MODEL, 3).state_dict()
    for name in [name for name in state if name.startswith("res5")]:
        del state[name]
    state["extra.weight"] = torch.zeros(1)
    state["res2.0.residual.reduce.conv.weight"] = torch.zeros(1, 2)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_weights(MODEL, path=tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "24 missing (res5.0.residual.reduce.conv.weight, " in message and ", …)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 mis-shaped (res2.0.residual.reduce.conv.weight (1, 2) for (4, 4, 1, 1, 1))" in message
    with pytest.raises(WeightsError, match="does not fit r2d26-w4"):
        load_weights("r2d26-w4", path=tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"no weights" * 9])
def test_damaged_files_are_refused(tmp_path, name, damage):
    state = randomised(MODEL).state_dict()
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"cannot be read as weights: \S+"):
        load_weights(MODEL, path=path)


class _Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_pickle_never_runs(tmp_path):
    target = tmp_path / "was-executed"
    torch.save({"state_dict": _Payload(target)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_weights(MODEL, path=tmp_path / "w.pth")
    assert not target.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"fc.weight": [1.0]}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_weights(MODEL, path=tmp_path / "w.pth")


def test_class_counts_must_agree(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="3 class names for a classifier of 4 classes"):
        save_weights(randomised(MODEL, 4), path, INFO)
    safetensors.torch.save_file(randomised(MODEL, 4).state_dict(), path)
    with pytest.raises(WeightsError, match=r"4 classes by its fc\.weight, 3 classes by num_classes"):
        load_weights(MODEL, path=path, num_classes=3)
    assert load_weights(MODEL, path=path, num_classes=4)[0].num_classes == 4


def test_the_facts_must_be_of_these_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(randomised(MODEL, 3), path, INFO)
    with pytest.raises(WeightsError, match=f"holds weights of {MODEL}, not of r2d26-w4"):
        load_weights("r2d26-w4", path=path)
    safetensors.torch.save_file(randomised(MODEL, 3, seed=2).state_dict(), path)
    with pytest.raises(WeightsError, match="is about other weights"):
        load_weights(MODEL, path=path)
    facts = '{"model": "m", "digest": "d", '
    for text in ("{", "[]", "{}", facts + '"colour": 1}', facts + '"trained_on": "a.mp4"}'):
        (tmp_path / "w.safetensors.json").write_text(text)
        with pytest.raises(WeightsError, match="is not the record of weights"):
            load_weights(MODEL, path=path)


def test_paths_that_mean_nothing(tmp_path):
    (tmp_path / "w.bin").touch()
    for path, message in (
        (tmp_path, "no weights at .*best.safetensors"),
        (tmp_path / "none.pth", "no weights at"),
        (tmp_path / "w.bin", "not a weights file by its name"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_weights(MODEL, path=path, allow_random=True)
    with pytest.raises(WeightsError, match=r"saved as \.safetensors"):
        save_weights(randomised(MODEL), tmp_path / "w.pth", WeightsInfo(model=MODEL))


def test_a_save_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(StorageError):
        save_weights(randomised(MODEL), tmp_path / "w.safetensors", WeightsInfo(model=MODEL))
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


# --- random weights -------------------------------------------------------------------------------------------------


def test_random_weights_are_asked_for_always_the_same_and_without_classifier(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, info = load_weights(MODEL, search=tmp_path, allow_random=True, num_classes=3)
    assert torch.equal(
        torch.rand(3), expected
    )  # the caller's random numbers go on as if nothing had happened
    second, info_again = load_weights(MODEL, search=tmp_path, allow_random=True)
    assert same(first, second) and info == info_again and info.digest == weights_digest(first.state_dict())
    assert (info.random, info.seed, info.path) == (True, 0, None)
    assert first.num_classes is None and first.fc is None


def test_a_file_goes_before_random_weights(tmp_path):
    backbone = randomised(MODEL, 3)
    save_weights(backbone, tmp_path / f"{MODEL}.safetensors", INFO)
    loaded, info = load_weights(MODEL, search=tmp_path, allow_random=True)
    assert same(loaded, backbone) and not info.random


def test_loading_keeps_the_callers_random_numbers(tmp_path):
    torch.save(build(MODEL).state_dict(), tmp_path / "w.pth")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_weights(MODEL, path=tmp_path / "w.pth")
    assert torch.equal(torch.rand(3), expected)
