"""What `trtdist status --gpus` adds: the memory of each GPU of a run beside what the plan gives away of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trtdist.cli.beside import Place, environment, everywhere
from trtdist.errors import InputError
from trtdist.observe.gpus import SCRIPT, GpuUse, NodeGpus, against_plan, read_gpus
from trtdist.observe.snapshot import Snapshot

__all__ = ["GpuLook", "look"]

_TIMEOUT_S = 30.0
_COLUMNS = ("NODE", "GPU", "USED", "TOTAL", "PLANNED", "SERVERS")


@dataclass(frozen=True)
class GpuLook:
    """One look at the GPUs of a run; `problems` has a sentence for each node that shows none."""

    uses: tuple[GpuUse, ...]
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The keys that `--json` gains; memory in MiB, null where it is not known."""
        return {"gpus": [asdict(use) for use in self.uses], "gpu_problems": list(self.problems)}

    def described(self) -> str:
        """The same for a person."""
        rows = [_COLUMNS, *(_row(use) for use in self.uses)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([*lines, *self.problems])


def look(snapshot: Snapshot) -> GpuLook:
    """Ask each node of a run; a run that is not up has its plan to show."""
    try:
        place = everywhere(snapshot)
    except InputError as error:
        return GpuLook(tuple(against_plan(snapshot.plan, (), {})), (str(error),))
    answers, said = _ask(snapshot, place)
    if place.job is None:
        answers = dict(zip(place.nodes, answers.values(), strict=False))
    silent = {node: said for node in place.nodes if node not in answers}
    problems = {node: answer.problem for node, answer in answers.items() if answer.problem} | silent
    sentences = tuple(f"{node}: {problem}" for node, problem in sorted(problems.items()))
    return GpuLook(tuple(against_plan(snapshot.plan, place.nodes, answers)), sentences)


def _ask(snapshot: Snapshot, place: Place) -> tuple[Mapping[str, NodeGpus], str]:
    """The answers by node, and why one may be missing."""
    try:
        done = subprocess.run(
            place.command(["bash", "-c", SCRIPT], name="gpus"),
            env=environment(snapshot, os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        return {}, f"cannot run {error.filename}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {_TIMEOUT_S:g} s"
    return read_gpus(done.stdout), f"no answer ({' '.join(done.stderr.split())})"


def _row(use: GpuUse) -> tuple[str, ...]:
    planned = f"{use.planned:.0%}" + (f" ({use.planned * use.total:.0f} MiB)" if use.total is not None else "")
    return (use.node, str(use.gpu), _mib(use.used), _mib(use.total), planned, " ".join(use.servers))


def _mib(memory: int | None) -> str:
    return "-" if memory is None else f"{memory} MiB"
