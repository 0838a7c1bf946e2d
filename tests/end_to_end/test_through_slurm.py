"""The whole path through a real Slurm, as a normal user of a submit host that has no way to the nodes but Slurm."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cluster import PYTHON, ROOT, Cluster
from tests.end_to_end.slurm_user import ALLOCATION, EXAMPLE, READY_S, SHARED, User
from tests.strangers import OF_RUN
from tests.supervisor.runs import wait_for
from tests.terminal import CTRL_C, on_terminal
from trtdist.rundir import RunDir
from trtdist.slurm import argv
from trtdist.supervisor.remains import supervisor_of

ONE_RANK = ("context_servers.tensor_parallel_size=1", "generation_servers.tensor_parallel_size=1")
ONE_SERVER = ("context_servers.num_instances=1", "generation_servers.num_instances=1")


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


def test_submit_shows_up_serves_and_goes(user: User) -> None:
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", "--json")
    assert done.returncode == 0, done.stderr + user.crashes()
    told = json.loads(done.stdout)
    # The progress is that of `up`.
    for words in ("nats is healthy at", "a prompt crossed ctx.0", "is READY after"):
        assert words in done.stderr
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
    ranks = {rank["name"]: rank for rank in state["ranks"]}
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


def test_up_inside_the_smallest_allocation_of_two_nodes(user: User) -> None:
    """One CPU on each of its nodes, for four ranks."""
    literal = "salloc -N2 trtdist up examples/slurm/disagg-2nodes.yaml"
    script = f"trap : INT; cd {ROOT}; export PATH={Path(PYTHON).parent}:$PATH TRTDIST_RUNS={user.runs}\n"
    command = user.cluster.argv("bash", "-c", f'{script}{literal}\necho "code $?"')
    with on_terminal(command, user.cluster.folder) as terminal:
        shown = terminal.wait_for("is READY after", READY_S)
        assert "is small: it has 1 CPU on a node and 4 are needed" in shown
        terminal.type(CTRL_C)
        shown = terminal.wait_for("code 130", 120)
    assert "is down: interrupted" in shown, shown
    job = (user.run_dir() / "slurm.borrowed").read_text().strip()
    # The job is not ours to end: salloc did so, because its command had ended.
    wait_for(lambda: user.job_state(job) in ("COMPLETED", "gone", "FAILED"), 60, "the end of the job")
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
        assert list(user.runs.iterdir()) == []
    else:
        assert not user.runs.exists()


def test_an_interface_that_no_node_has_ends_the_run(user: User) -> None:
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", "--set", "network.interface=ib7")
    assert done.returncode == 1
    assert re.search(r"each of node\S+ has no address on network.interface ib7; it has .*10\.77\.0\.0/", done.stderr)
    assert done.stderr.rpartition(" failed: ")[2].count("ib7") == 1
    assert user.left() == []


@pytest.mark.long
@pytest.mark.parametrize("wait", [0.0, 0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("first", ["down", "job"])
def test_down_while_the_job_starts(user: User, first: str, wait: float) -> None:
    """Whatever the job does at that moment, nothing of it is left on its nodes."""
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--json", "--set", "slurm.extra_sbatch=[--hold]")
    job = json.loads(done.stdout)["job_id"]
    both = {"job": f"scontrol release {job}", "down": shlex.join(user.words("down", job))}
    begin, (other,) = both.pop(first), both.values()
    script = f"{begin} & sleep {wait}; {other} & wait"
    told = user.cluster.run("bash", "-c", script, timeout=READY_S).stderr
    assert user.state(job)["state"] == "STOPPED", told
    assert user.job_state(job) not in ("PENDING", "RUNNING"), told
    assert user.left() == [], told


@pytest.mark.long
def test_a_run_whose_supervisor_died_failed_and_ends_as_that(user: User) -> None:
    assert user.trtdist("submit", EXAMPLE, *SHARED, "--wait").returncode == 0
    supervisor = supervisor_of(RunDir(user.run_dir()))
    assert supervisor is not None
    user.cluster.output("kill", "-KILL", str(supervisor.pid), host=supervisor.host)
    wait_for(lambda: user.state()["state"] == "FAILED", 60, "FAILED in `status`")
    done = user.trtdist("down")
    assert (done.returncode, "nothing runs; its files on node" in done.stdout) == (0, True), done.stdout + done.stderr
    verdict = json.loads((user.run_dir() / "verdict.json").read_text())
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "supervisor"), verdict
    assert f"the supervisor (pid {supervisor.pid}) died first: it ended, since job " in verdict["reason"]
    assert user.state()["state"] == "FAILED"
    for node in (f"node{number}" for number in range(1, 5)):
        remove = f"rm -rf /tmp/trtdist-*/{user.run_dir().name}-*; rmdir --ignore-fail-on-non-empty /tmp/trtdist-*"
        user.cluster.run("bash", "-c", remove, host=node)
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
def test_a_run_directory_that_no_node_sees_is_named(user: User) -> None:
    """Runs under /tmp of the submit host."""
    folder = f"/tmp/own-{user.cluster.folder.name}"
    words = [f"TRTDIST_RUNS={folder}" if word.startswith("TRTDIST_RUNS=") else word for word in user.words("submit")]
    done = user.cluster.run(*words, str(EXAMPLE), *SHARED, "--wait", timeout=READY_S)
    user.cluster.output("rm", "-r", folder)
    assert done.returncode == 1
    assert f"it never began, as it would when its first node does not see {folder}/" in done.stderr, done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "nodes"),
    [
        (["launch=per_server"], "00001111"),
        # Three ranks on the first node and one on the second.
        ([*ONE_RANK, "slurm.gpus_per_node=3"], "0001"),
        # One and four.
        ([*ONE_RANK, *ONE_SERVER, "generation_servers.tensor_parallel_size=4", "slurm.gpus_per_node=4"], "01111"),
        # Three and two, back on the first node after the second.
        (["slurm.gpus_per_node=3", "generation_servers.num_instances=1", "generation_servers.tensor_parallel_size=1"],
         "00110"),
    ],
    ids=["per_server", "three-and-one", "one-and-four", "there-and-back"],
)  # fmt: skip
def test_other_layouts(user: User, overrides: list[str], nodes: str) -> None:
    chosen = [word for override in overrides for word in ("--set", override)]
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", *chosen)
    assert done.returncode == 0, done.stderr + user.crashes()
    uneven = len(set(map(nodes.count, nodes))) > 1
    launched = "".join(path.read_text() for path in (user.run_dir() / "scripts").glob("03-*.srun.sh"))
    assert ("--distribution=arbitrary" in launched) == uneven
    seen = user.state()
    listed = sorted({str(rank["node"]) for rank in seen["ranks"]})
    assert [rank["node"] for rank in seen["ranks"]] == [listed[int(node)] for node in nodes]
    assert user.trtdist("down").returncode == 0
    assert user.left() == []


@pytest.mark.long
def test_a_rank_on_another_node_than_planned_ends_the_run(user: User) -> None:
    chosen = [word for override in (*ONE_RANK, "slurm.gpus_per_node=3") for word in ("--set", override)]
    assert user.trtdist("render", EXAMPLE, "out", *SHARED, *chosen).returncode == 0
    out = user.cluster.folder / "out"
    launch = out / "scripts" / "03-workers.srun.sh"
    text = launch.read_text()
    assert "for TRTDIST_INDEX in 0 0 0 1; do" in text
    launch.write_text(text.replace("in 0 0 0 1; do", "in 1 0 0 0; do"))
    job = user.cluster.output("sbatch", "--parsable", "out/job.sbatch")
    user.cluster.output("bash", "-c", f"until [ -e {out}/verdict.json ]; do sleep 0.3; done", timeout=READY_S)
    verdict = json.loads((out / "verdict.json").read_text())
    (first, second) = user.cluster.output(*argv.scontrol_hostnames(user.nodes(job))).split()
    assert verdict["state"] == "FAILED"
    assert verdict["reason"] in (
        f"ctx.0.0 (step workers) is task 0 and belongs on {first}, but runs on {second}",
        f"gen.1.0 (step workers) is task 3 and belongs on {second}, but runs on {first}",
    )
    assert [path.name for path in (out / "logs").glob("*.?.?.log") if "loaded" in path.read_text()] == []
    assert user.left() == []


@pytest.mark.long
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
def test_a_range_of_ports_is_kept(user: User, launch: str) -> None:
    chosen = (
        "--set",
        "network.port_range=23000-23049",
        "--set",
        f"launch={launch}",
        "--set",
        "router.http={port: auto}",
    )
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", *chosen)
    assert done.returncode == 0, done.stderr + user.crashes()
    run = f"TRTDIST_RUN_ID={user.run_dir().name}"
    nodes = {str(rank["node"]) for rank in user.state()["ranks"]}
    found = [user.cluster.output(PYTHON, "-c", OF_RUN, run, host=node).splitlines() for node in nodes]
    listed = [[int(line.split()[1]) for line in lines if not line.startswith("slurm")] for lines in found]
    # A node of generation servers alone has none: theirs is an MPI of one node.
    assert max(map(len, listed)) >= 4
    for ports in listed:
        assert [port for port in ports if not 23000 <= port < 23050] == []
    assert user.trtdist("down").returncode == 0


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
def test_two_folders_of_one_name_on_the_same_nodes(user: User) -> None:
    folders = [user.cluster.folder / each / "out" for each in ("one", "other")]
    user.cluster.output("mkdir", "one", "other")
    for out in folders:
        assert user.trtdist("render", EXAMPLE, str(out), *SHARED).returncode == 0
    jobs = [user.cluster.output("sbatch", "--parsable", f"{out}/job.sbatch") for out in folders]
    for out in folders:
        waited = f"until grep -q READY {out}/events/supervisor.jsonl || [ -e {out}/verdict.json ]; do sleep 0.3; done"
        user.cluster.output("bash", "-c", waited, timeout=READY_S)
        assert user.state(f"{out}/")["state"] == "READY"
    assert user.nodes(jobs[0]) == user.nodes(jobs[1])
    for out in folders:
        assert user.trtdist("down", f"{out}/").returncode == 0
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
$TRTDIST client --run ./ --prompt hello --max-tokens 4; echo client $?
$TRTDIST exec --run ./ gen.0 -- hostname; echo exec $?
$TRTDIST down ./; echo down $?
wait
squeue --noheader --steps --jobs=$SLURM_JOB_ID --format=%j | grep -v -e extern -e interactive; echo steps $?
"""
    (user.cluster.folder / "steps.sh").write_text(f"TRTDIST={shlex.quote(shlex.join(user.words()))}\n{steps}")
    done = user.cluster.run(*ALLOCATION, "bash", "steps.sh", timeout=READY_S)
    told = done.stdout.splitlines()
    assert {"canary 0", "client 0", "exec 0", "down 0", "steps 1"} <= set(told), done.stdout + done.stderr
    assert told[told.index("exec 0") - 1].startswith("node")
    assert user.left() == []


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
