"""How ranks that greet each other over MPI are started: on the host, or in the container of a topology."""

from __future__ import annotations

import sys
from pathlib import Path

from trtdist.cli.doctor_sent import after_setup, begin, sent
from trtdist.containers import Mount, runtime
from trtdist.containers.image_open import FIND_PYTHON, REFUSALS
from trtdist.rendering.containers import enter_options, step_mounts, step_options
from trtdist.slurm import argv, runner
from trtdist.topology.model import Topology

__all__ = ["hello_command", "hello_options"]

# Ranks without Python say so themselves; an exit code would be lost beside that of others, which then are killed.
# Python imports from the working folder first; it must not find anything else there.
_SENT = ("trtdist.containers.image_probe", "trtdist.containers.mpi_hello")
_TELL = f"""\
cd /
(
{FIND_PYTHON})
code=$?
case $code in
    {"|".join(map(str, REFUSALS))}) printf '{{"node": "%s", "refusal": %d}}\\n' "$SLURMD_NODENAME" $code ;;
    *) exit $code ;;
esac
"""
# What enters a container needs a folder for each task. One on the node would stay when the task is killed.
_WITH_FOLDER = f"""\
{begin("entering its container")}\
export TRTDIST_LOCAL_DIR=$1/hello.$SLURM_PROCID
mkdir -m 700 -- "$TRTDIST_LOCAL_DIR" || exit
cd -- "$TRTDIST_LOCAL_DIR" || exit
shift
exec "$@"
"""


def hello_command(topology: Topology, folder: Path) -> list[str]:
    """What each rank runs; `folder` is seen by all nodes."""
    program = sent(_SENT, {})
    section = topology.container
    if section.runtime == "none":
        return [*after_setup(topology.slurm.setup, 'cd / && exec "$@"'), sys.executable, *program]
    inside = ["sh", "-c", _TELL, "sh", *program]
    if not runtime(section.runtime).program:
        return inside
    enter = [sys.executable, "-m", "trtdist.supervisor.enter", *enter_options(topology), "--", *inside]
    return [*after_setup(topology.slurm.setup, _WITH_FOLDER), str(folder), *enter]


def hello_options(topology: Topology, folder: Path) -> list[str]:
    """Further options of srun: those of the topology, and those of a runtime that srun starts, which mounts the folder
    as it would that of a run."""
    options = step_options(topology)
    known = runner.run(argv.srun_help()) if options else ""
    mounts = step_mounts(topology, Mount(str(folder), str(folder)))
    return [
        *topology.slurm.extra_srun,
        *([f"--container-mounts={mounts}"] if mounts else []),
        *(option.text for option in options if option.since in known),
    ]
