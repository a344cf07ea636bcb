"""A Slurm job script for an extraction: an array of independent tasks."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import StoreError, UsageError
from ...runtime.atomic import replace, storage_errors
from ...runtime.file_names import require_text
from ...terminal.settings import check, declare, documented, setting
from .tasks import array_indices

GRACE_SECONDS = 120  # between Slurm's warning and its SIGKILL; a task needs less than 20
_TASKS = re.compile(r"^# faster: tasks ([1-9][0-9]{0,9})$", re.MULTILINE)
_TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){0,2}")


@documented
@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """The options of `faster submit slurm`."""

    command: Sequence[str] = field(
        metadata=declare(help="The `faster extract` command, without --task.", python=True)
    )
    tasks: int = field(
        metadata=declare(
            help="Tasks of the array.", detail="A task does every `tasks`-th shard.", metavar="N", least=1
        )
    )
    at_once: int | None = setting(None, help="Tasks that may run at once.", unset="all", metavar="N", least=1)
    time: str = setting("12:00:00", help="Time limit of a task.", metavar="T")
    gpus: int = setting(1, help="For each task.", least=0)
    cpus: int = setting(4, help="For each task.", least=1)
    memory: str = setting("16G", help="For each task.", metavar="M")
    partition: str | None = setting(
        None, help="Slurm's partition.", unset="the cluster's default", metavar="P"
    )
    account: str | None = setting(None, help="Slurm's account.", unset="yours", metavar="A")
    name: str = setting("faster-extract", help="Of the job.", python=True)
    setup: Sequence[str] = setting(
        (),
        help="A shell line before the work; may be repeated.",
        detail="As `module load` or `source env/bin/activate`.",
        metavar="LINE",
    )

    def __post_init__(self) -> None:
        check(self)
        if not _TIME.fullmatch(self.time):
            raise UsageError(
                f"--time is {self.time!r}; Slurm takes minutes, hours:minutes:seconds or days-hours"
            )
        for name in ("memory", "partition", "account", "name"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[\w.,@+-]+", value):
                raise UsageError(f"--{name} is {value!r}; letters, digits and . , @ + - _ are allowed")
        for word in self.command:
            _require_one_line(word)

    def script(self, logs: Path) -> str:
        """Return the job script; each task's log is `logs`/<job>_<task>.log.

        Near its time limit a task gets SIGUSR1, drops the current shard and ends with 75. It is then put in
        the queue again, as Slurm does with preempted tasks. A task that ends otherwise or is cancelled is
        not.

        Raises:
            UsageError: the current folder or `logs` cannot be written in a job script.
        """
        for place in (Path.cwd(), logs):
            _require_one_line(place)
            if "\\" in str(place):
                raise UsageError(f"{place}: Slurm takes no folder with a backslash; choose another")
        throttle = f"%{self.at_once}" if self.at_once else ""
        options = {
            "job-name": self.name,
            "array": f"{array_indices(range(self.tasks))}{throttle}",
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
            "ntasks": "1",
            "cpus-per-task": str(self.cpus),
            "gpus-per-task": str(self.gpus) if self.gpus else None,
            "mem": self.memory,
            "requeue": "",
            "signal": f"B:USR1@{GRACE_SECONDS}",
            "open-mode": "append",
            "chdir": shlex.quote(str(Path.cwd())),
            "output": shlex.quote(f"{str(logs).replace('%', '%%')}/%A_%a.log"),  # Slurm replaces %b and so on
        }
        lines = [
            f"#SBATCH --{name}" + (f"={value}" if value else "")
            for name, value in options.items()
            if value is not None
        ]
        command = shlex.join(self.command)
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                f"# faster: tasks {self.tasks}",
                "# Written by faster submit slurm. Any task may be run again, alone or beside others: "
                "sbatch --array=3,17 FILE",
                "set -u",
                *self.setup,
                "again=",
                f'srun {command} --task "$SLURM_ARRAY_TASK_ID/{self.tasks}" &',
                "step=$!",
                "# Slurm's warning before the time limit comes to this "
                "shell, which hands it on and notes it.",
                "trap 'again=yes; kill -USR1 $step' USR1",
                "wait $step; code=$?",
                "while kill -0 $step 2>/dev/null; do wait $step; code=$?; done",
                "# 75: the shard in hand was dropped, all others are whole. "
                "Slurm itself requeues what it preempts.",
                'if [ "$again" ] && [ $code -eq 75 ]; then',
                '    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
                "fi",
                "exit $code",
                "",
            ]
        )


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """A written job script."""

    path: Path
    logs: Path
    store: Path
    tasks: int


def write_script(extract_arguments: Sequence[str], *, out: Path | None = None, **job: Any) -> JobScript:
    """Write the job script of an extraction next to its future store, and make the folder of its logs.

    Args:
        extract_arguments: of `faster extract`, without --task.
        out: the script; None is <store>.sbatch.
        job: the other attributes of `SlurmJob`.

    Raises:
        UsageError: an option of either command is wrong, or the cluster's arrays are not that large.
        StorageError: the script cannot be written.
    """
    from ..commands import extract_command

    arguments = list(extract_arguments)
    options = extract_command.make_context("extract", list(arguments)).params
    if options["task"] is not None:
        raise UsageError("leave --task out: the script gives each task its own")
    from ...store.io.s3 import require_local  # slow to import, and not needed for a command's help

    if options["store"] is None:
        raise UsageError("name the store (--store), for all tasks must write the same one")
    require_local(Path(options["store"]))
    store = Path(options["store"]).absolute()
    command = [sys.executable, "-m", "faster.cli", "extract", *arguments]
    made = SlurmJob(command=command, **job)
    largest = max_array_size()
    if largest is not None and made.tasks > largest:
        raise UsageError(
            f"--tasks {made.tasks}: this cluster's arrays have at most {largest} (MaxArraySize); a task "
            "does every N-th shard, so fewer tasks do the same work"
        )
    script = JobScript(
        path=(out or store.with_name(f"{store.name}.sbatch")).absolute(),
        logs=store.with_name(f"{store.name}.logs"),
        store=store,
        tasks=made.tasks,
    )
    require_text(script.store, "--store")
    require_text(script.path, "--out")
    with storage_errors(script.path):
        script.logs.mkdir(parents=True, exist_ok=True)
    replace(script.path, made.script(script.logs).encode())
    return script


def _require_one_line(text: object) -> None:
    """Refuse text of several lines for the script.

    The lines after the first would be executed, and later #SBATCH lines would not be read.
    """
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", str(text)):
        raise UsageError(f"{str(text)!r} has a line break or the like, which a job script cannot hold")


def max_array_size() -> int | None:
    """Return the most tasks that the cluster allows in an array; None without Slurm."""
    if shutil.which("scontrol") is None:
        return None
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)$", shown, re.MULTILINE)
    return int(match[1]) - 1 if match else None  # the highest index is one less


def submit(script: Path) -> str:
    """Give a script to sbatch and return its answer.

    Raises:
        UsageError: sbatch is not on this machine, or it refuses the script.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(f"sbatch is not on this machine; hand {script} to it where it is")
    answer = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UsageError(f"sbatch refused {script}: {' '.join(answer.stderr.split())}")
    return answer.stdout.strip()


def tasks_of_script(path: Path) -> int:
    """Return the number of tasks in the array of a script from `SlurmJob`.

    Raises:
        StoreError: it is not such a script.
    """
    with storage_errors(path):
        match = _TASKS.search(path.read_text(encoding="utf-8", errors="replace"))
    if not match:
        raise StoreError(f"{path}: no job script of faster submit slurm")
    return int(match[1])
