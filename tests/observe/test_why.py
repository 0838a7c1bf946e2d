"""What a run left behind is put together: the first cause, by whichever rank, and never by a harmless line."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.observe.fake_run import FakeRun
from trtdist.events import (
    ControlRefused,
    ControlTaken,
    Restarting,
    RunState,
    StepExited,
    StepStarted,
    SupervisorStarted,
    TaskExited,
)
from trtdist.observe.slurm_words import SlurmWord, ask_nodes
from trtdist.observe.why import Report, explain, to_json

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
HARMLESS = """\
Traceback (most recent call last):
  File "/usr/local/lib/python3.12/dist-packages/some/server.py", line 10, in stream
RuntimeError: response stream is closed
MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD
[TensorRT-LLM][ERROR] CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED not supported
ImportError: failed to import optional module flash_attn
Rank0 Task exit code: 0
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """A run that came up 100 s ago."""
    run = FakeRun.create(tmp_path)
    monkeypatch.setenv("TRTDIST_CLOCK_AHEAD", "100")
    run.ready()
    monkeypatch.delenv("TRTDIST_CLOCK_AHEAD")
    return run


def log(fake: FakeRun, name: str, text: str, ago: float = 0.0) -> None:
    """Write a log that was written so many seconds ago, with its index."""
    path = fake.run.log(name)
    size = path.stat().st_size if path.exists() else 0
    with open(path, "a", encoding="utf-8") as file, open(path.with_suffix(".idx"), "a") as index:
        file.write(text)
        index.write(f"{size} {time.time() - ago:.3f}\n")


def died(fake: FakeRun, name: str, code: int | None, signal: int | None = None, step: str = "workers") -> None:
    """A task dies, and the verdict names it."""
    fake.exit(name, code, signal)
    first = {"name": name, "step": step, "code": code, "signal": signal, "time": time.time(), "log": f"logs/{name}.log"}
    fake.write("supervisor", StepExited(step, code or 1, None), RunState("FAILED"))
    fake.verdict(state="FAILED", exit_code=1, reason=f"{name} died", first=first)


def why(fake: FakeRun, *words: SlurmWord) -> Report:
    """What is told when Slurm says these words of the job, and those with a node of its nodes."""
    if words:
        fake.run.slurm_job.write_text("7\n")
    return explain(
        fake.run,
        lambda job: [word for word in words if not word.node],
        lambda names: [word for word in words if word.node in names],
    )


def test_a_line_of_who_died_says_why(fake: FakeRun) -> None:
    log(fake, "ctx.0.1", f"loading\n\x1b[31m{OOM}\x1b[0m\nRuntimeError: Executor worker returned error\n", ago=2.0)
    died(fake, "ctx.0.1", 1)
    report = why(fake)
    cause = report.cause
    assert cause.certain and cause.signature is not None and cause.hit is not None
    assert (cause.name, cause.signature.code, cause.hit.line) == ("ctx.0.1", "gpu-memory", 2)
    assert cause.sentence.endswith("ended with exit code 1 since the GPU had not enough free memory")
    kinds = [(each.kind, each.name, each.code) for each in report.evidence]
    assert kinds.index(("line", "ctx.0.1", "gpu-memory")) < kinds.index(("end", "ctx.0.1", ""))


def test_a_canary_that_is_done_is_no_part_of_it(fake: FakeRun) -> None:
    fake.write("task.canary", TaskExited("canary", "canary", 1, 0, None))
    died(fake, "gen.0.0", None, 9)
    assert "canary" not in {one.name for one in why(fake).evidence}


def test_the_rank_that_it_began_with_is_named_and_not_the_leader(fake: FakeRun) -> None:
    log(fake, "ctx.0.1", OOM + "\n", ago=30.0)
    log(fake, "ctx.0.0", "RuntimeError: Executor worker returned error\n", ago=1.0)
    died(fake, "ctx.0.0", 1)
    cause = why(fake).cause
    assert cause.name == "ctx.0.1" and cause.certain
    assert "ctx.0.1 on" in cause.sentence and "failed first, since the GPU" in cause.sentence
    assert cause.sentence.endswith("ended with exit code 1")


def test_harmless_lines_say_nothing(fake: FakeRun) -> None:
    log(fake, "ctx.0.1", HARMLESS, ago=1.0)
    died(fake, "ctx.0.1", None, 9)
    report = why(fake)
    assert report.cause.signature is None and not report.cause.certain
    assert report.cause.sentence.endswith("was killed by SIGKILL, and nothing in its log says why")
    assert [each.kind for each in report.evidence if each.kind == "line"] == []


def test_lines_of_long_ago_and_of_the_start_before_do_not_count(fake: FakeRun) -> None:
    log(fake, "ctx.0.1", OOM + "\n", ago=4000.0)
    log(fake, "ctx.0.0", OOM + "\n", ago=50.0)
    fake.start("ctx.0.0")
    died(fake, "ctx.0.0", 3)
    assert why(fake).cause.signature is None


def test_lines_of_another_step_are_no_reason(fake: FakeRun) -> None:
    log(fake, "router", "OSError: [Errno 28] No space left on device\n", ago=1.0)
    died(fake, "ctx.0.0", 3)
    assert why(fake).cause.signature is None


def test_an_error_in_its_own_words_is_told_for_want_of_better(fake: FakeRun) -> None:
    log(fake, "gen.0.0", "ValueError: first\nKeyError: 'second'\n", ago=1.0)
    died(fake, "gen.0.0", 1)
    cause = why(fake).cause
    assert not cause.certain and cause.sentence.endswith("ended with exit code 1 and says: KeyError: 'second'")


def test_a_suspect_is_shown_and_never_called_the_cause(fake: FakeRun) -> None:
    log(fake, "ctx.0.0", "UCX ERROR cuMemImportFromShareableHandle failed: invalid resource handle\n" * 9, ago=1.0)
    died(fake, "ctx.0.0", 3)
    report = why(fake)
    assert report.cause.signature is None
    (suspect,) = report.suspects
    assert (suspect.code, suspect.line, suspect.count) == ("import-handle", 1, 9)


def test_what_srun_printed_says_why_a_task_was_killed(fake: FakeRun) -> None:
    fake.run.log("launch.workers").write_text(
        "0: hello\nslurmstepd: error: Detected 1 oom_kill event in StepId=7.2. Some tasks have been killed.\n"
    )
    died(fake, "ctx.0.0", 137)
    cause = why(fake).cause
    assert cause.certain and cause.signature is not None and cause.signature.code == "host-memory"
    assert "ended with exit code 137 (SIGKILL) since the kernel killed it" in cause.sentence


PYXIS = """\
slurmstepd-gpu2: error: pyxis: child 89 failed with error code: 1
slurmstepd-gpu2: error: pyxis: failed to create container filesystem for image: /i.sqsh
"""
BELOW = "slurmstepd-gpu2: error: pyxis:     Write on output file failed because No space left on device\n"


@pytest.mark.parametrize(("more", "code"), [(BELOW, "disk-full"), ("", "container-unpacked")])
def test_a_container_that_did_not_start_is_told_with_what_enroot_said(fake: FakeRun, more: str, code: str) -> None:
    """Of the launcher of a step that ended as a whole, which has the reason below what failed of it."""
    fake.run.log("launch.workers").write_text(PYXIS + more)
    first = {"name": "workers", "step": "workers", "code": 1, "signal": None, "time": time.time(), "log": ""}
    fake.write("supervisor", StepExited("workers", 1, None), RunState("FAILED"))
    fake.verdict(state="FAILED", exit_code=1, reason="workers ended as a whole", first=first)
    cause = why(fake).cause
    assert cause.signature is not None and cause.signature.code == code
    assert cause.hit is not None and "gpu2" in cause.hit.text


def test_what_slurm_recorded_says_why(fake: FakeRun) -> None:
    died(fake, "ctx.0.0", None, 9)
    word = SlurmWord("workers", time.time(), "step 7.2 (workers) is OUT_OF_MEMORY", "the kernel killed it")
    report = why(fake, SlurmWord("", None, "job 7 is FAILED", ""), word)
    assert report.cause.certain and report.cause.sentence.endswith("was killed by SIGKILL since the kernel killed it")
    assert {each.text for each in report.evidence if each.kind == "slurm"} == {word.text, "job 7 is FAILED"}


HERE = socket.gethostname().split(".")[0]
NODE = """\
NodeName={node} Arch=x86_64 State={state} ThreadsPerCore=1 BootTime=2026-11-25T15:33:48 \
SlurmdStartTime=2026-11-26T07:13:44 CfgTRES=cpu=32 Reason=bad fan [root@2026-11-26T07:20:10]
"""


def test_a_node_that_was_set_down_is_named(fake: FakeRun) -> None:
    died(fake, "workers", 143, None)
    down = SlurmWord("", time.time(), f"node {HERE} is DOWN", f"{HERE} is down (bad fan)", HERE)
    report = why(fake, SlurmWord("", None, "job 7 is NODE_FAIL", "Slurm lost a node"), down)
    assert report.cause.certain and report.cause.sentence.endswith(f"since {HERE} is down (bad fan)")
    assert (HERE, f"node {HERE} is DOWN") in {(each.name, each.text) for each in report.evidence}


@pytest.mark.parametrize(("node", "ago"), [("elsewhere", 0.0), (HERE, 1000.0), (HERE, 200.0)], ids=str)
def test_what_happened_to_a_node_at_another_time_or_where_nobody_was_is_no_reason(
    fake: FakeRun, node: str, ago: float
) -> None:
    died(fake, "workers", 143, None)
    began = SlurmWord(
        "", time.time() - ago, f"slurmd of {node} was started", f"slurmd of {node} was started anew", node
    )
    report = why(fake, SlurmWord("", None, "job 7 is NODE_FAIL", "Slurm lost a node"), began)
    assert report.cause.sentence.endswith("since Slurm lost a node")
    assert began.text not in {each.text for each in report.evidence}


def test_what_scontrol_says_of_nodes() -> None:
    text = NODE.format(node="node1", state="IDLE") + NODE.format(node="node2", state="DOWN+NOT_RESPONDING")
    first, down, second = ask_nodes(["node1", "node2"], lambda words: text)
    assert (first.node, second.node, down.node) == ("node1", "node2", "node2")
    assert (first.meaning, down.meaning) == (
        "slurmd of node1 was started anew",
        "node2 is down (set down by root: bad fan)",
    )
    assert down.at is not None and second.at is not None and down.at - second.at == 386.0


def test_a_job_that_lost_a_node_is_a_sentence_of_its_own(fake: FakeRun) -> None:
    """Slurm tells of it on every node of the job, whichever was lost."""
    other = "slurmstepd-node1: error: *** STEP 7.2 ON node1 CANCELLED AT 2026-11-26T10:38:35 DUE TO NODE FAILURE, SEE\n"
    fake.run.log("launch.etcd").write_text(other)
    fake.run.log("launch.workers").write_text("srun: error: Node failure on node2\n")
    fake.write("supervisor", RunState("FAILED"))
    reason = "job 7 lost node2 (set down by root: bad fan)"
    fake.verdict(state="FAILED", exit_code=1, reason=reason)
    cause = why(fake).cause
    assert cause.sentence == reason and cause.certain
    assert cause.hit is not None and cause.hit.text == "srun: error: Node failure on node2"


def test_nobody_is_asked_about_no_nodes() -> None:
    assert ask_nodes([], lambda words: pytest.fail("it was asked")) == ()


def test_a_run_that_is_up_or_was_stopped_has_no_cause(fake: FakeRun) -> None:
    assert why(fake).cause.sentence == "Nothing has failed: the run is READY"
    fake.write("supervisor", RunState("STOPPING"))
    fake.exit("ctx.0.0", None, 15)
    fake.verdict(state="STOPPED", reason="stopped by `trtdist down`")
    report = why(fake)
    assert report.cause.sentence == "Nothing failed: the run was stopped by `trtdist down`"
    assert report.evidence == ()


def test_the_end_of_a_server_that_was_drained_says_so(fake: FakeRun) -> None:
    fake.write("supervisor", ControlTaken("1", "drain", "gen.0"), ControlTaken("2", "drain", "workers"))
    fake.write("supervisor", ControlRefused("1", "gen.0 is the last generation server"))
    fake.exit("ctx.0.0", 0)
    (end,) = [each for each in why(fake).evidence if each.kind == "end"]
    assert end.text == "ended with exit code 0, after `trtdist drain` had asked it to leave"


def test_a_server_that_may_not_leave_was_not_drained(fake: FakeRun) -> None:
    fake.write("supervisor", ControlTaken("1", "drain", "workers"), ControlRefused("1", "it may not"))
    fake.exit("ctx.0.0", 0)
    assert [each.text for each in why(fake).evidence if each.kind == "end"] == ["ended with exit code 0"]


def test_a_run_that_survived_deaths_says_so(fake: FakeRun) -> None:
    fake.write("supervisor", StepStarted("router", 1, 1), StepStarted("workers", 2, 1))
    told = []
    for deaths in range(3):
        told.append(why(fake).cause.sentence)
        fake.exit("gen.0.0", 3)
        fake.write("supervisor", Restarting("workers", deaths + 1, 3, "gen.0.0 (step workers) ended with exit code 3"))
        fake.write("supervisor", StepExited("workers", None, 9), RunState("STARTING", "workers is being restarted"))
        assert why(fake).cause.sentence == "the run goes on: it is STARTING, workers is being restarted"
        fake.write("supervisor", StepStarted("workers", 3 + deaths, 1))
        fake.start("gen.0.0")
        fake.write("supervisor", RunState("READY"))
    assert told == [
        "Nothing has failed: the run is READY",
        "the run goes on: it is READY, and has survived a death, which a restart followed",
        "the run goes on: it is READY, and has survived 2 deaths, each followed by a restart",
    ]
    assert {each.text for each in why(fake).evidence} == {
        "ended with exit code 3",
        "as a whole was killed by SIGKILL, as trtdist ended what was left of workers",
    }
    fake.write("supervisor", RunState("STOPPING"))
    fake.verdict(state="STOPPED", reason="stopped by `trtdist down`")
    assert why(fake).cause.sentence == (
        "the run was stopped by `trtdist down`; until then it had survived 3 deaths, each followed by a restart"
    )


def test_of_a_run_that_was_queued_again_the_last_attempt_counts(fake: FakeRun) -> None:
    fake.write("supervisor", RunState("INTERRUPTED", "job 7 was preempted by another job"))
    fake.exit("ctx.0.0", None, 15)
    fake.write("supervisor", SupervisorStarted(socket.gethostname(), os.getpid(), 1), RunState("STARTING"))
    fake.start("gen.0.0")
    died(fake, "gen.0.0", 3)
    report = why(fake)
    where = f"gen.0.0 on {socket.gethostname()}"
    assert report.cause.sentence == f"{where} ended with exit code 3, and nothing in its log says why"
    assert {each.name for each in report.evidence} == {"gen.0.0", "workers"}


def test_a_run_that_goes_on_without_a_server_says_so(fake: FakeRun) -> None:
    fake.write("supervisor", RunState("READY", "degraded: gen.1 is gone"))
    assert why(fake).cause.sentence == "the run goes on: it is READY, degraded: gen.1 is gone"


def test_json(fake: FakeRun) -> None:
    log(fake, "ctx.0.1", OOM + "\n", ago=1.0)
    died(fake, "ctx.0.1", 1)
    found = to_json(why(fake))
    assert found["version"] == 1 and found["state"] == "FAILED"
    assert set(found) == {"version", "run_id", "run_dir", "state", "detail", "cause", "evidence", "suspects", "stacks"}
    assert found["cause"]["code"] == "gpu-memory" and found["cause"]["file"] == "logs/ctx.0.1.log"
    assert set(found["cause"]) == {
        "sentence", "name", "time", "certain", "code", "meaning", "remedy", "source", "file", "line",
    }  # fmt: skip
    assert all(
        set(each) == {"time", "kind", "name", "text", "file", "line", "code", "count"} for each in found["evidence"]
    )
