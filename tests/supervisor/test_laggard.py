"""Which rank is named when a run was not ready in time and nothing died."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.supervisor.simulation import make_plan
from trtdist.rundir import RunDir
from trtdist.supervisor import verdict
from trtdist.supervisor.facts import Death, Outcome
from trtdist.supervisor.laggard import laggard

DEVICE = "12:00:00 tensorrt_llm engine: ctx.0.0 takes device 0 of the 2 it sees\n"
WEIGHTS = DEVICE + "[11/25/2026-12:00:00] [TRT-LLM] [I] Use 2.05 GB for model weights.\n"
INIT = WEIGHTS + "[11/25/2026-12:00:01] [TRT-LLM] [RANK 1] [I] Model init total -- 0.10s\n"
LOADED = INIT + "Engine loaded and ready to serve...\n"
PLAN = make_plan()  # ctx.0 with two ranks, gen.0 with one


@pytest.mark.parametrize(
    ("logs", "behind", "name"),
    [
        ({"ctx.0.0": WEIGHTS, "ctx.0.1": DEVICE}, ("ctx.0",), "ctx.0.1"),
        ({"ctx.0.0": INIT, "ctx.0.1": WEIGHTS}, ("ctx.0",), "ctx.0.1"),
        ({"ctx.0.0": DEVICE}, ("ctx.0",), "ctx.0.1"),
        ({"ctx.0.0": DEVICE, "ctx.0.1": DEVICE}, ("ctx.0",), "ctx.0"),
        ({"ctx.0.0": LOADED, "ctx.0.1": DEVICE}, ("ctx.0",), "ctx.0"),
        ({"ctx.0.0": INIT, "ctx.0.1": INIT, "gen.0.0": DEVICE}, ("ctx.0", "gen.0"), "gen.0.0"),
        ({"ctx.0.0": DEVICE, "ctx.0.1": DEVICE, "gen.0.0": DEVICE}, ("ctx.0", "gen.0"), None),
        ({}, (), None),
    ],
)
def test_who_shows_the_least_progress(logs: dict[str, str], behind: tuple[str, ...], name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.logs.mkdir()
    for log, text in logs.items():
        run.log(log).write_text(text)
    found = laggard(run, PLAN, behind)
    assert (None if found is None else found.name) == name


def test_the_verdict_has_its_name_and_its_last_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.logs.mkdir()
    run.log("ctx.0.0").write_text(WEIGHTS)
    outcome = Outcome("TIMEOUT", 3, "not ready within 4 s: ctx.0 got as far as 'process'", behind=("ctx.0",))
    silent = verdict.slowest(run, PLAN, outcome.behind)
    assert verdict.compose(outcome, run, PLAN, silent)["reason"].endswith("; behind is ctx.0.1, whose log is empty")
    run.log("ctx.0.1").write_text(DEVICE)
    found = verdict.compose(outcome, run, PLAN, verdict.slowest(run, PLAN, outcome.behind))
    assert found["reason"].endswith(f"'process'; behind is ctx.0.1, whose log ends with {DEVICE.strip()!r}")
    assert (found["first"]["name"], found["first"]["log"]) == ("ctx.0.1", "logs/ctx.0.1.log")
    assert found["last_lines"] == [DEVICE.strip()]


def test_what_a_launch_line_printed_is_not_taken_for_the_words_of_a_rank(tmp_path: Path) -> None:
    """It ends with what came of being stopped, as a rule."""
    run = RunDir(tmp_path)
    run.logs.mkdir()
    run.log("launch.workers").write_text("prterun detected that one or more processes exited with non-zero status\n")
    first = Death("ctx.0.1", "workers", None, None, 0.0, "was still on its way", 0)
    late = verdict.compose(Outcome("TIMEOUT", 3, "late", first=first), run, PLAN)
    assert late["reason"] == "late"
    assert late["first"]["log"] == "logs/launch.workers.log" and late["last_lines"]


def test_stacks_that_it_was_asked_for_are_not_its_last_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.logs.mkdir()
    stacks = (
        'Current thread 0x00007fb004458c40 (most recent call first):\n  File "<frozen runpy>", line 198 in _run_code\n'
    )
    run.log("ctx.0.1").write_text(DEVICE + 30 * stacks)
    first = Death("ctx.0.1", "ctx.0", None, 9, 0.0, "was killed", 0)
    late = verdict.compose(Outcome("TIMEOUT", 3, "late", first=first), run, PLAN)
    assert late["reason"] == f"late, and the last line of its log is {DEVICE.strip()!r}"
    assert late["last_lines"] == [DEVICE.strip()]
    died = verdict.compose(Outcome("FAILED", 1, "died", first=first), run, PLAN)
    assert "_run_code" in died["last_lines"][-1]
