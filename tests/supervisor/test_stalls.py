"""A server that makes no progress is found, and the rank that is behind; in virtual time and with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.runs import SLEEP, HandMade, wait_for
from tests.supervisor.simulation import NEVER, Behaviour, Cluster, Fault, make_plan
from trtdist.events import Stalled, TaskSeen
from trtdist.supervisor import facts, messages
from trtdist.supervisor.logwatch import LogWatch

LOOK = Path(__file__).parents[2] / "trtdist" / "supervisor" / "look.py"
SHIM = LOOK.with_name("shim.py")
QUIET = {"workers": Behaviour(up_after=NEVER), "canary": Behaviour(up_after=NEVER)}
TASKS = ("ctx.0.0", "ctx.0.1", "gen.0.0")


def coming_up(**settings: float) -> Cluster:
    """A run whose engines do not load."""
    cluster = Cluster(make_plan(), facts.Settings(**settings), behaviours=dict(QUIET))
    cluster.run([], until=5.0)
    return cluster


def grow(cluster: Cluster, seconds: float, *tasks: str, every: float = 5.0, answer: bool = False) -> None:
    """So many seconds in which the logs of these tasks grow; with `answer`, all say that they wait when asked."""
    end = cluster.now + seconds
    while cluster.now < end:
        cluster.now += every
        cluster.feed(messages.Moved(dict.fromkeys(tasks, 1.0)))
        if answer and just_asked(cluster):
            for task in TASKS:
                cluster.feed(messages.Seen(task, False, "waits"))


def just_asked(cluster: Cluster) -> bool:
    at, action = cluster.log[-1]
    return at == cluster.now and isinstance(action, messages.Examine)


def stalls(cluster: Cluster) -> list[facts.Stall]:
    return [action.stall for action in cluster.actions(messages.TellStalled)]  # type: ignore[union-attr]


def test_a_server_that_does_nothing_is_called_stalled_once_and_its_last_rank_named() -> None:
    cluster = coming_up(stall_timeout=60.0)
    grow(cluster, 20, *TASKS)
    grow(cluster, 40, "ctx.0.0", "gen.0.0")
    grow(cluster, 150, "gen.0.0", answer=True)
    assert stalls(cluster) == [
        facts.Stall("ctx.0", "ctx.0.1", pytest.approx(66.0, abs=11), "is behind the others", "waits")
    ]
    grow(cluster, 10, "gen.0.0", "ctx.0.1")
    grow(cluster, 150, "gen.0.0", answer=True)
    assert [stall.task for stall in stalls(cluster)] == ["ctx.0.1", "ctx.0.0"]


def test_a_server_that_works_without_a_word_is_not_stalled() -> None:
    cluster = coming_up(stall_timeout=60.0)
    for _ in range(60):
        grow(cluster, 5)
        if just_asked(cluster):
            for task in ("ctx.0.1", "gen.0.0"):
                cluster.feed(messages.Seen(task, True, "works"))
    assert len(cluster.actions(messages.Examine)) >= 4
    assert stalls(cluster) == []


def test_one_that_does_not_answer_is_stalled_as_well() -> None:
    cluster = coming_up(stall_timeout=60.0)
    grow(cluster, 80)
    assert {stall.server for stall in stalls(cluster)} == {"ctx.0", "gen.0"}


def falling(pause: float) -> Cluster:
    """A run whose generation server dies at 5 s for the second time, and is started again after a pause."""
    made = make_plan("per_server")
    steps = tuple(replace(step, restarts=3, backoff=pause) for step in made.steps)
    cluster = Cluster(replace(made, steps=steps), facts.Settings(stall_timeout=60.0))
    cluster.behaviours.update({"gen.0": Behaviour(up_after=NEVER), "canary": Behaviour(up_after=NEVER)})
    cluster.run([Fault(2.0, "kill_task", "gen.0.0"), Fault(5.0, "kill_task", "gen.0.0")], until=6.0)
    return cluster


def test_a_server_that_waits_to_be_started_again_is_not_stalled() -> None:
    cluster = falling(pause=250.0)
    grow(cluster, 200)
    assert {stall.server for stall in stalls(cluster)} == {"ctx.0"}


def test_a_server_that_was_started_again_has_its_time_anew() -> None:
    cluster = falling(pause=100.0)
    cluster.behaviours["gen.0"] = Behaviour(up_after=NEVER, begins_after=30.0)
    # Its last words come to light after it fell.
    cluster.feed(messages.Moved({"gen.0.0": 0.5}))
    cluster.run([], until=106.0)
    cluster.now = 110.0
    grow(cluster, 30)
    assert len(cluster.actions(messages.Restarting)) == 2
    assert "gen.0" not in {stall.server for stall in stalls(cluster)}
    cluster.run([], until=cluster.now + 1.0)
    grow(cluster, 90)
    assert "gen.0" in {stall.server for stall in stalls(cluster)}


def test_a_server_that_is_registered_waits_for_the_others() -> None:
    cluster = coming_up(stall_timeout=60.0)
    grow(cluster, 20, *TASKS)
    cluster.feed(messages.Reached("gen.0", "registered"))
    cluster.feed(messages.Reached("router", "registered"))
    grow(cluster, 150, answer=True)
    assert [stall.server for stall in stalls(cluster)] == ["ctx.0"]
    cluster.feed(messages.Reached("ctx.0", "registered"))
    cluster.feed(messages.Reached("ctx.0", "answering"))
    grow(cluster, 150, answer=True)
    assert [stall.server for stall in stalls(cluster)] == ["ctx.0", "gen.0"], "nobody is left to wait for"


def test_zero_is_never() -> None:
    cluster = coming_up(stall_timeout=0.0)
    grow(cluster, 1000)
    assert cluster.actions(messages.Examine) == []


def test_a_run_that_is_ready_may_be_silent() -> None:
    cluster = Cluster(make_plan())
    cluster.run([], until=5.0)
    grow(cluster, 1000)
    assert cluster.actions(messages.Examine) == []


def test_the_ready_timeout_names_the_rank_that_is_behind() -> None:
    cluster = coming_up(ready_timeout=100.0)
    grow(cluster, 30, *TASKS)
    grow(cluster, 40, "ctx.0.0", "gen.0.0")
    grow(cluster, 40, answer=True)
    assert len(cluster.actions(messages.Examine)) == 1, "shortly before it is given up"
    cluster.run([])
    assert cluster.outcome.state == "TIMEOUT"
    assert cluster.outcome.reason.endswith("; ctx.0.1 is behind the others")
    assert cluster.outcome.first is not None and cluster.outcome.first.name == "ctx.0.1"


@pytest.mark.parametrize("ready", [20.0, 100.0])
def test_ranks_that_load_when_the_time_is_up_are_not_said_to_stand_still(ready: float) -> None:
    """Whether the time is so short that nobody is asked what it does, or not."""
    cluster = coming_up(ready_timeout=ready)
    grow(cluster, ready - 10.0, *TASKS)
    cluster.run([])
    assert cluster.outcome.reason.endswith("; ctx.0.0 was still on its way when the time was up")


def test_a_rank_of_which_nobody_knows_what_it_does_is_called_silent() -> None:
    cluster = coming_up(ready_timeout=23.0)
    cluster.run([])
    assert cluster.actions(messages.Examine) == []
    assert cluster.outcome.reason.endswith("; ctx.0.0 was silent for the last 23 s")


def test_a_rank_that_was_seen_to_wait_when_the_time_is_up_stands_still() -> None:
    cluster = coming_up(ready_timeout=100.0)
    cluster.feed(messages.Reached("ctx.0", "answering"))
    grow(cluster, 85)
    grow(cluster, 10, answer=True)
    cluster.run([])
    assert cluster.outcome.reason.endswith("; gen.0.0 stands still")


def test_the_rank_whose_log_shows_the_fewest_steps_is_behind_although_it_moved_last() -> None:
    cluster = coming_up(ready_timeout=100.0)
    for far in ({"ctx.0.0": 1, "ctx.0.1": 1}, {"ctx.0.0": 3}, {"ctx.0.1": 2}):
        cluster.now += 5.0
        cluster.feed(messages.Moved(dict.fromkeys(far, 0.0), far))
    cluster.feed(messages.Reached("gen.0", "engine"))
    cluster.run([])
    assert cluster.outcome.reason.endswith("; ctx.0.1 is behind the others")


def test_lines_of_a_log_tell_how_far_its_rank_is(made: HandMade) -> None:
    log = made.run.log("ctx.0.1")
    log.write_text("Model init total -- 0.10s\n")
    watch = LogWatch(made.run, TASKS)
    for text, far in (("Loading wei", {"ctx.0.1": -1}), ("ghts: 100%\nand", {"ctx.0.1": 2}), ("", {"ctx.0.1": -1})):
        with open(log, "a") as file:
            file.write(text)
        watch.grown()
        assert watch.how_far() == far
    with open(log, "a") as file:
        file.write(" more\n")
    watch.grown()
    assert (watch.how_far(), watch.how_far()) == ({"ctx.0.1": 0}, {})


def test_the_log_of_a_rank_is_watched(made: HandMade) -> None:
    watch = LogWatch(made.run, TASKS)
    assert watch.grown() == {}
    made.run.log("gen.0.0").write_text("x")
    assert set(watch.grown()) == {"gen.0.0"}
    assert watch.grown() == {}
    made.run.stacks.mkdir()
    (made.run.stacks / "ask").touch()
    with open(made.run.log("gen.0.0"), "a") as file:
        file.write("Thread 0x1 (most recent call first):")
    assert watch.grown() == {}
    os.utime(made.run.stacks / "ask", (1, 1))
    made.run.log("gen.0.0").write_text("some more of its own lines, which are longer")
    assert set(watch.grown()) == {"gen.0.0"}


def test_what_an_earlier_attempt_has_logged_is_no_progress(made: HandMade) -> None:
    made.run.log("gen.0.0").write_text("of the attempt before")
    watch = LogWatch(made.run, TASKS)
    assert watch.grown() == {}
    with open(made.run.log("gen.0.0"), "a") as file:
        file.write("x")
    assert set(watch.grown()) == {"gen.0.0"}


def test_a_stall_is_told_and_the_run_given_up_with_the_last_line(made: HandMade) -> None:
    last = made.run.log("ctx.0.1")
    stays = f"echo one; until [ -s {last} ]; do sleep 0.1; done; sleep 1.5; echo two; {SLEEP}"
    made.program("workers", stays, f"echo loading shard 3; {SLEEP}", stays)
    supervisor = made.supervise("--stall-timeout=2", "--ready-timeout=25")
    wait_for(lambda: last.exists() and last.read_text(), 60, "its line")
    question, asked = made.run.stacks / "ask", 0

    def ended() -> bool:
        """Whether the supervisor has; it is answered each time that it asks."""
        nonlocal asked
        at = question.stat().st_mtime_ns if question.exists() else 0
        if at != asked:
            asked = at
            for name in TASKS:
                made.say(f"look.{name}", TaskSeen("workers", name, False, "waits, with 0.00 of a core"))
        return supervisor.poll() is not None

    wait_for(ended, 120, "the end")
    assert supervisor.wait() == 3
    told = {event.server: event for event in made.events(Stalled)}
    assert (told["ctx.0"].task, told["ctx.0"].how) == ("ctx.0.1", "is behind the others")
    assert told["ctx.0"].doing == "waits, with 0.00 of a core"
    verdict = made.verdict()
    assert verdict["state"] == "TIMEOUT" and verdict["first"]["name"] == "ctx.0.1"
    assert verdict["reason"].endswith("ctx.0.1 is behind the others, and the last line of its log is 'loading shard 3'")


HANGS = """
import faulthandler, signal, time
faulthandler.register(signal.SIGRTMIN + 9)
def wait_for_a_peer_that_never_comes():
    print("up", flush=True)
    time.sleep(60)
wait_for_a_peer_that_never_comes()
"""


@pytest.fixture
def shimmed(made: HandMade) -> Iterator[subprocess.Popen[bytes]]:
    """The real shim around a program that hangs."""
    made.run.stacks.mkdir()
    words = [
        "--run-dir",
        str(made.run.path),
        "--step",
        "workers",
        "--name",
        "gen.0.0",
        "--",
        sys.executable,
        "-c",
        HANGS,
    ]
    shim = subprocess.Popen([sys.executable, "-I", "-S", str(SHIM), *words], stdin=subprocess.DEVNULL)
    yield shim
    shim.send_signal(signal.SIGTERM)
    shim.wait()


def test_the_shim_has_the_stacks_written_when_they_are_asked_for(
    made: HandMade, shimmed: subprocess.Popen[bytes]
) -> None:
    wait_for(lambda: made.run.log("gen.0.0").exists() and "up" in made.run.log("gen.0.0").read_text(), 60, "it is up")
    (made.run.stacks / "ask").touch()
    stacks = made.run.stacks / "gen.0.0.txt"
    wait_for(stacks.exists, 60, "the stacks")
    text = stacks.read_text()
    assert text.startswith("gen.0.0, pid ") and ": waits, with 0.0" in text
    assert "in wait_for_a_peer_that_never_comes" in text and "State" not in text
    (seen,) = wait_for(lambda: made.events(TaskSeen), 60, "the event")
    assert (seen.name, seen.working) == ("gen.0.0", False) and seen.doing.startswith("waits")
    assert shimmed.poll() is None


@pytest.mark.parametrize(
    ("line", "doing"),
    [
        ("while :; do :; done", "turns in a loop"),
        ("while :; do head -c 100000 /dev/zero >/dev/null; done", "works"),
        (SLEEP, "waits"),
    ],
)
def test_work_is_told_from_waiting(made: HandMade, line: str, doing: str) -> None:
    program = subprocess.Popen(["bash", "-c", line], start_new_session=True)
    try:
        made.run.stacks.mkdir()
        if line == SLEEP:
            # What it takes to begin is work.
            wait_for(lambda: _stat(program.pid).startswith("(sleep) S"), 60, "its sleep")
        # A machine with other work may leave it too little to be seen.
        told = wait_for(lambda: seen(made, program.pid, or_not=doing != "works"), 60, "work")
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    # Or a loop less than half a core.
    assert told["doing"].startswith(doing) or (doing.startswith("turns") and told["doing"].startswith("waits"))
    assert told["working"] is (doing == "works")


def seen(made: HandMade, pid: int, or_not: bool) -> dict[str, Any] | None:
    """What is told of a program that is looked at; None of one that does not work, unless it need not."""
    argv = [sys.executable, "-I", "-S", str(LOOK), str(made.run.path), "workers", "gen.0.0", str(pid)]
    subprocess.run(argv, check=True, timeout=60)
    told: dict[str, Any] = json.loads((made.run.events / "look.gen.0.0.jsonl").read_text().splitlines()[-1])
    return told if told["working"] or or_not else None


def _stat(pid: int) -> str:
    """The name of a program, and its state."""
    return Path(f"/proc/{pid}/stat").read_text().partition(" ")[2]
