"""Holds a launcher for a test that runs elsewhere: takes commands on stdin and tells on stdout what it sees, one JSON
list a line. Usage: launcher_driver.py RUN_DIR local|slurm

Commands: ["start", STEP], ["signal", STEP, NUMBER], ["kill", STEP], ["recorded"]. Told: ["started", STEP],
["refused", STEP, WHY], ["adopted", STEP, TASK], ["ended", STEP, CODE, SIGNAL], ["gone", TASK], ["recorded", COUNT].
"""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path

from trtdist.events import EventReader, TaskStarted
from trtdist.plan import from_json
from trtdist.rundir import RunDir
from trtdist.supervisor.launcher import Ended, Launcher, LaunchError
from trtdist.supervisor.local_launcher import LocalLauncher
from trtdist.supervisor.slurm_launcher import SlurmLauncher


def tell(*words: object) -> None:
    print(json.dumps(words), flush=True)


class Driver:
    """One launcher, its run, and the signal that each step was sent, which late tasks get as well."""

    def __init__(self, run: RunDir, launcher: Launcher) -> None:
        self.plan = from_json(run.plan.read_text())
        self.launcher = launcher
        self.events = EventReader(run.events)
        self.signalled: dict[str, int] = {}

    def obey(self, words: list[str]) -> None:
        if words[0] == "start":
            try:
                self.launcher.start(self.plan.step(words[1]), f"{words[1]} 1")
            except LaunchError as error:
                tell("refused", words[1], str(error))
            else:
                tell("started", words[1])
        elif words[0] == "signal":
            self.signalled[words[1]] = int(words[2])
            self.launcher.signal(words[1], int(words[2]))
        elif words[0] == "kill":
            self.launcher.kill(words[1])
        elif words[0] == "recorded":
            tell("recorded", len(self.launcher.recorded()))

    def look(self) -> None:
        for record in self.events.poll():
            task = record.event
            if isinstance(task, TaskStarted):
                self.launcher.adopt(task)
                tell("adopted", task.step, task.name)
                if task.step in self.signalled:
                    self.launcher.signal_task(task.step, task.name, self.signalled[task.step])
        for end in self.launcher.check():
            if isinstance(end, Ended):
                tell("ended", end.step, end.code, end.signal)
            else:
                tell("gone", end.task.name)


def main(run: RunDir, kind: str) -> None:
    launcher: Launcher = LocalLauncher(run)
    if kind == "slurm":
        launcher = SlurmLauncher(run, os.environ["SLURM_JOB_ID"], lambda text: print(text, file=sys.stderr))
    driver = Driver(run, launcher)
    tell("up", os.getpid())
    while True:
        ready, _, _ = select.select([0, launcher.fileno()], [], [], 0.1)
        if 0 in ready:
            line = sys.stdin.readline()
            if not line:
                return
            driver.obey(json.loads(line))
        driver.look()


if __name__ == "__main__":
    main(RunDir(Path(sys.argv[1])), sys.argv[2])
