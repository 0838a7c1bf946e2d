"""How long a deployment takes from the grant of its allocation to READY through Slurm, and how long to go when a rank
is killed.

    python benchmarks/slurm_ready.py RUNS_FOLDER [--file FILE] [--set A.B=C] [--rounds N] [--json]

Runs where sbatch does; RUNS_FOLDER is seen by all nodes. FILE (default: examples/slurm/disagg-2nodes.yaml) has the
reference engine and is one MPI world. The peer takes turns with it: a bare script in a job of the same size that starts
the same programs with srun, all at once but for those that need NATS, with ports that are given to it, and without TLS,
shims, a supervisor or any check. Its end is the first chunk of an answer that curl, which asks every 0.1 s, gets
from the front end; ours is READY, when pinned prompts have crossed every server and one the front end. Both count from
the first line of the batch script.

Then the last rank, on the last node, is killed with KILL; its end is when Slurm has given back all nodes of the job.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trtdist.events import EventReader, RunState, TaskStarted
from trtdist.plan import Plan, from_json
from trtdist.rundir import RunDir
from trtdist.services.binaries import find_binary
from trtdist.slurm import argv, parse, states

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "job.sbatch"
POLL_S = 0.02
PATIENCE_S = 180.0

BARE = """\
cd {run}/site
read -r -a nodes <<<"$(scontrol show hostnames | xargs)"
address=$(getent ahostsv4 "${{nodes[0]}}" | awk 'NR == 1 {{print $1}}')
local=/tmp/bare-$SLURM_JOB_ID
cat >{run}/resolved.env <<EOF
TRTDIST_RUN_ID={run_id}
TRTDIST_RUN_DIR={run}
TRTDIST_PYTHON={python}
TRTDIST_NODES='${{nodes[*]}}'
TRTDIST_HEAD_ADDRESS=$address
NATS_SERVER=nats://$address:{nats_port}
ETCD_ENDPOINTS=http://$address:{etcd_port}
TRTDIST_HTTP_HOST=127.0.0.1
TRTDIST_HTTP_PORT={http_port}
EOF
set -a
. {run}/resolved.env
PYTHONPATH={run}/site PYTHONUNBUFFERED=1
OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm,tcp
set +a
one() {{ srun --nodes=1 --ntasks=1 --nodelist="${{nodes[0]}}" --overlap --mem=0 --mpi=none "$@"; }}
one {nats} --addr "$address" --port {nats_port} --user "$(<{run}/secrets/nats.user)" \\
    --pass "$(<{run}/secrets/nats.password)" &
one {etcd} --data-dir "$local/etcd" --listen-client-urls "$ETCD_ENDPOINTS" --advertise-client-urls "$ETCD_ENDPOINTS" \\
    --listen-peer-urls "http://$address:{peer_port}" --unsafe-no-fsync --heartbeat-interval 50 --election-timeout 250 &
for port in {nats_port} {etcd_port}; do until : 2>/dev/null >"/dev/tcp/$address/$port"; do sleep 0.05; done; done
srun --nodes={nodes} --ntasks={ranks} --ntasks-per-node={most} --distribution=block --overlap --mem=0 --mpi=pmix \\
    bash {run}/worker.sh &
one {python} -m trtdist.serving.router {run} &
one {python} -m trtdist.serving.front {run} &
until curl --silent --fail --no-buffer --header "Authorization: Bearer $(<{run}/secrets/http.keys)" \\
    --header "Content-Type: application/json" --data @{run}/prompt.json \\
    "http://127.0.0.1:{http_port}/v1/completions" | grep -q '^data: '; do sleep 0.1; done
date +%s.%N >{run}/answered.part
mv {run}/answered.part {run}/answered
wait
"""


class Job:
    """A job that was submitted with the directives of a rendered one; cancelled at the end of `with`."""

    def __init__(self, run: RunDir, lines: list[str]) -> None:
        self.run = run
        directives = [line for line in (run.path / SCRIPT).read_text().splitlines() if line.startswith("#SBATCH")]
        output = f"#SBATCH --output={run.path}/job.out"
        stamp = f"date +%s.%N >{run.path}/began"
        script = run.path / "timed.sbatch"
        script.write_text("\n".join(["#!/bin/bash", *directives, output, stamp, *lines, ""]))
        self.id = parse.job_id(said("sbatch", "--parsable", str(script)))

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        said(*argv.scancel(self.id))
        until(self.gone, "the end of the job")

    def gone(self) -> bool:
        """Whether Slurm has all nodes of the job back."""
        return states.phase(self.state()) == states.ENDED and self.state() != "COMPLETING"

    def state(self) -> str:
        """What Slurm calls the state of the job."""
        return parse.jobs(said(*argv.squeue_jobs((self.id,))))[0].state

    def took(self, end: Callable[[], float | None]) -> float:
        """The seconds from the first line of the script until `end`, which is None as long as it has not come."""
        until(lambda: end() is not None, f"the end of the start in {self.run.path}", self.gone)
        return (end() or 0.0) - float((self.run.path / "began").read_text())


def said(*words: str) -> str:
    """What a command prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def until(holds: Callable[[], bool], what: str, over: Callable[[], bool] = lambda: False) -> None:
    """Wait for a condition; ends the program when it does not come to hold."""
    end, look = time.monotonic() + PATIENCE_S, time.monotonic() + 1.0
    while not holds():
        if time.monotonic() > look:
            look += 1.0
            if time.monotonic() > end or (over() and not holds()):
                sys.exit(f"slurm_ready: there never came {what}")
        time.sleep(POLL_S)


def prepared(topology: list[str], folder: Path) -> tuple[RunDir, Plan]:
    """A run directory that nothing was started from; `topology` is a file and overrides."""
    said(sys.executable, "-m", "trtdist.cli", "render", topology[0], str(folder), *topology[1:])
    run = RunDir(folder)
    return run, from_json(run.plan.read_text())


def ready(run: RunDir) -> float | None:
    """When a run was READY."""
    records = EventReader(run.events).poll()
    times = [each.time for each in records if isinstance(each.event, RunState) and each.event.state == "READY"]
    return times[0] if times else None


def answered(run: RunDir) -> float | None:
    """When the bare script got its answer."""
    path = run.path / "answered"
    return float(path.read_text()) if path.exists() else None


@contextlib.contextmanager
def ours(topology: list[str], folder: Path) -> Iterator[tuple[Job, Plan, float]]:
    """Our deployment, when it is READY, and how long that took."""
    run, plan = prepared(topology, folder)
    with Job(run, [f"exec bash {shlex.quote(str(run.path / SCRIPT))} {shlex.quote(str(run.path))}"]) as job:
        yield job, plan, job.took(lambda: ready(run))


def bare(topology: list[str], folder: Path) -> float:
    """How long the bare script takes."""
    run, plan = prepared(topology, folder)
    ports = random.sample(range(20000, 32000), 4)
    values = dict(zip(("nats_port", "etcd_port", "peer_port", "http_port"), ports))
    (run.path / "worker.sh").write_text(worker(plan))
    asked = {"model": plan.model, "prompt": plan.canary.prompt, "max_tokens": plan.canary.max_tokens, "stream": True}
    (run.path / "prompt.json").write_text(json.dumps(asked))
    ranks = [rank for server in plan.servers for rank in server.ranks]
    counts = [sum(rank.node == node for rank in ranks) for node in range(plan.allocation.nodes)]
    script = BARE.format(
        run=run.path,
        run_id=run.run_id,
        python=sys.executable,
        nats=find_binary("nats", os.environ),
        etcd=find_binary("etcd", os.environ),
        nodes=plan.allocation.nodes,
        ranks=len(ranks),
        most=max(counts),
        **values,
    )
    with Job(run, [script]) as job:
        return job.took(lambda: answered(run))


def worker(plan: Plan) -> str:
    """What each rank of the bare script runs."""
    lines = ["case $SLURM_PROCID in"]
    for server in plan.servers:
        for rank in server.ranks:
            names = f"TRTDIST_SERVER={server.name} TRTDIST_RANK={rank.rank} TRTDIST_SERVER_SIZE={server.size}"
            number = rank.world_rank
            lines.append(f"{number}) export {names} TRTDIST_WORLD_RANK={number} TRTDIST_GPU={rank.gpu} ;;")
    step = next(step.name for step in plan.steps if step.kind == "workers")
    run = 'exec "$TRTDIST_PYTHON" -m trtdist.serving.worker "$TRTDIST_RUN_DIR"'
    return "\n".join([*lines, "esac", f"export TRTDIST_STEP={step} TRTDIST_LAUNCH={plan.launch}", run, ""])


def killed(job: Job, plan: Plan) -> float:
    """How long the job takes to be gone when its last rank is killed."""
    server = plan.servers[-1]
    name = f"{server.name}.{len(server.ranks) - 1}"
    found = [record.event for record in EventReader(job.run.events).poll() if isinstance(record.event, TaskStarted)]
    task = next(event for event in found if event.name == name)
    kill = f"date +%s.%N; kill -9 {task.pid}"
    began = float(said(*argv.srun_beside(job.id, (task.host,), ["bash", "-c", kill], name="kill")))
    until(job.gone, "the end of the job")
    return time.time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, metavar="RUNS_FOLDER")
    parser.add_argument("--file", type=Path, default=ROOT / "examples" / "slurm" / "disagg-2nodes.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key of the topology")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    topology = [str(options.file), *(word for override in options.set for word in ("--set", override))]
    found: dict[str, list[float]] = {"ready_s": [], "bare_s": [], "gone_after_kill_s": []}
    for number in range(options.rounds):
        found["bare_s"].append(bare(topology, options.runs.absolute() / f"bare-{os.getpid()}-{number}"))
        with ours(topology, options.runs.absolute() / f"ours-{os.getpid()}-{number}") as (job, plan, took):
            found["ready_s"].append(took)
            found["gone_after_kill_s"].append(killed(job, plan))
    middle = {name: statistics.median(values) for name, values in found.items()}
    middle["ratio"] = middle["ready_s"] / middle["bare_s"]
    if options.json:
        print(json.dumps({**middle, "rounds": found}, indent=1))
        return
    for name, value in middle.items():
        print(f"{name:<20}{value:>8.2f}   {' '.join(f'{each:.2f}' for each in found.get(name, []))}")


if __name__ == "__main__":
    main()
