"""Scripts in place of SLURM's commands, for one job on this machine: it starts, is signalled and requeued."""

from __future__ import annotations

from pathlib import Path

from tests.forked import free_port
from tests.recipes.test_moco_in1k_lost import SRUN

SBATCH = """#!/bin/bash
# Starts the script in the background, and again as long as it was requeued; prints the number of the job.
nodes=1
while [[ $1 == -* ]]; do
  case $1 in
    --nodes) nodes=$2; shift ;;
    --export) for part in ${2//,/ }; do [[ $part == *=* ]] && export "$part"; done; shift ;;
    --gpus-per-node | --cpus-per-task) shift ;;
    --parsable) ;;
    *) echo "sbatch: unknown option $1" >&2; exit 1 ;;
  esac
  shift
done
here=$(dirname "$0")
export SLURM_JOB_ID=%(job)s SLURM_JOB_NODELIST="node[1-$nodes]" SLURM_NNODES=$nodes
touch "$here/queued"
(
  while :; do
    bash "$@" >> "slurm-$SLURM_JOB_ID.txt" 2>&1
    [[ -e $here/requeue ]] || break
    rm "$here/requeue"
  done
  rm "$here/queued"
) > /dev/null 2>&1 &
echo "$SLURM_JOB_ID"
"""
SCONTROL = """#!/bin/bash
case $1 in
  show) echo 127.0.0.1 ;;
  requeue) touch "$(dirname "$0")/requeue" ;;
esac
"""
SQUEUE = """#!/bin/bash
here=$(dirname "$0")
[[ " $* " == *" --noheader "* ]] || echo "JOBID NAME"
[[ -e $here/queued ]] && echo "%(job)s castssl"
true
"""
SCANCEL = """#!/bin/bash
[[ $1 == --signal=USR1 && $2 == %(job)s ]] || { echo "scancel: unexpected $*" >&2; exit 1; }
kill -USR1 "$(cat "$(dirname "$0")/srun.pid")"
"""


def write_commands(folder: Path) -> None:
    """Write sbatch, srun, scontrol, squeue and scancel.

    The launch script takes its port from the number of the job: this one leads to a free port.
    """
    port = free_port()
    while not 20_000 <= port < 40_000:
        port = free_port()
    srun = SRUN.replace("#!/bin/bash\n", '#!/bin/bash\necho $$ > "$(dirname "$0")/srun.pid"\n', 1)
    scripts = {"sbatch": SBATCH, "scontrol": SCONTROL, "squeue": SQUEUE, "scancel": SCANCEL}
    filled = {name: text % {"job": port - 20_000} for name, text in scripts.items()}
    for name, text in {**filled, "srun": srun}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
