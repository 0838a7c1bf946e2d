"""`python -m trtdist.supervisor RUN_DIR`: supervises one run on this machine until its verdict is written."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from trtdist.events import SupervisorStarted
from trtdist.plan import Plan, from_json
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.supervisor import lineage, verdict
from trtdist.supervisor.facts import Outcome, Settings
from trtdist.supervisor.head import Head
from trtdist.supervisor.journal import Journal
from trtdist.supervisor.launcher import LocalLauncher
from trtdist.supervisor.local_head import LocalHead
from trtdist.supervisor.remains import Remains, local_folder
from trtdist.supervisor.shell import STOP_SIGNALS, Supervisor, Tools

__all__ = ["main"]

_DEFAULTS = Settings()


def main(argv: Sequence[str], head_of: Callable[[RunDir], Head] = LocalHead) -> int:
    """Supervise the run that the arguments name; returns the exit code of its verdict."""
    given = _parser().parse_args(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until there is somebody to take them
    if given.bound_to and not lineage.bind_to_parent(given.bound_to, signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
    lineage.adopt_orphans()
    run = RunDir(Path(os.path.abspath(given.run_dir)))
    journal = Journal(run.event_file("supervisor"))
    _introduce(journal)
    if run.verdict.exists():
        journal.say(f"{run.run_id} has ended already")
        return 1
    settings = Settings(given.ready_timeout, given.service_timeout, grace=given.grace)
    launcher = LocalLauncher(run)
    try:
        return _supervise(run, journal, settings, launcher, head_of)
    except Exception as error:  # the process boundary: whatever went wrong, the run ends with a verdict
        traceback.print_exc()
        return _give_up(run, journal, launcher, f"the supervisor itself failed: {error!r}; see logs/supervisor.log")
    finally:
        launcher.close()
        journal.close()


def _supervise(
    run: RunDir, journal: Journal, settings: Settings, launcher: LocalLauncher, head_of: Callable[[RunDir], Head]
) -> int:
    try:
        plan = _load(run)
        verdict.reserve(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _give_up(run, journal, launcher, f"cannot use the run directory {run.path}: {error}")
    tools = Tools(launcher, head_of(run), journal, strays=lambda: lineage.children(os.getpid()))
    return asyncio.run(Supervisor(run, plan, settings, tools).supervise())


def _load(run: RunDir) -> Plan:
    return from_json(run.plan.read_text(encoding="utf-8"))


def _introduce(journal: Journal) -> None:
    """Say which process supervises: the first event."""
    me = ProcessId.of(os.getpid())
    assert me is not None
    journal.write(SupervisorStarted(socket.gethostname(), me.pid, me.started))


def _give_up(run: RunDir, journal: Journal, launcher: LocalLauncher, reason: str) -> int:
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
    parser.add_argument("--grace", type=float, default=_DEFAULTS.grace, metavar="SECONDS")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
