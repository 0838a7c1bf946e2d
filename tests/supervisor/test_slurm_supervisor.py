"""The real supervisor in real jobs: every way in which a run ends there, and what is left on the nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.supervisor.runs import SLEEP, wait_for
from tests.supervisor.slurm_runs import SlurmMade
from trtdist.events import Ready, StepStarted, TaskStarted
from trtdist.supervisor import control


@pytest.fixture
def made(cluster: Cluster) -> Iterator[SlurmMade]:
    """A run on two nodes of the mini cluster whose steps sleep."""
    run = SlurmMade(cluster.folder / "run", cluster=cluster)
    yield run
    import sys; print(run.run.log("supervisor").read_text(), file=sys.stderr)
    run.clean()


def up(made: SlurmMade, *arguments: str) -> None:
    """Supervise until every task is there, and say that the run is ready."""
    made.supervise(*arguments).wait()
    count = sum(step.tasks for step in made.plan.steps)
    wait_for(lambda: len(made.events(TaskStarted)) == count, 60, "all tasks")
    made.say("canary", Ready(1))
    wait_for(lambda: "READY" in made.states(), 10, "READY")


def test_up_and_down(made: SlurmMade) -> None:
    up(made)
    tasks = made.events(TaskStarted)
    assert {task.slurm_step.split(".")[0] for task in tasks} == {made.job}
    assert len({task.host for task in tasks}) == 2
    assert [event.step for event in made.events(StepStarted)][:2] == ["nats", "etcd"]
    made.ask(control.DOWN)
    verdict = made.verdict(30)
    assert (verdict["state"], verdict["exit_code"]) == ("STOPPED", 0), verdict
    assert made.ended() == "COMPLETED"
    assert made.left() == {}


def test_a_killed_rank_fails_the_run(made: SlurmMade) -> None:
    made.program("workers", f"echo I am $$; {SLEEP}")
    up(made)
    pid = made.task("gen.0.0").pid
    assert made.node_of("gen.0.0") != made.node_of("nats")
    began = time.monotonic()
    made.kill("gen.0.0")
    verdict = made.verdict(30)
    assert made.ended() == "FAILED"
    took = time.monotonic() - began
    assert verdict["state"] == "FAILED"
    assert verdict["reason"] == "gen.0.0 (step workers) was killed by SIGKILL"
    assert verdict["last_lines"] == [f"I am {pid}"]
    assert made.left() == {}
    assert took < 20.0
