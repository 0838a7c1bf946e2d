"""`python -m trtdist.supervisor RUN_DIR`: supervises one run until its verdict is written, here or inside a job."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trtdist.events import SupervisorStarted
from trtdist.plan import Plan, from_json
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.supervisor import lineage, resumption, verdict
from trtdist.supervisor.facts import Outcome, Settings
from trtdist.supervisor.head import Head
from trtdist.supervisor.journal import Journal
from trtdist.supervisor.launcher import Launcher
from trtdist.supervisor.local_head import LocalHead
from trtdist.supervisor.local_launcher import LocalLauncher
from trtdist.supervisor.remains import Remains, local_folder, supervisor_of
from trtdist.supervisor.shell import STOP_SIGNALS, Supervisor, Tools
from trtdist.supervisor.surroundings import Alone, Surroundings

__all__ = ["main"]

_DEFAULTS = Settings()


def main(argv: Sequence[str], head_of: Callable[[RunDir], Head] = LocalHead) -> int:
    """Supervise the run that the arguments name; returns the exit code of its verdict."""
    given = _parser().parse_args(argv)
    if given.slurm and not os.environ.get("SLURM_JOB_ID"):
        print("trtdist: --slurm is for a job of Slurm's, and SLURM_JOB_ID is not set", file=sys.stderr)
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until there is somebody to take them
    if given.bound_to and not lineage.bind_to_parent(given.bound_to, signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
    lineage.adopt_orphans()
    run = RunDir(Path(os.path.abspath(given.run_dir)))
    job = os.environ.get("SLURM_JOB_ID", "") if given.slurm else ""
    again = resumption.attempt(os.environ) if job else 0
    before = supervisor_of(run)
    if before is not None and not (again and before.slurm_job == job):
        print(f"trtdist: {_started_before(run, before)}", file=sys.stderr)
        return 2
    journal = Journal(run.event_file("supervisor"))
    _introduce(journal, job)
    if again and resumption.resume(run, again):
        journal.say(f"{run.run_id} goes on, since Slurm has queued its job again ({again})")
    if given.slurm and resumption.unwanted(run):
        journal.say(f"{run.run_id} was to take over from a run that was stopped since")
    if run.verdict.exists():
        journal.say(f"{run.run_id} has ended already")
        return 1
    launcher, around, settings = _in_job(run, given, journal) if given.slurm else _local(run, given, journal)
    try:
        tools = Tools(launcher, head_of(run), journal, around, lambda: lineage.children(os.getpid()))
        return _supervise(run, settings, tools)
    except Exception as error:  # the process boundary: whatever went wrong, the run ends with a verdict
        traceback.print_exc()
        return _give_up(run, journal, launcher, f"the supervisor itself failed: {error!r}; see logs/supervisor.log")
    finally:
        launcher.close()
        journal.close()


def _started_before(run: RunDir, before: SupervisorStarted) -> str:
    job = f"in job {before.slurm_job}" if before.slurm_job else f"on {before.host}"
    return f"the run in {run.path} was started before, {job}, and is left alone: render another folder for another run"


def _local(run: RunDir, given: argparse.Namespace, journal: Journal) -> tuple[Launcher, Surroundings, Settings]:
    settings = Settings(given.ready_timeout, given.service_timeout, grace=given.grace)
    settings = replace(settings, stall_timeout=given.stall_timeout)
    return LocalLauncher(run, journal.say), Alone(), settings


def _in_job(run: RunDir, given: argparse.Namespace, journal: Journal) -> tuple[Launcher, Surroundings, Settings]:
    """Everything takes longer through Slurm, and what other nodes write shows up late."""
    # A run on one machine starts sooner without what speaks to Slurm.
    from trtdist.supervisor.in_job import InJob
    from trtdist.supervisor.slurm_launcher import SlurmLauncher

    job = os.environ["SLURM_JOB_ID"]
    settings = Settings(given.ready_timeout, given.service_timeout, given.start_timeout, grace=given.grace)
    settings = replace(settings, stall_timeout=given.stall_timeout, settle=0.5, failure_grace=2.0, kill_wait=5.0)
    around = InJob(run, job, given.warning, journal.say, given.handover, journal.write)
    return SlurmLauncher(run, job, journal.say), around, settings


def _supervise(run: RunDir, settings: Settings, tools: Tools) -> int:
    try:
        plan = _load(run)
        verdict.reserve(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _give_up(run, tools.journal, tools.launcher, f"cannot use the run directory {run.path}: {error}")
    return asyncio.run(Supervisor(run, plan, settings, tools).supervise())


def _load(run: RunDir) -> Plan:
    return from_json(run.plan.read_text(encoding="utf-8"))


def _introduce(journal: Journal, job: str) -> None:
    """Say which process supervises: the first event."""
    me = ProcessId.of(os.getpid())
    assert me is not None
    journal.write(SupervisorStarted(socket.gethostname(), me.pid, me.started, job))


def _give_up(run: RunDir, journal: Journal, launcher: Launcher, reason: str) -> int:
    """End at once, with a verdict if there is room for one."""
    journal.say(reason)
    remains = Remains((*launcher.recorded(), *(("child", p) for p in lineage.children(os.getpid()))), local_folder(run))
    remains.signal(signal.SIGKILL)
    remains.remove_folder()
    try:
        verdict.write_once(run, verdict.compose(Outcome("FAILED", 1, reason), run, None))
    except OSError as error:
        journal.say(f"cannot write {run.verdict}: {error.strerror}")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trtdist.supervisor", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a prepared run directory")
    parser.add_argument("--bound-to", type=int, default=0, metavar="PID", help="stop the run when this parent dies")
    parser.add_argument("--ready-timeout", type=float, default=_DEFAULTS.ready_timeout, metavar="SECONDS")
    parser.add_argument("--service-timeout", type=float, default=_DEFAULTS.service_timeout, metavar="SECONDS")
    parser.add_argument("--slurm", action="store_true", help="start the steps through Slurm, inside the current job")
    parser.add_argument("--stall-timeout", type=float, default=_DEFAULTS.stall_timeout, metavar="SECONDS")
    parser.add_argument("--start-timeout", type=float, default=_DEFAULTS.start_timeout, metavar="SECONDS")
    parser.add_argument(
        "--warning", type=float, default=60.0, metavar="SECONDS", help="stop so long before the job's time limit"
    )
    parser.add_argument(
        "--handover", type=float, default=0.0, metavar="SECONDS", help="ask for a run that takes over so long before it"
    )
    parser.add_argument("--grace", type=float, default=_DEFAULTS.grace, metavar="SECONDS")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
