"""The nodes of a job of Slurm, each looked at before anything starts. Standard library, Python 3.9."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from trtdist.errors import InputError, TrtdistError
from trtdist.rundir import RunDir
from trtdist.slurm import mpi, parse, runner
from trtdist.slurm.argv import scontrol_hostnames, srun_mpi_list
from trtdist.slurm.hostlist import fold
from trtdist.supervisor import nodeprobe
from trtdist.supervisor.facts import Node
from trtdist.supervisor.greeter import Greeter
from trtdist.supervisor.ports import candidates, range_of

__all__ = ["clock_ahead", "job_nodes", "look_again", "look_at_nodes", "mpi_type", "problems_of", "told"]

# A controller that is restarted is awaited.
_PATIENCE_S = 30.0
# What has not answered by then is told within a minute, with what it takes to end the step.
_PROBE_S, _END_S = 45.0, 5.0
# A spare that does not answer soon is none: servers wait for it.
_AGAIN_S = 20.0
# What time servers leave between clocks, and what looking at them from afar adds, is no difference.
_SAME_TIME_S = 0.2
# TERM aborts the step, and whatever becomes of it, what was printed is wanted.
_WITHIN = 'timeout --kill-after=5 "$0" "$@" 2>&1 || { [[ $? == 124 ]] && echo "not within $0 s"; }; exit 0'
_OLDEST_PYTHON = (3, 9)
# Without that Python on a node there is nobody to write the report.
_WRAPPER = """\
if [ -x "$1" ]; then exec "$@"; fi
printf '{"node": "%s", "problems": ["has no Python where this run has it"]}\\n' "$SLURMD_NODENAME"
"""


def job_nodes(environ: Mapping[str, str], wanted: int) -> list[str]:
    """The names of the `wanted` first nodes of the job, in Slurm's order, the head node first.

    InputError when the job has fewer, or this is another node than its first.
    """
    text = environ.get("TRTDIST_JOB_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    if not text:
        raise InputError("this is no job of Slurm: start it with sbatch, or inside salloc as scripts/README.txt says")
    nodes = runner.run(scontrol_hostnames(text), _PATIENCE_S).split()
    if len(nodes) < wanted:
        raise InputError(f"job {environ.get('SLURM_JOB_ID')} has {_count(len(nodes))} and the plan needs {wanted}")
    here = environ.get("SLURMD_NODENAME", "")
    if here != nodes[0]:
        raise InputError(
            f"this is {here or socket.gethostname()} and not {nodes[0]}, the first node of the job: "
            "bash scripts/head.srun.sh resolve.sh runs it there"
        )
    return nodes[:wanted]


def _count(nodes: int) -> str:
    return f"{nodes} node" + ("" if nodes == 1 else "s")


def mpi_type() -> str:
    """The MPI type of steps with ranks; MissingError when Slurm has none that Open MPI can use."""
    return mpi.choose(parse.mpi_types(runner.run(srun_mpi_list(), _PATIENCE_S)))


def look_at_nodes(
    run: RunDir,
    nodes: Sequence[str],
    given: Mapping[str, str],
    local: Path,
    listener: socket.socket | None,
    ports: Sequence[int] = (),
    placed: int | None = None,
) -> list[Node]:
    """What was found of each node, in order; the node-local folder is made on each of the first `placed`, None for all.

    `given` may have TRTDIST_INTERFACE, TRTDIST_SUBNET or TRTDIST_PORT_RANGE, and TRTDIST_SRUN_IMAGE and
    TRTDIST_SRUN_MOUNTS, which containers that srun starts need on the node. `listener` is where the nodes must reach
    the head node, None when it has no address. `ports` are how many free ones each node is asked for. TrtdistError
    tells each thing that is wrong once, with the nodes where it is.
    """
    asked = _asked(run, nodes, given, local)
    asked["wanted"] = dict(zip(nodes, ports))
    asked["spares"] = nodes[placed:] if placed is not None else []
    with ExitStack() as stack:
        if listener is not None:
            greeter = stack.enter_context(Greeter(listener))
            asked.update(head=listener.getsockname()[:2], nonce=greeter.nonce)
        printed, said = _output(*_step(run, nodes, asked))
    reports = _reports(printed)
    problems = told({node: problems_of(reports.get(node), said) for node in nodes})
    if problems:
        raise TrtdistError("; ".join(problems))
    found = [_node(node, reports[node]) for node in nodes]
    for node in found:
        if node.ahead:
            way = "ahead of" if node.ahead > 0 else "behind"
            skew = f"the clock of node {node.name} is {abs(node.ahead):.1f} s {way} that of the head node"
            print(f"trtdist: {skew}, whose time this run tells", file=sys.stderr, flush=True)
    return found


async def look_again(run: RunDir, nodes: Sequence[str], given: Mapping[str, str], local: Path) -> dict[str, list[str]]:
    """What is wrong with each of the nodes, spares so far, now that something is to start there; the node-local folder
    is made on each."""
    command, environ = _step(run, nodes, _asked(run, nodes, given, local))
    try:
        printed = await runner.ask(["bash", "-c", _WITHIN, f"{_AGAIN_S:g}", *command], _AGAIN_S + 2 * _END_S, environ)
    except TrtdistError as error:
        printed = str(error)
    reports = _reports(printed)
    said = " ".join(" ".join(line for line in printed.splitlines() if not line.startswith("{")).split())
    return {node: problems_of(reports.get(node), said) for node in nodes}


def _asked(run: RunDir, nodes: Sequence[str], given: Mapping[str, str], local: Path) -> dict[str, Any]:
    """What each node is asked, as `nodeprobe.look` takes it."""
    return {
        "interface": given.get("TRTDIST_INTERFACE", ""),
        "subnet": given.get("TRTDIST_SUBNET", ""),
        "peers": [nodes[0], *nodes[1:2]],
        "local": str(local),
        "run": str(run.path),
        "image": given.get("TRTDIST_SRUN_IMAGE", ""),
        "mount": list(filter(None, given.get("TRTDIST_SRUN_MOUNTS", "").split(":"))),
        "range": _ends(range_of(given) or candidates()),
    }


def _node(name: str, report: Mapping[str, Any]) -> Node:
    return Node(name, str(report["address"]), clock_ahead(report), tuple(report["ports"]))


def _ends(ports: Sequence[int]) -> tuple[int, int]:
    return ports[0], ports[-1]


def _step(run: RunDir, nodes: Sequence[str], asked: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The launch line that looks at nodes, and its environment."""
    program = [sys.executable, "-I", "-S", "-c", Path(nodeprobe.__file__).read_text(), json.dumps(asked)]
    command = ["bash", str(run.scripts / "each-node.srun.sh"), "bash", "-c", _WRAPPER, "bash", *program]
    return command, {**os.environ, "TRTDIST_JOB_NODELIST": fold(nodes)}


def _reports(printed: str) -> dict[str, dict[str, Any]]:
    """What each node found, by its name."""
    found = {}
    for line in printed.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            report = json.loads(line)
            found[report["node"]] = report
    return found


def _output(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, str]:
    """What a step printed, as far as it came in time, and what it said of itself."""
    late = ""
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=printed, stderr=said)
        try:
            process.wait(_PROBE_S)
        except subprocess.TimeoutExpired:
            late = f"not within {_PROBE_S:g} s"
        finally:
            _stop(process)
        printed.seek(0)
        said.seek(0)
        words = " ".join(said.read().split())
        why = ": ".join(filter(None, (late, words)))
        return printed.read(), why or f"srun ended with {process.returncode}"


def _stop(srun: subprocess.Popen[bytes]) -> None:
    """TERM aborts its step; after KILL it would go on until the job ends."""
    if srun.poll() is not None:
        return
    srun.terminate()
    try:
        srun.wait(_END_S)
    except subprocess.TimeoutExpired:
        srun.kill()
        srun.wait()


def problems_of(report: Mapping[str, Any] | None, said: str) -> list[str]:
    """What is wrong with a node, by its report (None without one) and by what srun `said`: ends of a sentence that
    begins with the node."""
    if report is None:
        return [f"gave no answer ({said})"]
    if "at" in report:
        return [f"did not end {report['at']} ({said}): see there why, or leave the node out with slurm.exclude"]
    found = list(map(str, report["problems"]))
    if tuple(report.get("python", _OLDEST_PYTHON)) < _OLDEST_PYTHON:
        found.append(f"has a Python older than 3.9 as {sys.executable}: start the run with a newer one")
    return found


def told(problems: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each thing that is wrong, with all nodes where it is; `problems` are those of each node."""
    having: dict[str, list[str]] = {}
    for node, found in problems.items():
        for problem in found:
            having.setdefault(problem, []).append(node)
    return [f"{'node' if len(nodes) == 1 else 'each of'} {fold(nodes)} {problem}" for problem, nodes in having.items()]


def clock_ahead(report: Mapping[str, Any]) -> float:
    """The seconds that the clock of a node is ahead of the head node's, by its report; 0 for what may be none."""
    ahead = float(report["skew"])
    return ahead if abs(ahead) > max(report["round_trip"], _SAME_TIME_S) else 0.0
