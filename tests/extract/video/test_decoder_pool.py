from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_jobs import (
    load_and_die,
    load_and_exit,
    load_and_raise,
    load_elsewhere,
    load_in_parts,
    load_pid,
    load_when_written,
)
from faster.errors import UsageError, VideoError
from faster.extract.video.decode import LoadedVideo, load_clips, load_random_video, stream_clips
from faster.extract.video.decoder_pool import DecodeJob, DecoderPool
from faster.extract.video.decoder_process import VideoFailure
from places import SHARED, SUPPORT
from processes import killed_after
from signals import interrupts
from videos import frame_number, make_video

TINY = (1, 1, 2, 2, 3)
NOWHERE = Path("nowhere.mp4")


def pid_job(key: int, value: int = 0) -> DecodeJob[int]:
    return DecodeJob(key=key, path=NOWHERE, arguments={"value": value}, load=load_pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid: int) -> None:
    """Return when a process that is not a child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([descriptor], [], [])
    os.close(descriptor)


def loaded(result: LoadedVideo | VideoFailure) -> LoadedVideo:
    assert isinstance(result, LoadedVideo), result
    return result


def reason(result: LoadedVideo | VideoFailure) -> str:
    assert isinstance(result, VideoFailure)
    assert "\n" not in result.reason
    return result.reason


def test_results_are_load_clips_in_order_of_submission(tmp_path: Path) -> None:
    lengths = [40, 7, 90, 1, 25, 60, 12]
    paths = [make_video(tmp_path / f"{n}.mp4", frames=n) for n in lengths]
    arguments = {"clips": 4, "clip_frames": 8, "size": 32}
    jobs = (DecodeJob(key=path.name, path=path, arguments=arguments) for path in paths)
    with DecoderPool(2, shape=(4, 8, 32, 32, 3), slots=3) as pool:
        keys = []
        for path, (key, result) in zip(paths, pool.run(jobs), strict=True):
            wanted = load_clips(path, **arguments)
            found = loaded(result)
            keys.append(key)
            np.testing.assert_array_equal(found.clips, wanted.clips)
            np.testing.assert_array_equal(found.starts, wanted.starts)
            np.testing.assert_array_equal(found.times_seconds, wanted.times_seconds)
            np.testing.assert_array_equal(found.padded, wanted.padded)
            assert (found.frames, found.fps) == (wanted.frames, wanted.fps)
    assert keys == [path.name for path in paths]


def test_random_training_clips_use_the_same_pool(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", numbered=False)

    def arguments(seed: int) -> dict[str, Any]:
        return {"clip_frames": 8, "size": 32, "rng": np.random.default_rng(seed)}

    jobs = [DecodeJob(key=n, path=path, arguments=arguments(n), load=load_random_video) for n in range(4)]
    with DecoderPool(1, shape=(1, 8, 32, 32, 3), slots=2) as pool:
        for seed, result in pool.run(jobs):
            np.testing.assert_array_equal(
                loaded(result).clips[0], load_random_video(path, **arguments(seed)).clips[0]
            )


def test_jobs_are_drawn_only_as_slots_become_free() -> None:
    drawn = []

    def jobs() -> Iterator[DecodeJob[int]]:
        for number in range(8):
            drawn.append(number)
            yield pid_job(number, number)

    with DecoderPool(2, shape=TINY, slots=3) as pool:
        for number, result in pool.run(jobs()):
            assert len(drawn) <= number + 3
            assert (loaded(result).clips == number).all()
    assert drawn == list(range(8))


@pytest.mark.parametrize(("workers", "slots"), [(1, 1), (1, 3), (2, 1), (2, 2), (2, 4), (3, 2)])
def test_videos_in_parts_come_whole_and_in_order_through_any_number_of_slots(
    workers: int, slots: int
) -> None:
    """With fewer slots than parts, and with workers whose parts nobody takes yet, nothing gets stuck."""
    lengths = [3, 1, 7, 2, 5, 1, 4, 6]
    failing = {2: "raises", 4: "dies"}
    jobs = [
        DecodeJob(
            key=key,
            path=NOWHERE,
            arguments={"parts": length, "value": 10 * key, "failing": failing.get(key)},
            load=load_in_parts,
        )
        for key, length in enumerate(lengths)
    ]
    seen: list[tuple[int, int | str]] = []
    with DecoderPool(workers, shape=TINY, slots=slots) as pool:
        for key, result in pool.run(jobs):
            seen.append(
                (
                    key,
                    reason(result) if isinstance(result, VideoFailure) else int(result.clips[0, 0, 0, 0, 0]),
                )
            )
            if isinstance(result, LoadedVideo):
                assert (result.clips == 10 * key + sum(k == key for k, _ in seen) - 1).all()
                assert result.more == (sum(k == key for k, _ in seen) < lengths[key])
    assert [key for key, _ in seen] == sorted(key for key, _ in seen)
    for key, length in enumerate(lengths):
        found = [value for k, value in seen if k == key]
        if key not in failing:
            assert found == [10 * key + part for part in range(length)]
        else:  # parts that nobody had taken when it failed are left out
            assert found[:-1] == [10 * key + part for part in range(len(found) - 1)]
            assert len(found) <= length
            assert found[-1] == (
                "the last part is broken" if key == 2 else "the decoder process died (signal 9, SIGKILL)"
            )


def test_a_video_that_stalls_in_a_later_part_is_stopped(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    arguments = {"parts": 2, "failing": "stalls"}
    jobs = [DecodeJob(key=0, path=fifo, arguments=arguments, load=load_in_parts), pid_job(1)]
    with DecoderPool(1, shape=TINY, slots=1, timeout_seconds=3) as pool:
        (_, first), (_, stalled), (_, after) = pool.run(jobs)
    assert loaded(first).more
    assert reason(stalled) == "decoding took longer than 3 s and was stopped"
    assert loaded(after).frames != loaded(first).frames


def test_a_long_video_comes_through_small_slots_as_load_clips_gives_it(tmp_path: Path) -> None:
    paths = [make_video(tmp_path / f"{n}.mp4", frames=n) for n in (90, 7, 40)]
    arguments = {"clips": 13, "clip_frames": 8, "size": 32}
    jobs = [DecodeJob(key=path, path=path, arguments=arguments, load=stream_clips) for path in paths]
    jobs.insert(1, DecodeJob(key=NOWHERE, path=NOWHERE, arguments=arguments, load=stream_clips))
    found: dict[Path, list[LoadedVideo]] = {path: [] for path in paths}
    with DecoderPool(2, shape=(5, 8, 32, 32, 3), slots=3) as pool:
        for path, result in pool.run(jobs):
            if path == NOWHERE:
                assert "No such file" in reason(result)
            else:
                part = loaded(result)
                found[path].append(replace(part, clips=part.clips.copy()))
    for path, parts in found.items():
        assert [len(part.clips) for part in parts] == [5, 5, 3]
        wanted = load_clips(path, **arguments)
        for name in ("clips", "starts", "times_seconds", "padded"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(part, name) for part in parts]), getattr(wanted, name)
            )


def test_a_slow_video_holds_back_the_order_but_not_the_others(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    written = []

    def jobs() -> Iterator[DecodeJob[int]]:
        yield DecodeJob(key=0, path=fifo, arguments={"value": 7}, load=load_when_written)
        for number in (1, 2, 3):
            yield pid_job(number, number)
        # Drawn only when a slot is free beside the slow video's: the others have gone on.
        written.append(fifo.write_bytes(b"go"))

    with DecoderPool(2, shape=TINY, slots=5) as pool:
        results = [(key, int(loaded(result).clips.max())) for key, result in pool.run(jobs())]
    assert written == [2]
    assert results == [(0, 7), (1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_fails_exactly_its_video(workers: int) -> None:
    jobs = [pid_job(0), pid_job(1), pid_job(2), pid_job(3), pid_job(4), pid_job(5)]
    jobs[1] = DecodeJob(key=1, path=NOWHERE, arguments={}, load=load_and_die)
    jobs[2] = DecodeJob(key=2, path=NOWHERE, arguments={"signal_number": signal.SIGSEGV}, load=load_and_die)
    jobs[4] = DecodeJob(key=4, path=NOWHERE, arguments={"code": 3}, load=load_and_exit)
    with DecoderPool(workers, shape=TINY, slots=2) as pool:
        results = dict(pool.run(jobs))
    assert list(results) == list(range(6))
    assert reason(results[1]) == "the decoder process died (signal 9, SIGKILL)"
    assert reason(results[2]) == "the decoder process died (signal 11, SIGSEGV)"
    assert reason(results[4]) == "the decoder process died (exit code 3)"
    assert all(isinstance(results[key], LoadedVideo) for key in (0, 3, 5))


def test_a_process_killed_between_two_videos_costs_none() -> None:
    with DecoderPool(1, shape=TINY, slots=1) as pool:
        ((_, first),) = pool.run([pid_job(0)])
        os.kill(loaded(first).frames, signal.SIGKILL)
        ((_, second),) = pool.run([pid_job(1)])
        assert loaded(second).frames != loaded(first).frames


def test_a_decode_that_stalls_is_stopped(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    jobs = [pid_job(0), DecodeJob(key=1, path=fifo, arguments={}, load=load_when_written), pid_job(2)]
    with DecoderPool(1, shape=TINY, slots=2, timeout_seconds=3) as pool:
        before, stalled, after = (result for _, result in pool.run(jobs))
    assert reason(stalled) == "decoding took longer than 3 s and was stopped"
    assert loaded(before).frames != loaded(after).frames
    assert not is_alive(loaded(before).frames)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (VideoError("v.mp4: decoder gave 120 of 300 frames"), "v.mp4: decoder gave 120 of 300 frames"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (MemoryError(), "MemoryError:"),
        (SystemExit(4), "SystemExit: 4"),
        (KeyboardInterrupt(), "KeyboardInterrupt:"),
    ],
)
def test_whatever_is_raised_becomes_a_reason_in_one_line(error: BaseException, wanted: str) -> None:
    jobs = [DecodeJob(key=0, path=NOWHERE, arguments={"error": error}, load=load_and_raise), pid_job(1)]
    with DecoderPool(1, shape=TINY, slots=1) as pool:
        failure, after = (result for _, result in pool.run(jobs))
    assert reason(failure).strip() == wanted
    loaded(after)


def test_bad_files_end_with_their_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    good = make_video(tmp_path / "good.mp4")
    arguments = {"clips": 1, "clip_frames": 8, "size": 32}
    paths = [tmp_path / "text.mp4", tmp_path / "missing.mp4", good]
    jobs = [DecodeJob(key=path.name, path=path, arguments=arguments) for path in paths]
    with DecoderPool(1, shape=(1, 8, 32, 32, 3), slots=1) as pool:
        results = dict(pool.run(jobs))
    assert "no video container" in reason(results["text.mp4"])
    assert "No such file" in reason(results["missing.mp4"])
    assert [frame_number(picture) for picture in loaded(results["good.mp4"]).clips[0]] == list(range(8))


def test_clips_that_do_not_lie_in_the_slot_are_a_failure() -> None:
    job = DecodeJob(key=0, path=NOWHERE, arguments={}, load=load_elsewhere)
    with DecoderPool(1, shape=TINY, slots=1) as pool:
        ((_, result),) = pool.run([job])
    assert "did not load into its slot" in reason(result)


def test_leaving_early_abandons_what_was_drawn_and_the_pool_goes_on(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    stuck = DecodeJob(key=9, path=fifo, arguments={}, load=load_when_written)
    with DecoderPool(2, shape=TINY, slots=2) as pool:
        for key, _ in pool.run([pid_job(0), stuck, pid_job(1)]):
            assert key == 0
            break
        assert [key for key, _ in pool.run([pid_job(2), pid_job(3)])] == [2, 3]


def test_an_error_among_the_jobs_or_in_the_loop_leaves_no_process(tmp_path: Path) -> None:
    def jobs() -> Iterator[DecodeJob[int]]:
        yield pid_job(0)
        raise LookupError("the list is broken")

    with DecoderPool(1, shape=TINY, slots=1) as pool:
        pids = []
        with pytest.raises(LookupError):
            for _, result in pool.run(jobs()):
                pids.append(loaded(result).frames)
        with pytest.raises(TypeError, match="pickle"):
            list(pool.run([DecodeJob(key=0, path=NOWHERE, arguments={"x": threading.Lock()}, load=load_pid)]))
    with pytest.raises(RuntimeError, match="consumer"), DecoderPool(1, shape=TINY, slots=1) as pool:
        for _, result in pool.run([pid_job(0), pid_job(1)]):
            pids.append(loaded(result).frames)
            raise RuntimeError("consumer")
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


def test_closing_leaves_neither_processes_nor_descriptors_and_keeps_clips_readable() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with DecoderPool(1, shape=TINY, slots=1) as pool:  # the first start leaves multiprocessing's own helper
        list(pool.run([pid_job(0)]))
    before = descriptors()
    with DecoderPool(3, shape=TINY, slots=3) as pool:
        results = [loaded(result) for _, result in pool.run([pid_job(n, n) for n in range(3)])]
    assert not any(is_alive(result.frames) for result in results)
    assert results[2].clips.max() == 2
    del results
    assert descriptors() == before


def test_a_pool_that_is_running_or_closed_refuses() -> None:
    with DecoderPool(1, shape=TINY, slots=1) as pool:
        running = pool.run([pid_job(0), pid_job(1)])
        next(running)
        with pytest.raises(UsageError, match="running already"):
            next(pool.run([pid_job(2)]))
    with pytest.raises(UsageError, match="closed"):
        next(running)
    with pytest.raises(UsageError, match="closed"):
        next(pool.run([pid_job(0)]))


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"slots": 0}, {"timeout_seconds": 0}, {"shape": (1, 2, 3)}]
)
def test_impossible_pools_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        DecoderPool(**({"workers": 1, "shape": TINY, "slots": 1} | wrong))


SCRIPT = """
import sys
from pathlib import Path
from decoder_jobs import load_pid, load_when_written
from faster.extract.video.decoder_pool import DecodeJob, DecoderPool

def main():
    fifo = Path(sys.argv[1])
    jobs = [DecodeJob(key=n, path=fifo, arguments={}, load=load_pid) for n in range(2)]
    jobs += [DecodeJob(key=n, path=fifo, arguments={}, load=load_when_written) for n in (2, 3)]
    with DecoderPool(2, shape=(1, 1, 2, 2, 3), slots=4) as pool:
        for key, video in pool.run(jobs):
            print(video.frames, flush=True)

GUARD
main()
"""


def start_script(tmp_path: Path, guard: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("GUARD\nmain()", guard))
    os.mkfifo(tmp_path / "fifo")
    support = SUPPORT
    with interrupts():
        return subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "fifo")],
            env={**os.environ, "PYTHONPATH": str(support)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_parent_that_is_interrupted_or_killed_leaves_no_process(
    tmp_path: Path, how: signal.Signals
) -> None:
    with killed_after(start_script(tmp_path, 'if __name__ == "__main__":\n    main()')) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        pids = {int(parent.stdout.readline()) for _ in range(2)}
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)  # as Ctrl-C does: to the whole group
        else:
            parent.send_signal(how)
        parent.wait()
        for pid in pids:
            wait_for_end(pid)
        errors = parent.stderr.read()
    assert errors.count("Traceback") == (1 if how == signal.SIGINT else 0), errors
    assert "leaked" not in errors


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    with killed_after(start_script(tmp_path, "main()")) as parent:
        _, errors = parent.communicate()
    assert parent.returncode == 1
    assert "decoder processes end at their start (exit code 1)" in errors.splitlines()[-1]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the repository")
def test_every_real_file_ends_through_the_pool(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(
        path for folder in ("edge", "clips") for path in (SHARED / folder).rglob("*") if path.is_file()
    )
    arguments = {"clips": 4, "clip_frames": 8, "size": 32}
    jobs = (DecodeJob(key=path, path=path, arguments=arguments) for path in files)
    with DecoderPool(2, shape=(4, 8, 32, 32, 3), slots=4) as pool:
        results = [(key, isinstance(result, LoadedVideo) or reason(result)) for key, result in pool.run(jobs)]
    assert [key for key, _ in results] == files
    ok = sum(result is True for _, result in results)
    with capsys.disabled():
        print(f" {len(files)} real files: {ok} loaded, {len(files) - ok} failed with a reason", end=" ")
    assert ok >= 70
    # No crash, no time-out, no exception of another kind: each reason is a VideoError's, which names its file.
    assert all(result is True or result.startswith(f"{key.name}: ") for key, result in results)
