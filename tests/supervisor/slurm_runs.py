"""Run directories made by hand whose steps go through Slurm, with the real shim around tiny programs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import PYTHON, SRUN, USER, Cluster
from tests.supervisor.runs import ROOT, HandMade, wait_for
from trtdist.events import Event, TaskStarted
from trtdist.slurm import argv, parse

SHIM = ROOT / "trtdist" / "supervisor" / "shim.py"
NODES = 2


@dataclass
class SlurmMade(HandMade):
    """A run directory on the mini cluster; steps of one task run on its first node, ranks on both."""

    cluster: Cluster = None  # type: ignore[assignment]
    job: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        (self.run.scripts / "each-node.srun.sh").write_text(
            f"exec srun --nodes={NODES} --ntasks={NODES} --ntasks-per-node=1 --overlap --mem=0 --mpi=none "
            '--job-name=each-node --input=none "$@"\n'
        )
        self.cluster.own(self.folder)

    def local_folder(self) -> Path:
        """A folder that the tasks make on their nodes."""
        return Path("/tmp/trtdist-test") / self.cluster.folder.name

    def program(self, step: str, *lines: str) -> None:
        """What each task of a step runs; it has a folder on its node."""
        names = self.tasks(step)
        each = lines if len(lines) == len(names) else lines * len(names)
        # Ranks lie on both nodes, the last of them on the second.
        places = f"--nodes={min(NODES, len(names))} --ntasks={len(names)}"
        script = [f"set -a; . {self.run.resolved_env}; set +a", f"mkdir -p {self.local}", "case $SLURM_PROCID in"]
        for number, (name, line) in enumerate(zip(names, each)):
            script.append(f"{number}) exec {self._shim(step, name, line)} ;;")
        task = self.run.scripts / f"{step}.task.sh"
        task.write_text("\n".join([*script, "esac", ""]))
        clean = "unset ${!SLURM_NT@} ${!SLURM_NPROCS@} ${!SLURM_CPU@}"
        # A launcher that is driven without a supervisor has resolved nothing.
        first = f"first=$(. {self.run.resolved_env} 2>/dev/null; echo ${{TRTDIST_NODES%% *}})"
        head = "" if len(names) > 1 else "${first:+--nodelist=$first}"
        options = f"{shlex.join(SRUN)} --job-name={step} {places} {head} --mpi=none"
        self.script(step, f"{clean}\n{first}\nexec {options} bash {task}")

    def script(self, step: str, text: str) -> None:
        """The launch line of a step, as it is."""
        path = self.run.scripts / f"{self.plan.step(step).stem}.srun.sh"
        path.write_text(text + "\n")

    def _shim(self, step: str, name: str, line: str) -> str:
        service = ["--ignore-first-term"] if self.plan.step(step).kind == "service" else []
        words = [PYTHON, "-I", "-S", str(SHIM), "--run-dir", str(self.run.path), "--step", step, "--name", name]
        return shlex.join([*words, *service, "--", "bash", "-c", line])

    def supervise(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Submit a job whose batch script becomes the supervisor; what is returned ends with the job."""
        self.cluster.own(self.folder)
        words = [PYTHON, "-m", "tests.supervisor.fake_supervisor", str(self.run.path), "--slurm", *arguments]
        self.job = self.submit(
            f"export PYTHONPATH={ROOT}",
            f"echo \"TRTDIST_NODES='$(scontrol show hostnames | xargs)'\" >>{self.run.resolved_env}",
            f"exec {shlex.join(words)} >>{self.run.log('supervisor')} 2>&1",
        )
        return subprocess.Popen([sys.executable, "-c", "pass"])

    def submit(self, *lines: str, options: tuple[str, ...] = ()) -> str:
        """Submit a batch script; returns the job's id."""
        script = self.folder / "job.sbatch"
        script.write_text("\n".join(["#!/bin/bash", *lines, ""]))
        job = argv.JobOptions("hand-made", NODES, 4, mem=200, output=str(self.folder / "job.out"))
        words = ["sbatch", "--parsable", *argv.sbatch(job), *options, *self.options, str(script)]
        return parse.job_id(self.cluster.output(*words))

    options: tuple[str, ...] = ()

    def say(self, writer: str, event: Event) -> None:
        """Write an event as another program of the user's."""
        super().say(writer, event)
        self.cluster.own(self.run.event_file(writer))

    def ask(self, action: str, grace: float | None = None) -> None:
        """Put a request where the supervisor finds it, as the user."""
        request = json.dumps({"action": action, "grace": grace})
        path = self.run.control / "1.json"
        self.cluster.output("bash", "-c", f"echo {shlex.quote(request)} >{path}.part && mv {path}.part {path}")

    def node_of(self, task: str) -> str:
        """The node of a task."""
        return str(self.task(task).host)

    def on_node(self, node: str, line: str) -> str:
        """What a shell line prints on a node, as the user."""
        return self.cluster.run("bash", "-c", line, host=node).stdout.strip()

    def kill(self, task: str) -> None:
        """Kill the program of a task where it runs."""
        started = self.task(task)
        self.on_node(started.host, f"kill -9 {started.pid}")

    def state(self) -> str:
        """The state of the job."""
        return parse.jobs(self.cluster.output(*argv.squeue_jobs((self.job,))))[0].state

    def ended(self, seconds: float = 60.0) -> str:
        """The state of the job once it has ended."""
        wait_for(lambda: self.state() not in ("PENDING", "RUNNING", "COMPLETING"), seconds, "the end of the job")
        return self.state()

    def left(self) -> dict[str, str]:
        """What is still there of the run, by node: processes of its tasks, and the local folder."""
        found = {}
        for node in {event.host for event in self.events(TaskStarted)}:
            tasks = [event for event in self.events(TaskStarted) if event.host == node]
            pids = " ".join(f"/proc/{event.pid} /proc/{event.shim_pid}" for event in tasks)
            found[node] = self.on_node(node, f"ls -d {pids} {self.local} 2>/dev/null")
        return {node: text for node, text in found.items() if text}

    def clean(self) -> None:
        """End what a failed test left."""
        super().clean()
        if self.job:
            self.cluster.run("scancel", "--user", USER, self.job)
