"""The real supervisor in real jobs: every way in which a run ends there, and what is left on the nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster import PYTHON, Cluster
from tests.supervisor.runs import DEAF, ROOT, SLEEP, wait_for
from tests.supervisor.slurm_runs import SlurmMade
from trtdist.events import Ready, StepStarted, SupervisorStarted, TaskStarted
from trtdist.supervisor import control


@pytest.fixture
def made(cluster: Cluster) -> Iterator[SlurmMade]:
    """A run on two nodes of the mini cluster whose steps sleep."""
    run = SlurmMade(cluster.folder / "run", cluster=cluster)
    yield run
    run.clean()


@pytest.fixture
def alone(own_cluster: Cluster) -> Iterator[SlurmMade]:
    """The same on a cluster that the test may break."""
    run = SlurmMade(own_cluster.folder / "run", cluster=own_cluster)
    yield run
    run.clean()


def up(made: SlurmMade, *arguments: str) -> None:
    """Supervise until every task is there, and say that the run is ready."""
    made.supervise(*arguments).wait()
    count = sum(step.tasks for step in made.plan.steps)
    wait_for(lambda: len(made.events(TaskStarted)) == count, 120, "all tasks")
    made.say("canary", Ready(1))
    wait_for(lambda: "READY" in made.states(), 60, "READY")


def test_up_and_down(made: SlurmMade) -> None:
    up(made)
    tasks = made.events(TaskStarted)
    assert {task.slurm_step.split(".")[0] for task in tasks} == {made.job}
    assert len({task.host for task in tasks}) == 2
    assert [event.step for event in made.events(StepStarted)][:2] == ["nats", "etcd"]
    made.ask(control.DOWN)
    verdict = made.verdict()
    assert (verdict["state"], verdict["exit_code"]) == ("STOPPED", 0), verdict
    assert made.ended() == "COMPLETED"
    assert made.left() == {}


def test_a_killed_rank_fails_the_run(made: SlurmMade) -> None:
    made.program("workers", f"echo I am $$; {SLEEP}")
    up(made)
    pid = made.task("gen.0.0").pid
    assert made.node_of("gen.0.0") != made.node_of("nats")
    wait_for(lambda: made.run.log("gen.0.0").read_text(), 60, "its words")
    made.kill("gen.0.0")
    verdict = made.verdict()
    assert made.ended() == "FAILED"
    assert verdict["state"] == "FAILED"
    assert verdict["reason"] == "gen.0.0 (step workers) was killed by SIGKILL"
    assert verdict["last_lines"] == [f"I am {pid}"]
    assert made.left() == {}


@pytest.mark.long
def test_a_killed_shim_comes_before_a_neighbour_that_it_took_along(made: SlurmMade) -> None:
    """No supervisor sees a process of another node vanish: srun tells, after the neighbour's own end."""
    made.program("workers", f"until [ -e {made.run.path}/go ]; do sleep 0.02; done; exit 14", SLEEP, SLEEP)
    up(made)
    shim = made.task("gen.0.0").shim_pid
    assert made.node_of("gen.0.0") != made.node_of("nats")
    made.on_node(made.node_of("gen.0.0"), f"kill -9 {shim}; touch {made.run.path}/go")
    verdict = made.verdict()
    assert made.ended() == "FAILED"
    assert verdict["first"]["name"] == "gen.0.0", verdict


def test_what_does_not_listen_is_killed(made: SlurmMade) -> None:
    made.program("workers", DEAF)
    made.program("router", DEAF)
    up(made)
    made.ask(control.DOWN, grace=1.0)
    assert made.verdict()["state"] == "STOPPED"
    made.ended()
    assert made.left() == {}


def test_cancelled_from_outside(made: SlurmMade) -> None:
    made.program("workers", "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    up(made)
    logs = [made.run.log(name) for name in made.tasks("workers")]
    wait_for(lambda: all(log.read_text() == "up\n" for log in logs), 60, "the traps")
    made.cluster.output("scancel", made.job)
    verdict = made.verdict()
    assert (verdict["state"], verdict["exit_code"]) == ("INTERRUPTED", 130), verdict
    assert verdict["reason"] == f"job {made.job} was cancelled (scancel)"
    assert made.ended() == "CANCELLED"
    assert made.run.log("ctx.0.0").read_text().endswith("told\n")
    assert made.left() == {}


@pytest.mark.long
def test_cancelled_with_programs_that_do_not_listen(made: SlurmMade) -> None:
    made.program("workers", DEAF)
    made.program("router", DEAF)
    up(made)
    began = time.monotonic()
    made.cluster.output("scancel", made.job)
    assert made.verdict()["state"] == "INTERRUPTED"
    told = time.monotonic() - began
    assert made.ended() == "CANCELLED"
    # Slurm's own KILL comes after KillWait, which is 5 s here.
    assert told < 5.0 < time.monotonic() - began
    assert {text for text in made.left().values() if "/proc" in text} == set()


@pytest.mark.long
def test_a_rank_that_ends_with_0_too_early(made: SlurmMade) -> None:
    made.program("workers", f"{SLEEP}")
    count = len(made.tasks("workers"))
    made.program("workers", *([SLEEP] * (count - 1)), "until [ -e $TRTDIST_LOCAL_DIR/go ]; do sleep 0.1; done")
    up(made)
    last = made.tasks("workers")[-1]
    made.on_node(made.node_of(last), f"touch {made.local}/go")
    verdict = made.verdict()
    assert (verdict["state"], verdict["exit_code"]) == ("FAILED", 1)
    assert verdict["reason"].startswith(f"{last} (step workers) ended with exit code 0")
    made.ended()
    assert made.left() == {}


def test_term_to_the_supervisor_alone_is_an_orderly_stop(made: SlurmMade) -> None:
    up(made)
    made.cluster.output("scancel", "--batch", "--signal=TERM", made.job)
    verdict = made.verdict()
    assert verdict["reason"] == "interrupted (SIGTERM)"
    made.ended()
    assert made.left() == {}


def test_the_time_limit_is_met_with_an_orderly_stop(made: SlurmMade) -> None:
    made.options = ("--time=2",)
    # Ten seconds after the job's start, however far the run is by then.
    made.supervise("--warning=110").wait()
    made.say("canary", Ready(1))
    verdict = made.verdict(120)
    assert (verdict["state"], verdict["exit_code"]) == ("TIMEOUT", 1), verdict
    assert f"job {made.job} reaches its time limit" in verdict["reason"]
    made.ended()
    assert made.left() == {}


@pytest.mark.long
def test_the_time_limit_without_a_warning(made: SlurmMade) -> None:
    """Slurm ends everything at once; its clock has minutes."""
    made.options = ("--time=1",)
    up(made, "--warning=-600")
    verdict = made.verdict(180)
    assert (verdict["state"], verdict["exit_code"]) == ("TIMEOUT", 1), verdict
    assert verdict["reason"] == f"job {made.job} reached its time limit"
    assert made.ended() == "TIMEOUT"
    assert made.left() == {}


def test_the_warning_signal_is_understood(made: SlurmMade) -> None:
    up(made)
    made.cluster.output("scancel", "--batch", "--signal=USR1", made.job)
    verdict = made.verdict()
    assert (verdict["state"], verdict["reason"]) == ("TIMEOUT", f"job {made.job} is near its time limit")


def test_the_supervisor_is_killed(made: SlurmMade) -> None:
    up(made)
    (supervisor,) = made.events(SupervisorStarted)
    made.on_node(supervisor.host, f"kill -9 {supervisor.pid}")
    assert made.ended() == "FAILED"
    look = "import sys, pathlib; from trtdist.observe import snapshot; from trtdist.rundir import RunDir"
    look += "; print(snapshot.RunReader(RunDir(pathlib.Path(sys.argv[1]))).look().status.detail)"
    show = ["env", f"PYTHONPATH={ROOT}", PYTHON, "-c", look, str(made.run.path)]
    told = f"job {made.job} is over: its script failed"
    wait_for(lambda: made.cluster.output(*show).startswith(told), 30, told)
    assert {text for text in made.left().values() if "/proc" in text} == set()


def test_a_step_that_never_starts_is_told(made: SlurmMade) -> None:
    """As long as another step has CPUs for itself."""
    alone = "srun --exact --nodes=2 --ntasks=2 --mem=0 --mpi=none"
    first = f"{alone} bash -c 'touch {made.folder}/there; exec sleep 1000' &"
    wait = f"until [ -e {made.folder}/there ]; do sleep 0.1; done"
    made.script("workers", f"{first} {wait}; exec {alone} --ntasks=8 true")
    made.supervise("--start-timeout=10").wait()
    verdict = made.verdict(120)
    assert verdict["state"] == "FAILED"
    assert verdict["reason"] == "workers was launched, and after 10 s none of its tasks ran"
    assert "step creation temporarily disabled" in "".join(verdict["last_lines"])
    made.ended()
    assert made.left() == {}


def test_preempted(alone: SlurmMade) -> None:
    up(alone)
    alone.cluster.output("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--wrap=true")
    verdict = alone.verdict(60)
    assert verdict["state"] == "INTERRUPTED"
    assert verdict["reason"] == f"job {alone.job} was preempted by another job"


@pytest.mark.parametrize(
    "how", [["fail"], ["fail", "--network"], ["fail", "--slurmd"]], ids=["power", "network", "slurmd"]
)
@pytest.mark.long
def test_a_node_fails(alone: SlurmMade, how: list[str]) -> None:
    up(alone)
    node = alone.node_of("gen.0.0")
    assert node != alone.node_of("nats")
    alone.cluster.admin(*how, node)
    verdict = alone.verdict(120)
    assert verdict["state"] == "FAILED"
    assert verdict["reason"] == f"job {alone.job} lost {node} (it does not respond)"
    alone.ended(60)


@pytest.mark.long
def test_the_controller_is_away_for_a_while(alone: SlurmMade) -> None:
    up(alone)
    alone.cluster.admin("controller", "stop")
    with pytest.raises(AssertionError):
        wait_for(alone.run.verdict.exists, 30, "an end that must not come")
    alone.ask(control.DOWN, grace=8.0)
    wait_for(lambda: "STOPPING" in alone.states(), 60, "STOPPING")
    alone.cluster.admin("controller", "start")
    assert alone.verdict(60)["state"] == "STOPPED"
    alone.ended()
    assert alone.left() == {}
