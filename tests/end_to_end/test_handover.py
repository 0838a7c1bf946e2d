"""A run whose job nears its time limit hands over to the next, through a real Slurm, as a normal user."""

from __future__ import annotations

import json

import pytest

from tests.cluster import PYTHON, ROOT, Cluster
from tests.end_to_end.slurm_user import User
from tests.supervisor.runs import wait_for
from trtdist import chain
from trtdist.events import EventReader, RunState, Successor
from trtdist.rundir import RunDir
from trtdist.supervisor import verdict

BENCHMARK = ROOT / "benchmarks" / "handover.py"
TOPOLOGY = """\
name: next
model: reference/tiny
engine: reference
launch: per_server
context_servers: {num_instances: 1}
generation_servers: {num_instances: 1}
router: {http: null}
"""
PROMPT = ("client", "--prompt", "The capital of France is", "--temperature", "0")


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


@pytest.fixture
def alone(own_cluster: Cluster) -> User:
    """A user of a cluster that nobody else uses."""
    return User(own_cluster)


def submitted(user: User, slurm: str) -> RunDir:
    """A run that is READY; `slurm` are keys of its section."""
    path = user.cluster.folder / "next.yaml"
    path.write_text(f"{TOPOLOGY}slurm: {{nodes: 1, gpus_per_node: 2, mem: 500, {slurm}}}\n")
    user.cluster.own(path)
    done = user.trtdist("submit", str(path), "--wait")
    assert done.returncode == 0, done.stderr
    return RunDir(user.run_dir())


def told(run: RunDir) -> list[Successor]:
    """What the supervisor told of runs that are to take over."""
    return [each.event for each in EventReader(run.events).poll() if isinstance(each.event, Successor)]


def is_ready(run: RunDir) -> bool:
    records = EventReader(run.events).poll()
    return any(isinstance(record.event, RunState) and record.event.state == "READY" for record in records)


def ended(run: RunDir) -> tuple[str, str]:
    found = verdict.read(run)
    assert found is not None
    return found["state"], found["reason"]


def waiting(user: User) -> list[str]:
    """The jobs of runs in the user's folder that are not over."""
    listed = user.cluster.output("squeue", "--me", "--noheader", "--format=%i %T %Z")
    return [line for line in listed.splitlines() if str(user.runs) in line]


@pytest.mark.long
@pytest.mark.parametrize("launch", ["per_server", "mpi_world"])
def test_no_request_fails_of_a_hand_over(user: User, launch: str) -> None:
    """Short and long streams over NATS and requests over HTTP, from a node, while the next job takes over."""
    words = [PYTHON, str(BENCHMARK), "--json", "--launch", launch, "--folder", str(user.cluster.folder)]
    done = user.cluster.run(*words, host="node4", timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert (found["failed"], found["long_failed"], found["http_failed"]) == ([], [], [])
    assert found["heir"] != found["run"]
    assert found["verdict"]["state"] == "STOPPED"
    assert f"handed over to {found['heir']} (job " in found["verdict"]["reason"]
    assert (found["requests"] > 50, found["http_requests"] > 20, found["answers"]) == (True, True, 2)


@pytest.mark.long
def test_one_that_waits_at_the_limit_comes_up_alone_and_nothing_stays_queued(alone: User) -> None:
    """Each job wants a certain node for itself, so the next one starts when the one before has ended."""
    run = submitted(alone, 'time: "2", handover: 100, extra_sbatch: [--nodelist=node3, --exclusive]')
    wait_for(lambda: [each.state for each in told(run)] == ["asked"], 60, "the next job")
    (asked,) = told(run)
    shown = alone.trtdist("status", run.run_id).stdout
    assert f"after it    {asked.run} (job {asked.job}), which is to take over" in shown
    after = chain.successor(run)
    assert after is not None and after.run_id == asked.run
    shown = alone.trtdist("status", asked.run)
    assert f"before it   {run.run_id}, from which it is to take over" in shown.stdout, shown.stderr
    assert "PENDING" in shown.stdout
    # Whoever names no run, or the topology, means the one that serves.
    assert alone.state()["run_id"] == alone.state("next")["run_id"] == run.run_id

    wait_for(run.verdict.exists, 150, "the end of the first job")
    state, reason = ended(run)
    assert state == "TIMEOUT"
    assert reason.endswith(f"; {asked.run} (job {asked.job}) that was to take over is not READY yet")
    wait_for(lambda: chain.heir(run) == after, 120, "the next run to take over alone")
    assert alone.state()["run_id"] == alone.state("next")["run_id"] == asked.run
    asked_by_old_id = alone.trtdist(*PROMPT, "--run", run.run_id, host="node3")
    assert asked_by_old_id.stdout.strip(), asked_by_old_id.stderr

    # It has asked for a third one by now, which waits; by the id of the first, all go.
    wait_for(lambda: [each.state for each in told(after)] == ["asked"], 60, "the third job")
    third = chain.successor(after)
    assert third is not None
    down = alone.trtdist("down", run.run_id)
    assert down.returncode == 0, down.stderr
    assert [line.split()[0] for line in down.stdout.splitlines()] == [run.run_id, after.run_id, third.run_id]
    assert (ended(after)[0], ended(third)[0]) == ("STOPPED", "STOPPED")
    assert "called off while job" in ended(third)[1]
    assert waiting(alone) == []
    assert alone.left() == []


@pytest.mark.long
def test_two_that_fail_are_enough_and_the_run_serves_until_its_limit(user: User) -> None:
    run = submitted(user, 'time: "3", handover: 150')
    script, task = run.path / "job.sbatch", next(run.scripts.glob("*-gen.0.task.sh"))
    right = script.read_text()
    script.write_text(right.replace("#!/usr/bin/env bash\n", "#!/usr/bin/env bash\n#SBATCH --partition=nowhere\n", 1))
    wait_for(lambda: [each.state for each in told(run)] == ["lost"], 90, "the refusal")
    assert "could not be submitted: sbatch: " in told(run)[0].reason and "partition" in told(run)[0].reason
    assert [path.name for path in user.runs.iterdir() if not path.is_symlink()] == [run.run_id]
    script.write_text(right)
    task.write_text("#!/usr/bin/env bash\nexit 3\n")
    wait_for(lambda: [each.state for each in told(run)][1:] == ["asked", "lost"], 90, "a run that fails")
    assert "has ended before it was READY (FAILED, gen.0" in told(run)[2].reason
    shown = user.trtdist("status", run.run_id).stdout
    assert "which will not take over: " in shown and "READY" in shown
    assert user.state("next")["run_id"] == run.run_id
    wait_for(run.verdict.exists, 150, "the limit")
    state, reason = ended(run)
    assert (state, "; no run took over: " in reason) == ("TIMEOUT", True)
    assert len(told(run)) == 3
    assert user.trtdist("down", run.run_id).returncode == 0
    assert waiting(user) == []
    assert user.left() == []


@pytest.mark.long
def test_a_run_that_dies_is_followed_by_the_one_that_was_asked_for(user: User) -> None:
    run = submitted(user, 'time: "10", handover: 580')
    wait_for(lambda: [each.state for each in told(run)] == ["asked"], 60, "the next job")
    ranks = user.state(run.run_id)["ranks"]
    rank = next(rank for rank in ranks if rank["name"] == "gen.0.0")
    user.cluster.output("kill", "-9", str(rank["pid"]), host=str(rank["node"]))
    wait_for(run.verdict.exists, 30, "the verdict")
    assert ended(run)[0] == "FAILED"
    after = chain.successor(run)
    assert after is not None
    wait_for(lambda: chain.heir(run) == after and is_ready(after), 120, "the next run")
    assert user.state()["run_id"] == after.run_id
    answer = user.trtdist(*PROMPT, "--run", run.run_id, host="node1")
    assert answer.stdout.strip(), answer.stderr
    assert user.trtdist("down").returncode == 0
    assert ended(after)[0] == "STOPPED"
    assert waiting(user) == []
    assert user.left() == []


@pytest.mark.long
def test_a_job_that_is_cancelled_takes_the_next_one_from_the_queue(alone: User) -> None:
    run = submitted(alone, 'time: "10", handover: 580, extra_sbatch: [--nodelist=node2, --exclusive]')
    wait_for(lambda: [each.state for each in told(run)] == ["asked"], 60, "the next job")
    after = chain.successor(run)
    assert after is not None
    alone.cluster.output("scancel", run.slurm_job.read_text().strip())
    wait_for(lambda: run.verdict.exists() and after.verdict.exists(), 60, "both verdicts")
    assert (ended(run)[0], ended(after)[0]) == ("INTERRUPTED", "STOPPED")
    wait_for(lambda: waiting(alone) == [], 60, "both jobs to be gone")
    assert chain.heir(run) is None
