"""Runs beside each other: one is made to take over from another, and who is meant by whom."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from tests.supervisor.simulation import make_plan
from trtdist import chain
from trtdist.newrun import point_to
from trtdist.observe.living import find_serving_run
from trtdist.observe.runs import find_run
from trtdist.plan import to_json
from trtdist.rundir import LATEST, RunDir
from trtdist.supervisor import resumption, verdict
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.journal import Journal
from trtdist.supervisor.local_head import LocalHead
from trtdist.supervisor.succeeding import Succeeding
from trtdist.supervisor.succession import make_successor, original
from trtdist.supervisor.surroundings import Alone

NOW = 1_795_600_000.0


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run as it lies there while it is up."""
    found = RunDir(tmp_path / "sim-20260101-000000-abcd")
    for folder in (found.scripts, found.secrets, found.site / "trtdist", found.logs, found.events, found.control):
        folder.mkdir(mode=0o700, parents=True)
    found.plan.write_text(to_json(make_plan()))
    found.topology.write_text("name: sim\n")
    found.given_env.write_text("TRTDIST_PYTHON=/usr/bin/python3\nHF_HOME=/cache\n")
    found.resolved_env.write_text("NATS_SERVER=tls://10.0.0.1:4222\n")
    (found.path / "job.sbatch").write_text("#!/usr/bin/env bash\n")
    (found.secrets / "http.keys").write_text("key\n")
    (found.secrets / "http.keys").chmod(0o600)
    (found.scripts / "supervisor.sh").write_text("exec true\n")
    (found.site / "trtdist" / "__init__.py").write_text("")
    found.log("nats").write_text("old\n")
    found.slurm_job.write_text("7\n")
    point_to(found)
    return found


def ended(run: RunDir, state: str, reason: str = "because") -> None:
    verdict.write_once(run, verdict.compose(Outcome(state, 0, reason), run, None))


def test_it_has_the_same_files_and_credentials_and_nothing_that_happened(run: RunDir) -> None:
    made = make_successor(run, NOW)
    assert made.run_id.startswith("sim-2026") and made.path.parent == run.path.parent
    for path in (run.plan, run.topology, run.given_env, run.path / "job.sbatch", run.secrets / "http.keys"):
        assert (made.path / path.relative_to(run.path)).read_bytes() == path.read_bytes()
    assert (made.site / "trtdist" / "__init__.py").exists() and (made.scripts / "supervisor.sh").exists()
    assert [list(folder.iterdir()) for folder in (made.logs, made.events, made.control)] == [[], [], []]
    assert not made.resolved_env.exists() and not made.slurm_job.exists()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made.path, made.secrets)] == [0o700, 0o700]
    assert stat.S_IMODE((made.secrets / "http.keys").stat().st_mode) == 0o600
    assert (chain.successor(run), chain.predecessor(made)) == (made, run)


def test_its_job_has_the_environment_of_the_first_submission(run: RunDir) -> None:
    users = {"HOME": "/home/me", "TRTDIST_RUNS": "/shared/runs", "SLURM_CONF": "/etc/slurm.conf", "PYTHONPATH": "/mine"}
    added = {"SLURM_JOB_ID": "7", "SBATCH_PARTITION": "p", "SLURMD_NODENAME": "n1", "OMPI_X": "1", "HF_HOME": "/cache"}
    added |= {"TRTDIST_JOB_NODELIST": "n[1-2]", "TRTDIST_PYTHON": "/usr/bin/python3"}
    path = os.pathsep.join([str(run.site), users["PYTHONPATH"]])
    assert original(run, {**users, **added, "PYTHONPATH": path}) == users
    assert original(run, {"PYTHONPATH": str(run.site)}) == {}


def test_clients_mean_the_first_until_the_next_has_taken_over(run: RunDir) -> None:
    environ = {"TRTDIST_RUNS": str(run.path.parent)}
    made = make_successor(run, NOW)
    assert chain.in_waiting(made) and not chain.in_waiting(run)
    for selector in (None, "sim", LATEST, run.run_id):
        assert find_run(selector, environ) == run
    assert find_run(made.run_id, environ) == made
    assert chain.take_over(made) == run
    assert chain.take_over(made) is None
    assert not chain.in_waiting(made)
    for selector in (None, "sim", LATEST):
        assert find_run(selector, environ) == made
    # A run that is named stays what it is; who serves in its place is another question.
    assert find_run(run.run_id, environ) == run
    assert find_serving_run(run.run_id, environ) == chain.newest(run) == made
    third = make_successor(made, NOW + 60)
    assert chain.successors(run) == [made, third]
    assert chain.take_over(third) == made
    assert chain.newest(run) == third


def test_a_newer_run_stays_the_latest(run: RunDir) -> None:
    made = make_successor(run, NOW)
    other = make_successor(made, NOW + 1)
    point_to(other)
    assert chain.take_over(made) == run
    assert os.readlink(run.path.with_name(LATEST)) == other.run_id


def test_one_whose_predecessor_ended_otherwise_is_a_run_like_any_other(run: RunDir) -> None:
    made = make_successor(run, NOW)
    ended(run, "TIMEOUT")
    assert not chain.in_waiting(made)
    assert not resumption.unwanted(made)
    assert find_run("sim", {"TRTDIST_RUNS": str(run.path.parent)}) == made
    assert chain.take_over(made) == run


def test_one_whose_predecessor_was_stopped_does_not_come_up(run: RunDir) -> None:
    made = make_successor(run, NOW)
    assert not resumption.unwanted(made)
    ended(run, "STOPPED")
    assert resumption.unwanted(made)
    found = verdict.read(made)
    assert found is not None and found["state"] == "STOPPED" and run.run_id in found["reason"]


def test_one_in_whose_place_another_was_made_neither_comes_up_nor_takes_over(run: RunDir) -> None:
    made, other = make_successor(run, NOW), make_successor(run, NOW + 1)
    assert chain.displaced(made) == f"{run.run_id} waits for it no longer"
    assert chain.take_over(made) is None and chain.heir(run) is None
    assert chain.take_over(other) == run
    assert chain.displaced(made) == f"{other.run_id} has taken over from {run.run_id}"
    assert (chain.displaced(other), chain.displaced(run)) == ("", "")
    assert resumption.unwanted(made) and not resumption.unwanted(other)
    found = verdict.read(made)
    assert found is not None and found["reason"].startswith(f"not needed any more: {other.run_id} has taken over")


def test_one_that_was_given_up_does_not_take_over(run: RunDir) -> None:
    made = make_successor(run, NOW)
    ended(made, "FAILED")
    assert chain.displaced(made) == "it was given up while it came up"
    assert chain.take_over(made) is None


def test_a_take_over_that_fails_is_tried_again(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_successor(run, NOW)
    # In the way of the file that says so.
    run.handed_over.mkdir()

    async def main() -> None:
        work = Succeeding(made, Alone(), LocalHead(made), Journal(made.event_file("supervisor"))).take_over()
        taking = asyncio.ensure_future(work)
        said = ""
        until = asyncio.get_running_loop().time() + 60
        while "cannot take over yet" not in said and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().err
        assert not taking.done()
        run.handed_over.rmdir()
        assert await asyncio.wait_for(taking, 60) == ""

    asyncio.run(main())
    assert chain.heir(run) == made


def test_one_that_has_taken_over_is_wanted_though_its_predecessor_is_stopped(run: RunDir) -> None:
    made = make_successor(run, NOW)
    chain.take_over(made)
    ended(run, "STOPPED", "handed over")
    assert not resumption.unwanted(made)
    assert not resumption.unwanted(run)


def test_a_job_that_is_queued_again_leaves_it_to_the_run_that_was_asked_for(run: RunDir) -> None:
    made = make_successor(run, NOW)
    assert not resumption.resume(run, 1)
    found = verdict.read(run)
    assert found is not None and (found["state"], found["reason"]) == ("INTERRUPTED", f"goes on as {made.run_id}")
    assert not resumption.unwanted(made)
    run.verdict.unlink()
    chain.call_off(run, made)
    assert resumption.resume(run, 1)
    ended(made, "FAILED")
    assert resumption.resume(run, 1)


def test_a_job_that_is_queued_again_after_it_has_handed_over_does_not_serve_again(run: RunDir) -> None:
    made = make_successor(run, NOW)
    chain.take_over(made)
    ended(made, "FAILED")
    assert not resumption.resume(run, 1)


@pytest.mark.parametrize("name", ["", "../elsewhere", ".hidden", "gone-20260101-000000-0000"])
def test_a_file_that_names_no_run_beside_is_none(run: RunDir, name: str) -> None:
    run.next_run.write_text(name + "\n")
    run.handed_over.write_text(name + "\n")
    assert (chain.successor(run), chain.heir(run), chain.newest(run), chain.successors(run)) == (None, None, run, [])


def test_runs_that_name_each_other_end_somewhere(run: RunDir) -> None:
    made = make_successor(run, NOW)
    chain.take_over(made)
    made.handed_over.write_text(run.run_id)
    made.next_run.write_text(run.run_id)
    assert chain.newest(run) in (run, made)
    assert chain.successors(run) == [made]
