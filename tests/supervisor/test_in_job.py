"""Why a job ends, from what Slurm shows while it does: each kind of end has its own verdict."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.supervisor.simulation import make_plan
from trtdist.errors import SlurmDownError
from trtdist.events import Event, HandOverPlanned
from trtdist.plan import to_json
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env, write_env
from trtdist.slurm import parse
from trtdist.supervisor import in_job, job_nodes, messages
from trtdist.supervisor.facts import Settings
from trtdist.supervisor.handover_messages import HandOverDue
from trtdist.supervisor.in_job import InJob, why_ended
from trtdist.supervisor.job_nodes import look_again
from trtdist.supervisor.spare_nodes import LISTS

# As `scontrol --oneliner show job` of Slurm 22.05 shows them while processes are left.
ENDING = "JobId=7 JobState=COMPLETING Reason={reason} Dependency=(null) PreemptTime={preempted} NodeList=node1"


@pytest.mark.parametrize(
    ("reason", "preempted", "down", "verdict"),
    [
        ("None", "None", [], ("INTERRUPTED", 130, "job 7 was cancelled (scancel)")),
        ("TimeLimit", "None", [], ("TIMEOUT", 1, "job 7 reached its time limit")),
        ("NodeDown", "None", ["node2"], ("FAILED", 1, "job 7 lost node2")),
        ("None", "None", ["node2", "node3"], ("FAILED", 1, "job 7 lost node2, node3")),
        ("NodeDown", "None", [], ("FAILED", 1, "job 7 lost a node")),
        ("None", "2026-11-25T16:09:36", [], ("INTERRUPTED", 130, "job 7 was preempted by another job")),
    ],
)
def test_why_a_job_ends(reason: str, preempted: str, down: list[str], verdict: tuple[str, int, str]) -> None:
    shown = parse.fields(ENDING.format(reason=reason, preempted=preempted))
    found = why_ended("7", shown, down)
    assert (found.state, found.exit_code, found.reason) == verdict


@pytest.mark.parametrize(
    ("restarts", "attempt", "told"),
    [("0", 0, "cancelled"), ("1", 0, "queued again"), ("1", 1, "cancelled"), ("2", 1, "queued again")],
)
def test_a_job_that_is_queued_again_was_not_cancelled(restarts: str, attempt: int, told: str) -> None:
    shown = parse.fields(f"{ENDING.format(reason='None', preempted='None')} Restarts={restarts}")
    assert why_ended("7", shown, [], attempt).reason.startswith(f"job 7 was {told}")
    assert why_ended("7", shown, ["node2"], attempt).reason == "job 7 lost node2"


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "PREEMPTED"])
def test_a_cause_that_slurm_names_is_certain(state: str) -> None:
    assert why_ended("7", {"JobState": state}, []).certain
    assert why_ended("7", {"JobState": "CANCELLED"}, []) == messages.EveryoneTerminated("job 7 was cancelled (scancel)")


def test_what_a_signal_means_is_told_while_deaths_are_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[float] = []

    async def slow(argv: Sequence[str], timeout: float) -> str:
        given.append(timeout)
        await asyncio.sleep(0.2)
        return ENDING.format(reason="None", preempted="None") if "job" in argv else "NodeName=node1 State=DOWN"

    monkeypatch.setattr(in_job, "ask", slow)
    found = asyncio.run(InJob(RunDir(tmp_path), "7", 60.0, print).meaning("SIGTERM"))
    assert found == messages.EveryoneTerminated("job 7 lost node1", "FAILED", 1, certain=True)
    first, second = given
    assert second <= first - 0.19 and first < Settings().doubt


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("bad fan [root@2026-11-26T07:20:10]", "job 7 lost node1 (set down by root: bad fan)"),
        ("Not responding [slurm@2026-11-26T07:20:10]", "job 7 lost node1 (it does not respond)"),
    ],
)
def test_who_set_a_node_down_is_told(reason: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def answers(argv: Sequence[str], timeout: float) -> str:
        ending = ENDING.format(reason="NodeDown", preempted="None")
        return ending if "job" in argv else f"NodeName=node1 State=DOWN+DRAIN Reason={reason}"

    monkeypatch.setattr(in_job, "ask", answers)
    found = asyncio.run(InJob(RunDir(tmp_path), "7", 60.0, print).meaning("SIGTERM"))
    assert found == messages.EveryoneTerminated(told, "FAILED", 1, certain=True)


@pytest.mark.parametrize("state", ["ALLOCATED*", "MIXED*", "FAILING", "MIXED+DRAIN"])
def test_a_node_that_does_not_answer_ends_no_job(state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def answers(argv: Sequence[str], timeout: float) -> str:
        return ENDING.format(reason="None", preempted="None") if "job" in argv else f"NodeName=node1 State={state}"

    monkeypatch.setattr(in_job, "ask", answers)
    found = asyncio.run(InJob(RunDir(tmp_path), "7", 60.0, print).meaning("SIGTERM"))
    assert found == messages.EveryoneTerminated("job 7 was cancelled (scancel)")


def all_placed(monkeypatch: pytest.MonkeyPatch, run: RunDir, steps: dict[str, tuple[int, ...]]) -> list[str]:
    """What is said of each of the steps, on the nodes with these numbers, when all are placed at once; n1 is down, and
    the job has lost n2."""
    plan = make_plan("per_server", (1, 1, 1))
    moving = tuple(replace(step, nodes=steps.get(step.name, step.nodes)) for step in plan.steps)
    run.plan.write_text(to_json(replace(plan, steps=moving)))
    lists = ("n0 n1 n2 n3 n4", "a0 a1 a2 a3 a4", "0 1 2 3 4")
    write_env(run.resolved_env, {**dict(zip(LISTS, lists, strict=True)), "TRTDIST_STAMP": "s"})

    async def answers(argv: Sequence[str], timeout: float) -> str:
        await asyncio.sleep(0.05)
        if argv[0] == "sinfo":
            return "n0|mixed\nn1|down\nn2|idle\nn3|mixed\nn4|mixed"
        if "job" in argv:
            return "JobId=7 JobState=RUNNING NodeList=n0,n[3-4]"
        return "NodeName=n1 State=DOWN Reason=bad fan [root@now]"

    async def all_at_once() -> list[str]:
        job = InJob(run, "7", 60.0, print)
        return await asyncio.gather(*(job.place(step) for step in moving if step.name in steps))

    monkeypatch.setattr(in_job, "ask", answers)
    return asyncio.run(all_at_once())


def spares_say(run: RunDir, problems: dict[str, list[str]]) -> None:
    """Have those that are looked at tell these problems."""
    run.scripts.mkdir()
    reports = "".join(
        f"{node}) echo '{json.dumps({'node': node, 'problems': told})}';;" for node, told in problems.items()
    )
    script = f"echo $TRTDIST_JOB_NODELIST >>{run.path}/looked-at; case $TRTDIST_JOB_NODELIST in {reports} esac"
    (run.scripts / "each-node.srun.sh").write_text(f"{script}\nexit {int(any(problems.values()))}")


def test_servers_that_lose_a_node_at_once_are_placed_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of each node that is down one of the spares takes the place, once, whoever asks first."""
    run = RunDir(tmp_path)
    spares_say(run, {"n3": [], "n4": []})
    said = all_placed(monkeypatch, run, {"ctx.0": (1,), "gen.0": (1,), "gen.1": (2,)})
    found = read_env(run.resolved_env)
    rows = list(zip(*(found[name].split() for name in LISTS), strict=True))
    assert rows[0] == ("n0", "a0", "0") and sorted(rows[1:]) == [("n3", "a3", "3"), ("n4", "a4", "4")]
    assert found["TRTDIST_STAMP"].split(".")[0] == "s" and found["TRTDIST_STAMP"].count(".") == 2
    # Of the two that lose the same node either may be first.
    assert "" in said[:2] and said[0] != said[1]
    assert "".join(said[:2]).endswith(f" moves from n1, which is down (set down by root: bad fan), to {rows[1][0]}")
    assert said[2] == f"gen.1 moves from n2, which job 7 has lost, to {rows[2][0]}"


def test_a_spare_that_cannot_be_used_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    spares_say(run, {"n3": ["has a /tmp that is full"], "n4": []})
    said = all_placed(monkeypatch, run, {"ctx.0": (1,)})
    assert said == ["ctx.0 moves from n1, which is down (set down by root: bad fan), to n4"]
    assert capsys.readouterr().out == "node n3 has a /tmp that is full\n"
    assert (tmp_path / "looked-at").read_text().split() == ["n3", "n4"]


def test_spares_that_are_looked_at_together_are_judged_one_by_one(tmp_path: Path) -> None:
    """One that fails, with its step, takes no other along."""
    run = RunDir(tmp_path)
    run.scripts.mkdir()
    report = json.dumps({"node": "n3", "problems": []})
    (run.scripts / "each-node.srun.sh").write_text(f"echo '{report}'; echo 'srun: error: n4 is away' >&2; exit 1")
    found = asyncio.run(look_again(run, ["n3", "n4"], {}, tmp_path))
    assert found == {"n3": [], "n4": ["gave no answer (srun: error: n4 is away)"]}


def test_a_spare_that_hangs_has_its_step_aborted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_nodes, "_AGAIN_S", 1.0)
    run = RunDir(tmp_path)
    run.scripts.mkdir()
    script = f"trap 'echo aborted >{tmp_path}/end; exit 1' TERM\nwhile :; do sleep 0.1; done\n"
    (run.scripts / "each-node.srun.sh").write_text(script)
    ((problem,),) = asyncio.run(look_again(run, ["n3"], {}, tmp_path)).values()
    assert problem.startswith("gave no answer (") and problem.endswith("not within 1 s)")
    assert (tmp_path / "end").read_text() == "aborted\n"


def test_a_server_stays_where_no_spare_can_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    spares_say(run, {"n3": ["has a /tmp that is full"]})
    said = all_placed(monkeypatch, run, {"ctx.0": (1,)})
    assert said == ["ctx.0 stays where n1 is down: there is no spare node that can be used"]
    assert read_env(run.resolved_env)["TRTDIST_NODES"] == "n0 n1 n2 n3 n4"


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("down*", "is down (it does not respond)"),
        ("down", "is down"),
        ("powering_down", "is down"),
        ("mixed*", "does not respond"),
        ("drained*", "does not respond"),
        ("failing", "Slurm calls failing"),
        ("drained", "job 7 has lost"),
    ],
)
def test_what_is_known_of_a_node_is_told_when_slurm_does_not_say_why_in_time(
    state: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, plan = RunDir(tmp_path), make_plan("per_server", (1, 1))
    step = replace(next(step for step in plan.steps if step.servers), nodes=(1,))
    run.plan.write_text(to_json(replace(plan, steps=(step,))))
    lists = dict(zip(LISTS, ("n0 n1 n2", "a0 a1 a2", "0 1 2"), strict=True))
    write_env(run.resolved_env, {**lists, "TRTDIST_STAMP": "s"})

    async def answers(argv: Sequence[str], timeout: float) -> str:
        if argv[0] == "sinfo":
            return f"n0|mixed\nn1|{state}\nn2|mixed"
        if "job" in argv:
            return "JobId=7 JobState=RUNNING NodeList=n0,n2"
        raise SlurmDownError("scontrol did not answer in time")

    spares_say(run, {"n2": []})
    monkeypatch.setattr(in_job, "ask", answers)
    said = asyncio.run(InJob(run, "7", 60.0, print).place(step))
    assert said == f"{step.name} moves from n1, which {told}, to n2"


def test_when_the_next_job_is_due_is_told_whenever_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = time.time()
    ends = iter([now + 1000, now + 1000, now + 2000, now + 30])
    told: list[Event] = []

    async def answers(argv: Sequence[str]) -> str:
        return f"7|RUNNING|None|{now:.0f}|{next(ends):.0f}|node1|me|sim"

    monkeypatch.setattr(in_job, "ask", answers)
    monkeypatch.setattr(in_job, "_LOOK_EVERY", 0.01)

    async def first() -> messages.Input:
        async for event in InJob(RunDir(tmp_path), "7", 5.0, print, 60.0, told.append).news():
            return event
        raise AssertionError

    assert asyncio.run(first()) == HandOverDue()
    assert told == [HandOverPlanned(float(round(now + after)) - 60.0) for after in (1000, 2000)]
