"""Stand-ins for Slurm's commands that run the real job script on this machine, task by task.

`srun` runs its command and passes signals on as Slurm does. `sbatch` runs each index of the array to its end, with the
variables that Slurm sets, and again where the task asked for it by `scontrol requeue`. What was called is noted.
"""

from __future__ import annotations

import os
from pathlib import Path

SBATCH = """#!/bin/bash
echo "sbatch $*" >> "$FAKE_SLURM/calls"
script="${!#}"
array=$(sed -n 's/^#SBATCH --array=\\([^%]*\\).*/\\1/p' "$script")
for argument in "$@"; do case $argument in --array=*) array=${argument#--array=};; esac; done
logs=$(sed -n 's/^#SBATCH --output=//p' "$script")
indices=()
IFS=, read -ra parts <<< "$array"
for part in "${parts[@]}"; do
    indices+=($(seq "${part%-*}" "${part#*-}"))
done
export SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_COUNT=${#indices[@]} SLURM_ARRAY_TASK_MIN=${indices[0]}
for index in "${indices[@]}"; do
    log=${logs//%A/7}; log=${log//%a/$index}
    while :; do
        rm -f "$FAKE_SLURM/requeue_$index"
        SLURM_ARRAY_TASK_ID=$index bash "$script" >> "$log" 2>&1 &
        job=$!
        if [ -e "$FAKE_SLURM/warn_$index" ]; then
            until grep -q "$(cat "$FAKE_SLURM/warn_$index")" "$log"; do :; done
            rm "$FAKE_SLURM/warn_$index"
            kill -USR1 $job
        fi
        wait $job
        echo "task $index ended $?" >> "$FAKE_SLURM/calls"
        [ -e "$FAKE_SLURM/requeue_$index" ] || break
    done
done
echo "Submitted batch job 7"
"""

SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$FAKE_SLURM/calls"
case $1 in
    show) echo "MaxArraySize            = 1001";;
    requeue) touch "$FAKE_SLURM/requeue_${2##*_}";;
esac
"""

SRUN = """#!/bin/bash
exec "$@"
"""


def install(folder: Path) -> dict[str, str]:
    """Write the commands into `folder`; the environment in which they are found."""
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("srun", SRUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "FAKE_SLURM": str(folder)}
