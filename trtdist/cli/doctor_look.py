"""What `doctor` asks the nodes of a job for a topology, and what it makes of the answers."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtdist.cli.doctor_hello import hello_command, hello_options
from trtdist.cli.doctor_here import driver_by
from trtdist.cli.doctor_job import Job
from trtdist.cli.doctor_nodes import Hello, examine, greet
from trtdist.containers import Mount, runtime
from trtdist.errors import MissingError
from trtdist.observe.check_hello import check_hello
from trtdist.observe.check_here import HereFacts
from trtdist.observe.check_nodes import check_nodes
from trtdist.observe.findings import Finding
from trtdist.observe.gpus import QUERY
from trtdist.observe.node_facts import HERE, Wanted, facts_of
from trtdist.plan import Plan
from trtdist.rendering.containers import hooked
from trtdist.slurm import mpi
from trtdist.topology.model import Topology

__all__ = ["Look"]

# Ranks would not start on a node that has one of these wrong, and say less about it.
_IN_THE_WAY = ("node.answer", "python", "image", "image.architecture", "runtime", "mount", "runs", "runs.seen", "space")
_UNPACKS = ("pyxis", "enroot")


@dataclass(frozen=True)
class Look:
    """A topology with what is known before its nodes are asked: `services` are those that its head node starts, each
    with the program that is named for it, or ""."""

    topology: Topology
    plan: Plan
    here: HereFacts
    mpi_types: tuple[str, ...]
    services: Mapping[str, str]

    def at(self, job: Job) -> list[Finding]:
        """Every finding about the nodes of a job."""
        given, began = self.topology.slurm, time.monotonic()
        with _folder(Path(self.here.runs)) as folder:
            answers = examine(job, self._asked(job, folder), given.setup, given.extra_srun, began)
            said = " ".join(answers.said.split())
            found = list(check_nodes(self._wanted(job), facts_of(answers.reports), said))
            wrong = {each.node for each in found if each.level == "error" and each.code in _IN_THE_WAY}
            return [*found, *self._hello(job, [name for name in job.nodes if name not in wrong], folder, began)]

    @property
    def _gpus(self) -> int:
        """How many GPUs each node must have."""
        return self.plan.allocation.gpus_per_node if self.topology.engine != "reference" else 0

    @property
    def _image(self) -> str:
        return self.here.image.path if self.here.image is not None else ""

    def _asked(self, job: Job, folder: Path) -> dict[str, Any]:
        section, network = self.topology.container, self.topology.network
        contained = section.runtime != "none"
        program = runtime(section.runtime).program
        return {
            "nodes": list(job.nodes),
            "interface": network.interface or "",
            "subnet": network.subnet or "",
            "ports": network.port_range,
            "folder": str(folder),
            "python": sys.executable,
            "image": self._image,
            "mounts": [Mount.parse(text).source for text in section.mounts] if contained else [],
            "programs": [program] if program else [],
            "services": dict(self.services),
            "gpus": list(QUERY) if self._gpus else [],
            "unpacks": section.runtime in _UNPACKS,
            "driver": driver_by(self.topology),
        }

    def _wanted(self, job: Job) -> Wanted:
        image = self.here.image
        shares: dict[tuple[int, int], float] = defaultdict(float)
        for load in self.plan.gpus:
            shares[load.node, load.gpu] += load.fraction
        return Wanted(
            nodes=job.nodes,
            python=sys.executable,
            runtime=self.topology.container.runtime,
            program=runtime(self.topology.container.runtime).program,
            image=self._image,
            image_size=image.size if image is not None else 0,
            image_architecture=image.architecture if image is not None else "",
            gpus=self._gpus,
            planned=max(shares.values(), default=0.0),
            runs=self.here.runs,
        )

    def _hello(self, job: Job, fit: Sequence[str], folder: Path, began: float) -> Iterator[Finding]:
        """Ranks greet each other on two nodes that are fit for it, or on one."""
        try:
            chosen = mpi.choose(self.mpi_types)
        except MissingError:
            return  # and was found already
        if not fit:
            what = "no ranks were started to greet each other over MPI, since no node is fit for them"
            yield Finding("warning", "mpi.hello", "", what, "mend the errors, and look again")
            return
        wanted = min(2, len(job.nodes))
        nodes = tuple(fit[:wanted])
        tasks = min(2, self.plan.world_size, len(nodes) * self.plan.allocation.tasks_per_node)
        command, options = hello_command(self.topology, folder), hello_options(self.topology, folder)
        hello = greet(job, Hello(nodes, tasks, chosen, tuple(options), tuple(command), hooked(self.topology)), began)
        inside = self._image or self.topology.container.image or ""
        yield from check_hello(hello, inside if self.topology.container.runtime != "none" else "")
        if len(nodes) < wanted:
            what = f"ranks greeted each other on {nodes[0]} alone, since no other node is fit for them"
            yield Finding("warning", "mpi.hello", "", what, "mend the errors, and look again")


@contextmanager
def _folder(runs: Path) -> Iterator[Path]:
    """A folder below the runs folder that this machine has written to, and that is gone afterwards."""
    folder = runs / f".doctor-{secrets.token_hex(8)}"
    made = [path for path in (runs, *runs.parents) if not os.path.exists(path)]
    try:
        # When it cannot be made, nodes find it missing and say so, as does what is found here.
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True)
            (folder / HERE).touch()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()
