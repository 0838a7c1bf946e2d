"""Reading run directories: real files, real processes."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.observe.fake_run import FakeRun, dead_process
from trtdist.errors import InputError
from trtdist.events import RunState
from trtdist.observe.snapshot import RunReader, to_json
from trtdist.process import ProcessId


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return FakeRun.create(tmp_path)


def look(fake: FakeRun) -> dict[str, Any]:
    return to_json(RunReader(fake.run).look())


def states(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["state"] for each in [*found["services"], *found["servers"], *found["ranks"]]}


def test_a_run_that_is_ready(fake: FakeRun) -> None:
    fake.ready()
    found = look(fake)
    assert found["state"] == "READY"
    assert states(found) == {
        "nats": "READY", "etcd": "READY", "router": "READY", "canary": "WAITING", "ctx.0": "READY", "gen.0": "READY",
        "ctx.0.0": "READY", "ctx.0.1": "READY", "gen.0.0": "READY",
    }  # fmt: skip
    assert found["failure"] is None
    assert found["supervisor"]["alive"] is True


def test_before_the_supervisor_says_anything(fake: FakeRun) -> None:
    assert look(fake)["state"] == "PREPARING"


def test_a_rank_whose_shim_was_killed_makes_a_ready_run_failed(fake: FakeRun) -> None:
    fake.ready()
    fake.start("gen.0.0", dead_process())
    fake.run.log("gen.0.0").write_text("loading\nready\n")
    found = look(fake)
    assert found["state"] == "FAILED"
    assert states(found)["gen.0.0"] == "LOST"
    assert found["failure"]["first"]["name"] == "gen.0.0"
    assert found["failure"]["last_lines"] == ["loading", "ready"]


def test_a_supervisor_that_was_killed(fake: FakeRun) -> None:
    fake.ready(supervisor=dead_process())
    found = look(fake)
    assert found["state"] == "FAILED"
    assert found["failure"]["first"]["name"] == "supervisor"
    assert "trtdist down" in found["failure"]["reason"]
    assert states(found)["gen.0.0"] == "LEFT"


def test_what_the_shims_told_after_the_supervisor_was_killed_is_not_the_cause(fake: FakeRun) -> None:
    fake.ready(supervisor=dead_process())
    fake.exit("gen.0.0", None, 15)
    found = look(fake)
    assert found["failure"]["first"]["name"] == "supervisor"
    assert states(found)["gen.0.0"] == "STOPPED"


def test_a_rank_that_died_before_the_supervisor_was_killed_is_the_cause(fake: FakeRun) -> None:
    fake.ready(supervisor=dead_process())
    fake.exit("gen.0.0", None, 9)
    time.sleep(0.002)
    fake.write("supervisor", RunState("READY", "one more word"))
    found = look(fake)
    assert found["failure"]["first"]["name"] == "gen.0.0"
    assert found["failure"]["first"]["signal"] == 9


def test_a_verdict_is_final(fake: FakeRun) -> None:
    fake.ready()
    first = {"name": "gen.0.0", "step": "workers", "code": None, "signal": 9, "time": 5.0, "log": "logs/gen.0.0.log"}
    fake.verdict(state="FAILED", reason="gen.0.0 was killed", first=first, last_lines=["a", "b"], time=6.0)
    found = look(fake)
    assert found["state"] == "FAILED"
    assert found["failure"]["reason"] == "gen.0.0 was killed"
    assert found["failure"]["last_lines"] == ["a", "b"]
    assert found["failure"]["first"]["log"] == str(fake.run.log("gen.0.0"))
    assert found["times"]["ended"] == 6.0


def test_a_run_that_was_taken_down(fake: FakeRun) -> None:
    fake.ready()
    fake.write("supervisor", RunState("STOPPING"))
    for name in ("router", "ctx.0.0", "ctx.0.1", "gen.0.0", "nats", "etcd"):
        fake.exit(name, 0)
    fake.verdict()
    found = look(fake)
    assert found["state"] == "STOPPED"
    assert {state for name, state in states(found).items() if name != "canary"} == {"STOPPED"}
    assert found["failure"] is None


def test_endpoints_come_from_what_was_resolved(fake: FakeRun) -> None:
    fake.run.resolved_env.write_text(
        "NATS_SERVER=nats://127.0.0.1:4223\nTRTDIST_HEAD_ADDRESS=127.0.0.1\nETCD_ENDPOINTS=http://127.0.0.1:2380\n"
    )
    (fake.run.secrets / "nats.user").write_text("u")
    (fake.run.secrets / "nats.password").write_text("p")
    ends = look(fake)["endpoints"]
    assert ends["nats"]["url"] == "nats://127.0.0.1:4223"
    assert Path(ends["nats"]["password_file"]).read_text() == "p"
    assert ends["etcd"]["url"] == "http://127.0.0.1:2380"
    assert ends["front_door"]["instance_prefix"] == f"{fake.run.run_id}/components/router/generate:"


def test_looking_again_reads_only_what_is_new(fake: FakeRun) -> None:
    reader = RunReader(fake.run)
    assert reader.look().status.state == "PREPARING"
    fake.ready()
    assert reader.look().status.state == "READY"
    fake.write("supervisor", RunState("STOPPING"))
    assert reader.look().status.state == "STOPPING"


def test_a_process_that_ends_between_two_looks_is_never_lost(fake: FakeRun) -> None:
    fake.ready()
    child = subprocess.Popen(["sleep", "60"])
    identity = ProcessId.of(child.pid)
    fake.start("gen.0.0", identity)
    reader = RunReader(fake.run)
    assert reader.look().status.state == "READY"
    child.kill()
    child.wait()
    assert states(to_json(reader.look()))["gen.0.0"] == "LOST"


def test_a_hundred_thousand_canaries_are_read_in_a_moment(fake: FakeRun) -> None:
    fake.ready()
    line = json.dumps({"time": 1.0, "writer": "canary", "type": "canary_passed", "context": "", "generation": "gen.0",
                       "text": "x" * 100, "seconds": 0.1}) + "\n"  # fmt: skip
    with open(fake.run.event_file("canary"), "a") as file:
        file.write(line * 100_000)
    began = time.process_time()
    for _ in range(100_000):
        json.loads(line)
    parsed = time.process_time()
    assert look(fake)["state"] == "READY"
    # Sooner than all of them could be parsed, on whatever machine.
    assert time.process_time() - parsed < parsed - began


@pytest.mark.parametrize("text", ["", "{", '{"version": 99}', "[]", '{"version": 1}'])
def test_a_plan_that_cannot_be_read_is_one_sentence(fake: FakeRun, text: str) -> None:
    fake.run.plan.write_text(text)
    with pytest.raises(InputError, match="was not written by this version"):
        RunReader(fake.run)


def test_no_plan(fake: FakeRun) -> None:
    fake.run.plan.unlink()
    with pytest.raises(InputError, match="still being written"):
        RunReader(fake.run)
