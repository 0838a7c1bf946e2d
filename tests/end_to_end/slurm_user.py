"""Somebody at the submit host of the mini cluster who uses the command line."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import PYTHON, ROOT, Cluster
from trtdist.slurm import argv, parse

__all__ = ["ALLOCATION", "EXAMPLE", "READY_S", "SHARED", "User"]

EXAMPLE = ROOT / "examples" / "slurm" / "disagg-2nodes.yaml"
# Nodes of the mini cluster are shared with other tests.
SHARED = ("--set", "slurm.mem=500")
ALLOCATION = ("salloc", "-N2", "--ntasks-per-node=4", "--mem=500")
READY_S = 300.0


@dataclass
class User:
    """Somebody at the submit host whose runs are in the shared folder."""

    cluster: Cluster

    @property
    def runs(self) -> Path:
        return self.cluster.folder / "runs"

    def words(self, *arguments: object) -> list[str]:
        return ["env", f"TRTDIST_RUNS={self.runs}", PYTHON, "-m", "trtdist.cli", *map(str, arguments)]

    def trtdist(self, *arguments: object, host: str = "submit") -> subprocess.CompletedProcess[str]:
        return self.cluster.run(*self.words(*arguments), host=host, timeout=READY_S)

    def run_dir(self, number: int = -1) -> Path:
        return sorted(path for path in self.runs.iterdir() if not path.is_symlink())[number]

    def state(self, *run: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.trtdist("status", *run, "--json").stdout)
        return found

    def job_state(self, job: str) -> str:
        listed = self.cluster.run(*argv.squeue_jobs((job,))).stdout
        return parse.jobs(listed)[0].state if listed else "gone"

    def nodes(self, job: str) -> str:
        """The nodes of a job that is still known, as a folded list."""
        return parse.jobs(self.cluster.output(*argv.squeue_jobs((job,))))[0].nodes

    def crashes(self) -> str:
        """What the logs of the newest run tell of a program that crashed."""
        return self.cluster.run("bash", "-c", f"grep -A16 Signal: {self.runs}/latest/logs/*.log").stdout

    def left(self) -> list[str]:
        """Local folders of this user's runs, and processes that name one, on any node."""
        found = []
        names = [path.name for path in self.runs.iterdir()] if self.runs.exists() else []
        for node in ("node1", "node2", "node3", "node4"):
            listed = self.cluster.run("bash", "-c", "ls -d /tmp/trtdist-*/* 2>/dev/null; ps -eo args", host=node).stdout
            found += [line for line in listed.splitlines() if any(name in line for name in names)]
        return found
