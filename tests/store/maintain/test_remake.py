"""The commands that `verify` prints make the removed shards again, byte for byte."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from exchanges import contents, features, foreign, run_export, run_import, save
from faster.cli import group, makers
from faster.store.maintain.convert import convert
from faster.store.maintain.remake import remaking_commands
from sets import make_bright_set
from stores import make_spec, make_store, make_videos


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(group, list(arguments))
    assert result.exit_code == code, result.output
    return result


def damaged(store: Path) -> None:
    """One bit of one shard of every model."""
    for shard in sorted(store.glob("features/*/L*/maps/c/0/0/0/0/0/0/0")):
        data = bytearray(shard.read_bytes())
        data[7] ^= 1
        shard.write_bytes(data)


def remake(store: Path, **names: str) -> list[list[str]]:
    """Damage the store, repair it, run what verify then says, and return that; `names` stand for words in capitals."""
    before = contents(store)
    damaged(store)
    said = run("verify", str(store), code=65).stdout.splitlines()
    assert any(line.startswith("then, to make them again") for line in said)
    assert f"to mend exactly these: faster verify {store} --repair" in said
    said = run("verify", str(store), "--repair").stdout.splitlines()
    commands = [shlex.split(line) for line in said if line.startswith("  faster ")]
    for command in commands:
        run(*(names.get(word, word) for word in command[1:]))
    assert contents(store) == before
    return commands


def test_an_extraction_of_two_models_is_one_command(tmp_path: Path) -> None:
    root, store = tmp_path / "my videos", tmp_path / "s.zarr"
    make_bright_set(root, per_class=1, tests=1)
    options = [
        "--clip-frames",
        "16",
        "--clips",
        "2",
        "--size",
        "32",
        "--precision",
        "float32",
        "--dtype",
        "uint8",
        "--codec",
        "zstd",
    ]
    models = ["--model", "r2d14-w4", "--model", "r2plus1d14-w4"]
    run("extract", str(root), "--store", str(store), *models, "--allow-random", *options)
    (command,) = remake(store)
    assert command == [
        *("faster", "extract", str(root), "--store", str(store), *models),
        *("--allow-random", *options),
    ]


def test_imported_features_come_from_their_source_again(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"f/{'ab'[i % 2]}/{i}.npy", features(5, 8, seed=i))
    foreign(tmp_path / "f", tmp_path / "s.zarr", clips=4, codec="zstd")
    (command,) = remake(tmp_path / "s.zarr")
    assert command[:3] == ["faster", "import", str(tmp_path / "f")] and "--gflops" in command


def test_an_export_of_a_converted_store_is_imported_again(tmp_path: Path) -> None:
    original = make_store(tmp_path / "a.zarr", [make_spec(), make_spec("r3d14")], make_videos(6))
    convert(original.path, tmp_path / "b.zarr", codec="zstd", progress=False)
    run_export(tmp_path / "b.zarr", tmp_path / "x.h5")
    run_import(tmp_path / "x.h5", tmp_path / "c.zarr", "r2d26", clips=2)
    (command,) = remake(tmp_path / "c.zarr")
    assert command[1] == "import" and "--gflops" not in command
    first, second = remake(tmp_path / "b.zarr", SOURCE=str(original.path))
    assert first[1:3] == second[1:3] == ["convert", "SOURCE"]
    assert {command[command.index("--model") + 1] for command in (first, second)} == {"r2d26", "r3d14"}


@pytest.mark.parametrize(("ends", "seconds"), [([10.0, 20.0, 27.5, 8.0], "10"), ([3.5, 8.0, 2.0, 4.0], "8")])
def test_segments_tell_their_length(tmp_path: Path, ends: list[float], seconds: str) -> None:
    starts = [0.0, 10.0, 20.0, 0.0] if ends[0] == 10 else [0.0] * 4
    videos = [
        replace(video, id=f"{video.id}#t={start:g},{end:g}", start_seconds=start, end_seconds=end)
        for video, start, end in zip(make_videos(4), starts, ends, strict=True)
    ]
    store = make_store(tmp_path / "s.zarr", [make_spec()], videos)
    (command,) = remaking_commands(store, store.models, makers())
    assert command.endswith(f"--every {seconds}")


def test_what_differs_between_models_is_said_for_each(tmp_path: Path) -> None:
    specs = [make_spec(), make_spec("r3d14"), make_spec(clip_frames=16)]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(2), missing=make_videos(3)[2:])
    eight, sixteen = remaking_commands(store, store.models, makers())
    assert (
        "--model r2d26 --model r3d14 --clip-frames 8 --clips 4 --size 64 --precision float32 --allow-missing"
        in eight
    )
    assert "--model r2d26 --clip-frames 16 --clips 4 --size 64 --precision float32 --allow-missing" in sixteen
    assert remaking_commands(store, [], makers()) == ()
    viewed = make_spec(views=3, clips=32, transform={"size": 64, "view_seed": 7})
    store = make_store(tmp_path / "v.zarr", [viewed], make_videos(2))
    (command,) = remaking_commands(store, store.models, makers())
    assert command.endswith(
        "--model r2d26 --clip-frames 8 --size 64 --precision float32 --views 2 --view-seed 7"
    )
