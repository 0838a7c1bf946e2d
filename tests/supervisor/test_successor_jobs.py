"""The job of a run that is to take over: asked for, followed, given up and called off, whatever Slurm answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.supervisor.simulation import make_plan
from tests.supervisor.stand_in_slurm import StandInSlurm
from trtdist import chain
from trtdist.events import EventWriter, SupervisorStarted
from trtdist.plan import to_json
from trtdist.rundir import RunDir
from trtdist.slurm.submission import Submission
from trtdist.supervisor import in_job, messages, resumption, succession, verdict
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.handover_messages import SuccessorAsked, SuccessorLost, SuccessorReady
from trtdist.supervisor.in_job import InJob
from trtdist.supervisor.succession import Succession

SECONDS = 60.0
QUEUED = 'case "$*" in *%Z*) echo "8|$(cat {0}/made)";; *) echo "8|PENDING|Resources|N/A|N/A||me|sim";; esac'
# As Slurm answers of a job that it does not know.
UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
DOWN = "echo 'error: Unable to contact slurm controller' >&2; exit 1"
NOTE = "for last; do :; done; echo $last >{0}/made\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that is up."""
    found = RunDir(tmp_path / "runs" / "sim-20260101-000000-abcd")
    for folder in (found.scripts, found.secrets, found.site, found.logs, found.events, found.control):
        folder.mkdir(mode=0o700, parents=True)
    found.plan.write_text(to_json(make_plan()))
    for path in (found.topology, found.given_env, found.path / "job.sbatch"):
        path.write_text("")
    return found


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInSlurm:
    """Takes a job, which then waits."""
    found = StandInSlurm(tmp_path / "slurm", monkeypatch)
    found.does("sbatch", f"{NOTE.format(tmp_path)}echo 8")
    found.does("squeue", QUEUED.format(tmp_path))
    monkeypatch.setattr(succession, "_PACE", 0.01)
    monkeypatch.setattr(succession, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(succession, "_LATE", 0.05)
    monkeypatch.setattr(succession, "_AGAIN", 0.05)
    return found


@pytest.fixture
def said() -> list[str]:
    return []


async def until(holds: Callable[[], bool]) -> None:
    end = asyncio.get_running_loop().time() + SECONDS
    while not holds():
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


async def following(events: AsyncIterator[messages.Input], heard: list[messages.Input]) -> None:
    async for event in events:
        heard.append(event)


def all_of(asked: Succession) -> list[messages.Input]:
    """What is told until there is no more."""
    heard: list[messages.Input] = []
    asyncio.run(asyncio.wait_for(following(asked.begin(), heard), SECONDS))
    return heard


def called_off(asked: Succession | InJob, begin: Callable[[], AsyncIterator[messages.Input]], ready: Path) -> None:
    """Ask, and call it off once `ready` is there."""

    async def main() -> None:
        task = asyncio.ensure_future(following(begin(), []))
        await until(ready.exists)
        await asyncio.wait_for(asked.call_off(), SECONDS)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def made_by(run: RunDir) -> RunDir:
    found = chain.successor(run)
    assert found is not None
    return found


def how_it_ended(run: RunDir) -> tuple[str, str]:
    found = verdict.read(run)
    assert found is not None
    return found["state"], found["reason"]


def test_a_job_that_slurm_does_not_know_any_more_is_given_up_for_good(
    run: RunDir, slurm: StandInSlurm, said: list[str]
) -> None:
    slurm.does("squeue", UNKNOWN)
    asked, lost = all_of(Succession(run, said.append))
    made = made_by(run)
    assert asked == SuccessorAsked(made.run_id, "8")
    assert lost == SuccessorLost(f"job 8 of {made.run_id} has ended, and it left no verdict")
    assert how_it_ended(made)[0] == "FAILED"
    assert slurm.calls("scancel") == ["8"]
    # It was asked twice, and should the job be there all the same, it does not serve.
    assert len(slurm.calls("squeue")) == 2
    assert chain.displaced(made) == f"{run.run_id} waits for it no longer"
    assert chain.take_over(made) is None and chain.heir(run) is None


def test_a_job_that_shows_up_again_is_awaited(run: RunDir, slurm: StandInSlurm, tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; {UNKNOWN}; }}\n"
    slurm.does("squeue", once + QUEUED.format(tmp_path))

    async def main() -> list[messages.Input]:
        heard: list[messages.Input] = []
        task = asyncio.ensure_future(following(Succession(run, print).begin(), heard))
        await until(lambda: len(slurm.calls("squeue")) > 4)
        chain.take_over(made_by(run))
        await asyncio.wait_for(task, SECONDS)
        return heard

    assert isinstance(asyncio.run(main())[-1], SuccessorReady)
    assert slurm.calls("scancel") == []


def test_one_that_took_over_when_its_job_had_gone_has_taken_over(
    run: RunDir, slurm: StandInSlurm, tmp_path: Path
) -> None:
    """What says so is written while Slurm is asked for the last time."""
    heir = f"test -e {tmp_path}/once && basename $(cat {tmp_path}/made) >{run.handed_over}; touch {tmp_path}/once\n"
    slurm.does("squeue", heir + UNKNOWN)
    assert isinstance(all_of(Succession(run, print))[-1], SuccessorReady)
    assert (slurm.calls("scancel"), made_by(run).verdict.exists()) == ([], False)


def test_of_a_job_whose_id_cannot_be_kept_nothing_stays(
    run: RunDir, slurm: StandInSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(path: Path, text: str) -> None:
        if path.name == "slurm.job":
            raise OSError(28, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr(succession, "write_atomic", on_a_full_disk)
    (lost,) = all_of(Succession(run, print))
    assert isinstance(lost, SuccessorLost) and "No space left on device" in lost.reason
    assert slurm.calls("scancel") == ["8"]
    assert [path.name for path in run.path.parent.iterdir()] == [run.run_id]
    assert chain.successor(run) is None


def test_the_next_job_is_submitted_as_the_first_was(
    run: RunDir, slurm: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"SBATCH_PARTITION": "long", "SBATCH_EXPORT": "NONE", "HOME": "/home/me"}
    run.submission.write_text(Submission.of(["--nodes=2", "--time=02:00:00"], first).written())
    monkeypatch.setenv("SBATCH_MEM_BIND", "of the job itself")
    slurm.does("sbatch", f"env | grep ^SBATCH_ | sort >{tmp_path}/environ\n{NOTE.format(tmp_path)}echo 8")
    slurm.does("squeue", UNKNOWN)
    all_of(Succession(run, print))
    made = made_by(run)
    ours = f"--chdir={made.path} --output=/dev/null {made.path}/job.sbatch {made.path}"
    assert slurm.calls("sbatch") == [f"--parsable --nodes=2 --time=02:00:00 {ours}"]
    assert (tmp_path / "environ").read_text() == "SBATCH_EXPORT=NONE\nSBATCH_PARTITION=long\n"
    # The one after it, too.
    assert made.submission.read_text() == run.submission.read_text()


def test_a_run_that_was_submitted_by_hand_is_followed_by_its_script_alone(run: RunDir, slurm: StandInSlurm) -> None:
    slurm.does("squeue", UNKNOWN)
    all_of(Succession(run, print))
    assert slurm.calls("sbatch")[0].startswith("--parsable --chdir=")


@pytest.mark.parametrize("words", [f"{DOWN}", "echo 'Submitted, thank you'"])
def test_a_job_that_sbatch_does_not_tell_of_is_found_by_its_folder(
    run: RunDir, slurm: StandInSlurm, tmp_path: Path, words: str
) -> None:
    slurm.does("sbatch", NOTE.format(tmp_path) + words)

    async def main() -> None:
        heard: list[messages.Input] = []
        task = asyncio.ensure_future(following(Succession(run, print).begin(), heard))
        await until(lambda: heard == [SuccessorAsked(made_by(run).run_id, "8")] if heard else False)
        task.cancel()

    asyncio.run(main())
    assert made_by(run).slurm_job.read_text() == "8\n"


def test_a_job_that_nobody_finds_does_not_begin(run: RunDir, slurm: StandInSlurm) -> None:
    slurm.does("sbatch", DOWN)
    slurm.does("squeue", DOWN)
    (lost,) = all_of(Succession(run, print))
    assert isinstance(lost, SuccessorLost) and "Unable to contact slurm controller" in lost.reason
    assert how_it_ended(made_by(run))[0] == "FAILED"


def test_one_that_waits_is_taken_from_the_queue(run: RunDir, slurm: StandInSlurm, tmp_path: Path) -> None:
    asked = Succession(run, print)
    called_off(asked, asked.begin, tmp_path / "made")
    made = made_by(run)
    assert slurm.calls("scancel") == ["8"]
    assert how_it_ended(made) == ("STOPPED", f"called off while job 8 waited, since {run.run_id} was stopped")


def test_one_that_comes_up_is_asked_to_stop_and_does_not_take_over(
    run: RunDir, slurm: StandInSlurm, tmp_path: Path
) -> None:
    asked = Succession(run, print)

    async def main() -> None:
        task = asyncio.ensure_future(following(asked.begin(), []))
        await until((tmp_path / "made").exists)
        await until(lambda: made_by(run).slurm_job.exists())
        writer = EventWriter(made_by(run).event_file("supervisor"))
        writer.write(SupervisorStarted("node9", 1, 1, "8"))
        await asyncio.wait_for(asked.call_off(), SECONDS)
        task.cancel()

    asyncio.run(main())
    made = made_by(run)
    assert (slurm.calls("scancel"), made.verdict.exists(), len(list(made.control.iterdir()))) == ([], False, 1)
    assert chain.take_over(made) is None and chain.displaced(made) == f"{run.run_id} waits for it no longer"


def test_a_submission_under_way_is_ended_and_what_it_made_is_removed(
    run: RunDir, slurm: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "_TO_SUBMIT", 0.1)
    slurm.does("sbatch", f"{NOTE.format(tmp_path)}echo $$ >{tmp_path}/pid; exec sleep 600")
    asked = Succession(run, print)
    called_off(asked, asked.begin, tmp_path / "pid")
    assert slurm.calls("scancel") == ["8"]
    assert how_it_ended(made_by(run))[0] == "STOPPED"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_nothing_is_submitted_once_it_is_called_off(run: RunDir, slurm: StandInSlurm) -> None:
    asked = Succession(run, print)

    async def main() -> None:
        heard: list[messages.Input] = []
        task = asyncio.ensure_future(following(asked.begin(), heard))
        await asyncio.sleep(0)  # it is being made
        await asyncio.wait_for(asked.call_off(), SECONDS)
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, SECONDS)

    asyncio.run(main())
    assert (slurm.calls("sbatch"), chain.successor(run)) == ([], None)


def test_a_job_that_is_submitted_at_the_end_of_a_run_is_known(run: RunDir, slurm: StandInSlurm, tmp_path: Path) -> None:
    slurm.does("sbatch", f"{NOTE.format(tmp_path)}while ! test -e {tmp_path}/go; do sleep 0.05; done; echo 8")
    asked = Succession(run, print)

    async def main() -> None:
        task = asyncio.ensure_future(following(asked.begin(), []))
        await until((tmp_path / "made").exists)
        settled = asyncio.ensure_future(asked.settled())
        task.cancel()
        await asyncio.sleep(0.05)
        assert not settled.done()
        (tmp_path / "go").touch()
        await asyncio.wait_for(settled, SECONDS)

    asyncio.run(main())
    assert made_by(run).slurm_job.read_text() == "8\n"
    assert chain.displaced(made_by(run)) == "" and slurm.calls("scancel") == []


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        ("JobState=COMPLETING Reason=None PreemptTime=None", False),
        ("JobState=COMPLETING Reason=None PreemptTime=2026-11-25T16:09:36", True),
        ("JobState=COMPLETING Reason=TimeLimit PreemptTime=None", True),
        ("", True),
    ],
)
def test_an_end_that_slurm_explains_late_calls_off_what_nobody_wants(
    run: RunDir, slurm: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, wanted: bool
) -> None:
    monkeypatch.setattr(in_job, "_HURRY", 0.2)
    monkeypatch.setattr(in_job, "_AGAIN", 0.01)
    monkeypatch.setattr(in_job, "_EXPLAINING", 5.0 if shown else 0.3)
    slurm.does("scontrol", f"test -e {tmp_path}/told && echo 'JobId=7 {shown}' && exit 0\n{DOWN}" if shown else DOWN)
    around = InJob(run, "7", 60.0, print)

    async def main() -> None:
        task = asyncio.ensure_future(following(around.succeed(), []))
        await until(lambda: chain.successor(run) is not None and made_by(run).slurm_job.exists())
        found = await around.meaning("SIGTERM")
        assert isinstance(found, messages.EveryoneTerminated) and not found.certain
        (tmp_path / "told").touch()
        await asyncio.wait_for(around.call_off(), SECONDS)
        task.cancel()

    asyncio.run(main())
    assert slurm.calls("scancel") == ([] if wanted else ["8"])
    assert resumption.unwanted(made_by(run)) is False
    assert made_by(run).verdict.exists() is not wanted


def test_it_knows_when_it_was_called_off_by_a_run_that_was_interrupted(run: RunDir) -> None:
    made = succession.make_successor(run, 1_795_600_000.0)
    verdict.write_once(run, verdict.compose(Outcome("INTERRUPTED", 130, "job 7 was preempted"), run, None))
    assert not resumption.unwanted(made)
    chain.call_off(run, made)
    assert resumption.unwanted(made)
    assert how_it_ended(made) == ("STOPPED", f"not needed any more: {run.run_id} waits for it no longer")
