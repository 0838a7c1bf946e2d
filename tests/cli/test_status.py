"""`trtdist status` over run directories that no run wrote."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.observe.fake_run import RUN_ID, FakeRun
from trtdist.cli.status import command
from trtdist.errors import InputError
from trtdist.events import HandOverPlanned, Successor, TaskExited, WrittenOff
from trtdist.observe.living import find_live_run
from trtdist.observe.times import clock
from trtdist.plan import to_json
from trtdist.process import ProcessId


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path))
    return FakeRun.create(tmp_path)


def status(*args: str) -> str:
    found = CliRunner().invoke(command, args, catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def test_for_a_person(fake: FakeRun) -> None:
    fake.ready()
    text = status()
    assert text.startswith(f"{RUN_ID}  READY, came up in ")
    assert "not TensorRT-LLM" in text
    assert "component router, endpoint generate" in text
    rows = [line.split() for line in text.splitlines() if line.startswith(("ctx", "gen"))]
    assert [row[0] for row in rows] == ["ctx.0.0", "ctx.0.1", "gen.0.0"]
    assert rows[0][2] == "yes" and rows[0][-1] == "READY"
    run = len(str(fake.run.path))
    assert max(len(line) for line in text.splitlines()) <= max(80, run + 14), "it fits on a terminal"
    assert "\x1b" not in text


def test_ranks_that_a_run_has_lost_are_not_counted_as_there(fake: FakeRun) -> None:
    steps = tuple(replace(step, critical=step.kind != "workers") for step in fake.plan.steps)
    fake.run.plan.write_text(to_json(replace(fake.plan, steps=steps)))
    fake.ready()
    assert "3 ranks, runtime" in status()
    fake.exit("gen.0.0", 1)
    fake.write("supervisor", WrittenOff("workers", "gen.0.0 ended with exit code 1"))
    text = status()
    assert text.startswith(f"{RUN_ID}  READY")
    assert "3 ranks of which 1 is gone, runtime" in text


def test_a_failure_says_who_and_shows_the_last_lines(fake: FakeRun) -> None:
    fake.ready()
    first = {"name": "gen.0.0", "step": "workers", "code": None, "signal": 9, "time": 5.0, "log": "logs/gen.0.0.log"}
    fake.verdict(state="FAILED", reason="gen.0.0 was killed by SIGKILL", first=first, last_lines=["what it said"])
    assert status("tiny").endswith("gen.0.0 was killed by SIGKILL\nthe end of logs/gen.0.0.log:\n  what it said\n")


def test_a_run_that_has_ended_is_not_reached_any_more(fake: FakeRun) -> None:
    fake.ready()
    assert "front door" in status() and "NATS" in status()
    fake.verdict()
    assert "front door" not in status() and "NATS" not in status()


def test_a_front_end_on_the_loopback_of_another_node_says_how_it_is_reached(fake: FakeRun) -> None:
    fake.ready()
    for node, lines in (
        (socket.gethostname(), ["  HTTP        http://127.0.0.1:4000/v1"]),
        ("n1", ["  HTTP        http://127.0.0.1:4000/v1 on n1", f"by `trtdist forward {RUN_ID} --to http`"]),
    ):
        text = f"TRTDIST_NODES='{node} n2'\nTRTDIST_HTTP_PORT=4000\nTRTDIST_HTTP_URL=http://127.0.0.1:4000\n"
        fake.run.resolved_env.write_text(text)
        shown = [line for line in status().splitlines() if "http" in line]
        assert len(shown) == len(lines) and all(map(str.endswith, shown, lines))


def test_json_has_what_the_documentation_promises(fake: FakeRun) -> None:
    fake.ready()
    found = json.loads(status("--json"))
    assert set(found) == {
        "version", "run_id", "run_dir", "name", "state", "detail", "engine", "model", "runtime", "launch",
        "slurm_job_id", "slurm_job", "supervisor", "times", "endpoints", "servers", "ranks", "services", "failure",
        "previous_run", "next_run", "next_due",
    }  # fmt: skip
    assert set(found["ranks"][0]) == {
        "name", "server", "role", "rank", "leader", "node", "gpu", "pid", "state", "log",
    }  # fmt: skip
    documented = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for key in (*found, *found["ranks"][0], *found["endpoints"]["nats"], *found["endpoints"]["front_door"]):
        assert f'"{key}"' in documented


def test_watching_ends_with_the_supervisor(fake: FakeRun) -> None:
    supervisor = subprocess.Popen(["sleep", "1000"])
    fake.ready(ProcessId.of(supervisor.pid))
    program = [sys.executable, "-c", "from trtdist.cli.main import main; main()", "status", "--watch", "--json"]
    child = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert json.loads(child.stdout.readline())["state"] == "READY"
        fake.write("task.gen.0.0", TaskExited("workers", "gen.0.0", os.getpid(), None, signal.SIGKILL))
        failed = json.loads(child.stdout.readline())
        assert (failed["state"], failed["times"]["ended"]) == ("FAILED", None)
        assert failed["failure"]["reason"] == "gen.0.0 (step workers) was killed by SIGKILL"
        fake.verdict(state="FAILED", reason=failed["failure"]["reason"], time=7.0)
        assert json.loads(child.stdout.readline())["times"]["ended"] == 7.0
        supervisor.kill()
        supervisor.wait()
        assert json.loads(child.stdout.readline())["supervisor"]["alive"] is False
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.communicate()
        supervisor.kill()
        supervisor.wait()


def test_all_runs(fake: FakeRun, tmp_path: Path) -> None:
    fake.ready()
    newer = FakeRun.create(tmp_path, run_id="other-20261124-101600-0001")
    newer.verdict(state="FAILED", reason="because", time=7.0)
    (tmp_path / "broken-20261124-101400-0002").mkdir()
    lines = [line.split()[:2] for line in status("--all").splitlines()]
    assert lines == [[newer.run.run_id, "FAILED"], [RUN_ID, "READY"], ["broken-20261124-101400-0002", "UNKNOWN"]]
    first, second, _ = json.loads(status("--all", "--json"))["runs"]
    assert (first["state"], first["detail"], first["ended"], first["name"]) == ("FAILED", "because", 7.0, "other")
    assert second["begun"] == time.mktime((2026, 11, 24, 10, 15, 0, 0, 0, -1))
    with pytest.raises(InputError, match="neither a RUN nor --watch"):
        status("--all", "tiny")


def test_other_runs_that_are_up_are_named(fake: FakeRun, tmp_path: Path) -> None:
    fake.ready()
    newer = FakeRun.create(tmp_path, run_id="other-20261124-101600-0001")
    newer.verdict()
    found = CliRunner().invoke(command, [], catch_exceptions=False)
    assert found.stdout.startswith(f"{newer.run.run_id}  STOPPED")
    assert found.stderr == f"another run is still up: {RUN_ID}\n"
    assert find_live_run(None, os.environ).run_id == RUN_ID
    assert find_live_run("other", os.environ).run_id == newer.run.run_id
    assert find_live_run("latest", os.environ).run_id == newer.run.run_id


def test_a_name_means_its_newest_run_that_is_up(fake: FakeRun, tmp_path: Path) -> None:
    fake.ready()
    newer = FakeRun.create(tmp_path, run_id="tiny-20261124-101600-0001")
    newer.verdict()
    assert find_live_run("tiny", os.environ).run_id == RUN_ID
    fake.verdict()
    assert find_live_run("tiny", os.environ).run_id == newer.run.run_id


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Successor("next", "8", "asked"), "next (job 8), which is to take over"),
        (Successor("next", "8", "ready"), "next (job 8), which has taken over"),
        (Successor("", "", "lost", "no nodes"), "which will not take over: no nodes"),
    ],
)
def test_the_run_that_is_to_take_over_is_shown(fake: FakeRun, event: Successor, line: str) -> None:
    fake.ready()
    assert "after it" not in status() and "before it" not in status()
    fake.write("supervisor", event)
    assert f"  after it    {line}\n" in status()
    found = json.loads(status("--json"))
    assert found["next_run"] == asdict(event)
    assert found["previous_run"] is None


def test_when_the_next_job_is_submitted(fake: FakeRun) -> None:
    fake.ready()
    at = time.time() + 7230
    fake.write("supervisor", HandOverPlanned(at))
    assert f"  after it    the next job is submitted at {clock(at)}, in 2 h 0 min\n" in status()
    assert json.loads(status("--json"))["next_due"] == at
    fake.write("supervisor", HandOverPlanned(time.time() - 1))
    assert "  after it    the next job is submitted once this run is READY\n" in status()
    fake.write("supervisor", Successor("next", "8", "asked"))
    assert "is submitted" not in status()
