"""Slurm itself on this machine: munged, slurmctld and slurmd in the foreground, everything that they write in one folder.

One node of two cores; partition `low` is preempted, by requeueing, by partition `high`. For root only, as slurmd is.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for as long as its credential could live: two minutes otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def lacks() -> str:
    """Why Slurm cannot be started here; "" where it can."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        return f"no {missing[0]} on this machine (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd has to be started by root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A running cluster, and the environment in which Slurm's commands find it; ended with all its jobs."""
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    control_port, node_port = _free_ports(2)
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, folder=folder, control_port=control_port, node_port=node_port).lstrip()
    )
    environment = {**os.environ, "SLURM_CONF": str(config)}
    munge_files = [
        f"--{name}={folder}/munge.{name.partition('-')[0]}"
        for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")
    ]
    commands = [
        ["munged", "--foreground", "--force", *munge_files],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", host],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                wait_for((folder / "munge.socket").exists, "munged's socket")
        wait_for(lambda: "idle" in ask(environment, "sinfo", "-h", "-o", "%t"), "an idle node")
        yield environment
    finally:
        if len(daemons) == len(commands):
            subprocess.run(["scancel", "--full", "--user=root"], env=environment, check=False)
            wait_for(lambda: not ask(environment, "squeue", "-h"), "the jobs' end")
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=60)


def ask(environment: dict[str, str], *command: str) -> str:
    """What one of Slurm's commands answers; "" where it cannot yet."""
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout


def wait_for(there: Callable[[], object], what: str, *, seconds: float = 120.0) -> None:
    """Look until it is there.

    Raises:
        TimeoutError: it does not come.
    """
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            raise TimeoutError(f"no sign of {what} in {seconds:.0f} s")
        time.sleep(0.05)  # between two looks


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
