"""The whole path through a real Slurm, as a normal user of a submit host that has no way to the nodes but Slurm."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.cluster import PYTHON, Cluster
from tests.end_to_end.slurm_user import ALLOCATION, EXAMPLE, READY_S, SHARED, User


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


def test_submit_shows_up_serves_and_goes(user: User) -> None:
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", "--json")
    assert done.returncode == 0, done.stderr + user.crashes()
    told = json.loads(done.stdout)
    run, job = Path(told["run_dir"]), told["job_id"]
    assert (run.name, run.parent) == (told["run_id"], user.runs)

    # What is rendered, what --dry-run prints, what was submitted and what runs are the same.
    script = (run / "job.sbatch").read_bytes()
    assert user.trtdist("submit", EXAMPLE, *SHARED, "--dry-run").stdout.encode() == script
    user.cluster.output(*shlex.split(f"scontrol write batch_script {job} submitted"))
    assert (user.cluster.folder / "submitted").read_bytes() == script
    user.trtdist("render", EXAMPLE, "out", *SHARED)
    out = user.cluster.folder / "out"
    assert (out / "job.sbatch").read_bytes() == script
    names = {path.name for path in (run / "scripts").iterdir()}
    assert {path.name: path.read_bytes() for path in (out / "scripts").iterdir()} == {
        name: (run / "scripts" / name).read_bytes() for name in names
    }

    state = user.state(job)
    assert (state["state"], state["slurm_job_id"], state["run_id"]) == ("READY", job, run.name)
    ranks = {rank["name"]: rank for rank in state["ranks"]}  # type: ignore[attr-defined]
    assert len(ranks) == 8
    assert len({rank["node"] for rank in ranks.values()}) == 2
    assert ranks["ctx.0.0"]["node"] == ranks["ctx.1.1"]["node"] != ranks["gen.0.0"]["node"]

    asked = user.trtdist("client", "--prompt", "The capital of France is", host=str(ranks["gen.0.0"]["node"]))
    assert (asked.returncode, asked.stdout.strip() != "") == (0, True), asked.stderr

    down = user.trtdist("down", job)
    assert down.returncode == 0, down.stderr
    assert user.job_state(job) in ("COMPLETED", "gone", "FAILED")
    assert json.loads((run / "verdict.json").read_text())["state"] == "STOPPED"
    assert user.left() == []


def test_up_inside_an_allocation_uses_it(user: User) -> None:
    interrupted = (
        f"{shlex.join(user.words('up', EXAMPLE, *SHARED))} >up.out 2>&1 & up=$!\n"
        "until grep -q 'is READY' up.out || ! kill -0 $up; do sleep 0.2; done\n"
        "kill -TERM $up; wait $up; echo code $?; squeue --noheader --jobs=$SLURM_JOB_ID"
    )
    (user.cluster.folder / "inside.sh").write_text(interrupted)
    done = user.cluster.run(*ALLOCATION, "bash", "inside.sh", timeout=READY_S)
    said = (user.cluster.folder / "up.out").read_text()
    assert "is READY after" in said
    assert "code 130" in done.stdout, said
    # It is not ours to end.
    assert " R " in done.stdout
    assert user.left() == []


def test_an_allocation_that_is_too_small_is_named(user: User) -> None:
    small = ["salloc", "-N1", "--ntasks-per-node=2", "--mem=100"]
    done = user.cluster.run(*small, *user.words("up", EXAMPLE, *SHARED))
    assert done.returncode == 2
    line = next(line for line in done.stderr.splitlines() if line.startswith("trtdist: "))
    assert "1 node and 2 are needed (--nodes=2); it has 2 CPUs on a node and 4 are needed" in line
    assert not user.runs.exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("slurm.partition=nope", "there is no partition nope; there are batch"),
        ("slurm.nodes=9", "has 4 nodes and 9 are needed"),
        ("slurm.cpus_per_task=64", "at most 32 CPUs"),
        ("slurm.mem=99000", "at most 16000 MiB of memory, and 2 nodes with 99000"),
        ("slurm.partition=short slurm.time=30", "gives at most 0:10:00 and slurm.time asks for 0:30:00"),
        (
            "engine=tensorrt_llm model=m slurm.cpus_per_task=1 slurm.gpus_per_node=16 context_servers.num_instances=6",
            "at most 8 GPUs, and 1 node with 16 GPUs",
        ),
        ("slurm.reservation=none", "Slurm refuses the job: sbatch: "),
        ("slurm.extra_sbatch=[--gres=fpga:1]", "Slurm refuses the job: sbatch: "),
    ],
)
def test_what_slurm_will_not_give_is_told_before_anything_is_queued(user: User, overrides: str, words: str) -> None:
    chosen = [word for override in overrides.split() for word in ("--set", override)]
    done = user.trtdist("submit", EXAMPLE, *SHARED, *chosen)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and done.stderr.count("\n") == 1
    if "refuses" in words:
        assert ("--reservation=none" in done.stderr) != ("--gres=fpga:1" in done.stderr)
        assert json.loads((user.run_dir() / "verdict.json").read_text())["exit_code"] == 2
    else:
        assert not user.runs.exists()


def test_an_interface_that_no_node_has_ends_the_run(user: User) -> None:
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", "--set", "network.interface=ib7")
    assert done.returncode == 1
    assert "no address on network.interface ib7; it has" in done.stderr
    assert "node" in done.stderr and "10.77.0." in done.stderr
    assert user.left() == []


@pytest.mark.long
def test_a_run_directory_that_one_node_does_not_see_is_named(user: User) -> None:
    """Runs under /tmp of the head node, which no other node sees."""
    wish = "--set slurm.mem=500 --set slurm.gpus_per_node=4"
    local = f"env TRTDIST_RUNS=/tmp/own-{user.cluster.folder.name} {PYTHON} -m trtdist.cli up {EXAMPLE} {wish}"
    head = "srun --overlap -N1 -n1 --mem=0 -w $(scontrol show hostnames | head -1)"
    inside = f"export SLURM_JOB_NODELIST; {head} bash -c '{local} 2>&1; rm -r /tmp/own-{user.cluster.folder.name}'"
    done = user.cluster.run(*ALLOCATION, "bash", "-c", inside, timeout=READY_S)
    assert "does not see the run directory /tmp/own-" in done.stdout, done.stdout + done.stderr
    assert "node " in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ["launch=per_server"],
        # Five ranks on the first node and three on the second, not in the order of the nodes.
        ["context_servers.tensor_parallel_size=4", "context_servers.num_instances=1", "slurm.gpus_per_node=5"],
    ],
)
def test_other_layouts(user: User, overrides: list[str]) -> None:
    chosen = [word for override in overrides for word in ("--set", override)]
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", *chosen)
    assert done.returncode == 0, done.stderr + user.crashes()
    assert user.trtdist("down").returncode == 0
    assert user.left() == []


@pytest.mark.long
def test_up_outside_gets_an_allocation_and_gives_it_back(user: User) -> None:
    done = user.trtdist("up", EXAMPLE, *SHARED, "--detach")
    assert done.returncode == 0, done.stderr
    job = (user.run_dir() / "slurm.job").read_text().strip()
    assert user.job_state(job) == "RUNNING"
    assert user.trtdist("down").returncode == 0
    assert user.job_state(job) not in ("RUNNING", "COMPLETING")
    assert user.left() == []


@pytest.mark.long
def test_two_runs_on_the_same_nodes(user: User) -> None:
    for _ in range(2):
        assert user.trtdist("submit", EXAMPLE, *SHARED).returncode == 0
    for number in range(2):
        run = user.run_dir(number)
        waited = f"until grep -q READY {run}/events/supervisor.jsonl || [ -e {run}/verdict.json ]; do sleep 0.3; done"
        user.cluster.output("bash", "-c", waited, timeout=READY_S)
        assert user.state(run.name)["state"] == "READY"
    for number in range(2):
        assert user.trtdist("down", user.run_dir(number).name).returncode == 0
    assert user.left() == []


@pytest.mark.long
def test_a_rendered_folder_by_hand(user: User) -> None:
    assert user.trtdist("render", EXAMPLE, "out", *SHARED).returncode == 0
    out = user.cluster.folder / "out"
    job = user.cluster.output("sbatch", "--parsable", "out/job.sbatch")
    waited = f"until grep -q READY {out}/events/supervisor.jsonl || [ -e {out}/verdict.json ]; do sleep 0.3; done"
    user.cluster.output("bash", "-c", waited, timeout=READY_S)
    assert user.state(f"{out}/")["state"] == "READY"
    user.cluster.output("scancel", job)
    user.cluster.output("bash", "-c", f"until [ -e {out}/verdict.json ]; do sleep 0.3; done", timeout=60)


@pytest.mark.long
def test_a_rendered_folder_step_by_step(user: User) -> None:
    """As README.txt in the folder says."""
    assert user.trtdist("render", EXAMPLE, "out", *SHARED).returncode == 0
    steps = """cd out
bash scripts/head.srun.sh resolve.sh || exit
for step in 01-nats 02-etcd 03-workers 04-router 05-front; do bash scripts/$step.srun.sh >$step.out 2>&1 & done
bash scripts/06-canary.srun.sh
echo canary $?
scancel $SLURM_JOB_ID
"""
    (user.cluster.folder / "steps.sh").write_text(steps)
    done = user.cluster.run(*ALLOCATION, "bash", "steps.sh", timeout=READY_S)
    assert "canary 0" in done.stdout, done.stdout + done.stderr


def test_directives_reach_slurm_as_they_are_written(user: User) -> None:
    comment = """it's "two" \\ words # $HOME `id` é"""
    done = user.trtdist(
        "render", EXAMPLE, "out", *SHARED, "--set", f"slurm.extra_sbatch=['--comment={quoted(comment)}']"
    )
    assert done.returncode == 0, done.stderr
    job = user.cluster.output("sbatch", "--parsable", "--hold", "out/job.sbatch")
    shown = user.cluster.output("squeue", "--noheader", f"--jobs={job}", "--format=%k")
    user.cluster.output("scancel", job)
    assert shown == comment


def quoted(text: str) -> str:
    """As YAML writes it within single quotes."""
    return text.replace("'", "''")
