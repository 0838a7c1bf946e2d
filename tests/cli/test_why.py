"""`trtdist why` as a person and as a program uses it, on runs that really failed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.supervisor.runs import SLEEP, HandMade, wait_for
from trtdist.cli.why import command
from trtdist.errors import InputError

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture
def made(tmp_path: Path) -> Iterator[HandMade]:
    run = HandMade(tmp_path)
    yield run
    run.clean()


def why(made: HandMade, *words: str) -> str:
    done = CliRunner().invoke(command, [str(made.run.path), *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_rank_that_runs_out_of_memory(made: HandMade) -> None:
    go = f"until [ -e {made.folder}/go ]; do sleep 0.02; done"
    made.program("workers", SLEEP, f"echo loading; {go}; echo '{OOM}' >&2; exit 1", SLEEP)
    supervisor = made.up()
    (made.folder / "go").touch()
    assert supervisor.wait(60) == 1
    text = why(made)
    assert text.splitlines()[0] == f"{made.run.run_id} is FAILED; files are in {made.run.path}"
    assert "first cause: ctx.0.1 on here ended with exit code 1 since the GPU had not enough free memory" in text
    assert "there: logs/ctx.0.1.log:2 [gpu-memory]" in text
    assert "remedy: lower kv_cache_config.free_gpu_memory_fraction" in text
    found = json.loads(why(made, "--json"))
    assert found["cause"]["name"] == "ctx.0.1" and found["cause"]["certain"] is True
    (end,) = [each for each in found["evidence"] if each["kind"] == "end" and each["name"] == "ctx.0.1"]
    told = (made.run.path / end["file"]).read_text().splitlines()[end["line"] - 1]
    assert json.loads(told)["type"] == "task_exited"


def test_stacks_of_the_cause_alone_unless_all_are_wanted(made: HandMade) -> None:
    made.program("workers", SLEEP, "exit 1", SLEEP)
    made.supervise().wait(60)
    made.run.stacks.mkdir()
    for name in ("ctx.0.0", "ctx.0.1", "gen.0.0"):
        (made.run.stacks / f"{name}.txt").write_text(f"{name} waits\n")
    text = why(made)
    assert "  ctx.0.1 waits" in text and "ctx.0.0 waits" not in text and "gen.0.0 waits" not in text
    assert text.endswith("stacks of 2 other programs; --all shows them\n")
    everything = why(made, "--all")
    assert all(f"  {name} waits" in everything for name in ("ctx.0.0", "ctx.0.1", "gen.0.0"))
    assert len(json.loads(why(made, "--json"))["stacks"]) == 3


def test_a_rank_that_was_killed_without_a_word(made: HandMade) -> None:
    made.program("workers", "echo 'Traceback (most recent call last):'; " + SLEEP)
    supervisor = made.up()
    wait_for(lambda: made.run.log("gen.0.0").read_text(), 60, "its first line")
    os.kill(made.task("gen.0.0").pid, signal.SIGKILL)
    assert supervisor.wait(60) == 1
    text = why(made)
    assert "first cause: gen.0.0 on here was killed by SIGKILL, and nothing in its log says why" in text
    assert "remedy" not in text


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
