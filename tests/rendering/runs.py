"""Rendered runs whose programs are replaced by one that writes down what it was started with."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtdist.planning import Target, plan
from trtdist.rendering import render_local
from trtdist.rundir import RunDir
from trtdist.topology import Topology

__all__ = ["RenderedRun"]

# In place of the shim: what came is written to a file per process. $WITNESS_MPI makes it an MPI program.
_WITNESS = """\
import json, os, sys
world = None
if "--rank" in sys.argv and os.environ.get("WITNESS_MPI"):
    sys.path[:0] = json.loads(os.environ["WITNESS_MPI"])
    from mpi4py import MPI
    world = MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank), MPI.COMM_WORLD.size
name = sys.argv[sys.argv.index("--name") + 1]
seen = {"argv": sys.argv, "environ": dict(os.environ), "cwd": os.getcwd(), "stdin": sys.stdin.read(), "mpi": world,
        "flags": [sys.flags.isolated, sys.flags.no_site]}
with open(os.path.join(os.environ["TRTDIST_RUN_DIR"], "seen." + name + ".json"), "x") as file:
    json.dump(seen, file)
"""


@dataclass
class RenderedRun:
    """A run directory with the rendered scripts of a topology, and a resolved.env for it."""

    path: Path
    topology: Topology
    local: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = RunDir(self.path)
        self.plan = plan(self.topology, Target.LOCAL)
        self.run.scripts.mkdir(parents=True)
        self.run.logs.mkdir()
        for name, text in render_local(self.plan, self.topology).items():
            (self.run.scripts / name).write_text(text)
        self.place_witness()
        self.resolve()

    def place_witness(self) -> None:
        """Put the witness in the place of the shim."""
        shim = self.run.site / "trtdist" / "supervisor" / "shim.py"
        shim.parent.mkdir(parents=True)
        shim.write_text(_WITNESS)

    def resolve(self, **values: str) -> None:
        """Write resolved.env."""
        found = {
            "TRTDIST_RUN_ID": self.run.run_id,
            "TRTDIST_RUN_DIR": str(self.path),
            "TRTDIST_LOCAL_DIR": str(self.local),
            "TRTDIST_PYTHON": sys.executable,
            "TRTDIST_MPIEXEC": str(Path(sys.executable).parent / "mpiexec"),
            "TRTDIST_NODES": "here",
            "TRTDIST_ADDRESSES": "127.0.0.1",
            "NATS_SERVER": "nats://127.0.0.1:1",
            **values,
        }
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in found.items()]
        self.run.resolved_env.write_text("".join(lines))

    def start(self, step: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the launch line of a step to its end."""
        return self.bash(self.run.scripts / f"{self.plan.step(step).stem}.local.sh", **environ)

    def task(self, step: str, rank: int, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run one task of a step as mpiexec would."""
        script = self.run.scripts / f"{self.plan.step(step).stem}.task.sh"
        return self.bash(script, OMPI_COMM_WORLD_RANK=str(rank), **environ)

    def bash(self, script: Path, *, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a script."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "OMPI_"))}
        return subprocess.run(
            ["bash", str(script)],
            env={**clean, **self.environ, **environ},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def seen(self, name: str) -> dict[str, Any]:
        """What the process of a task was started with."""
        found: dict[str, Any] = json.loads((self.path / f"seen.{name}.json").read_text())
        return found
