"""Starts something beside a run: on this machine, or as a short step on a node of the run's job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtdist.errors import InputError, TrtdistError
from trtdist.observe.snapshot import Snapshot
from trtdist.services.envfile import read_env_or_nothing
from trtdist.slurm import states
from trtdist.slurm.argv import srun_beside, without_outer_task

__all__ = ["Place", "ended", "environment", "everywhere", "head", "node_of"]

_END_S = 5.0


@dataclass(frozen=True)
class Place:
    """Nodes of a job, or this machine when `job` is None; `extra` are the options that the site's srun needs."""

    job: str | None
    nodes: tuple[str, ...]
    extra: tuple[str, ...] = ()

    def command(self, command: Sequence[str], *, name: str, terminal: bool = False) -> list[str]:
        """What starts a command there, once on each node; `name` is that of the step."""
        if self.job is None:
            return list(command)
        return srun_beside(self.job, self.nodes, command, name=name, terminal=terminal, extra=self.extra)


def head(snapshot: Snapshot) -> Place:
    """The head node of a run, where its services are; InputError when the run is not up."""
    return _place(snapshot, lambda nodes: nodes[:1])


def everywhere(snapshot: Snapshot) -> Place:
    """All nodes of a run; InputError when it is not up."""
    return _place(snapshot, lambda nodes: nodes)


def node_of(snapshot: Snapshot, name: str) -> Place:
    """The node of a rank (`gen.0.1`), of a server's leader (`gen.0`), or of a service; InputError for another name."""
    index = _node_index(snapshot, name)
    return _place(snapshot, lambda nodes: nodes[index : index + 1])


def environment(snapshot: Snapshot, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that the programs of a run have: its addresses and ports, and the Python that they import."""
    site = str(snapshot.run.site)
    path = environ.get("PYTHONPATH")
    found = {**without_outer_task(environ), **read_env_or_nothing(snapshot.run.resolved_env)}
    return {**found, "PYTHONPATH": f"{site}:{path}" if path else site}


async def ended(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a step that has no more input; one that does not end within 5 s is killed."""
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()


def _place(snapshot: Snapshot, choose: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Place:
    run, status = snapshot.run, snapshot.status
    nodes = tuple(read_env_or_nothing(run.resolved_env).get("TRTDIST_NODES", "").split())
    if snapshot.final or not nodes:
        raise InputError(f"run {run.run_id} is {status.state}: nothing can be run beside it; see `trtdist status`")
    if snapshot.job_id is None:
        return Place(None, choose(nodes))
    if status.job is not None and status.job.phase != states.LIVE:
        raise InputError(f"run {run.run_id} cannot be reached: {status.job.detail}")
    return Place(snapshot.job_id, choose(nodes), _extra(snapshot))


def _node_index(snapshot: Snapshot, name: str) -> int:
    plan = snapshot.plan
    ranks = {f"{server.name}.{rank.rank}": rank.node for server in plan.servers for rank in server.ranks}
    leaders = {server.name: server.leader.node for server in plan.servers}
    steps = {step.name: step.nodes[0] for step in plan.steps if step.kind != "workers"}
    known = {**steps, **leaders, **ranks}
    if name in known:
        return known[name]
    choice = ", ".join([*leaders, *steps])
    example = next(iter(ranks))
    raise InputError(f"run {snapshot.run.run_id} has no {name!r}: name one of {choice}, or a rank such as {example}")


def _extra(snapshot: Snapshot) -> tuple[str, ...]:
    """slurm.extra_srun of the run's topology."""
    import yaml

    try:
        text = snapshot.run.topology.read_text(encoding="utf-8")
        found: Any = yaml.safe_load(text)
        return tuple(map(str, found["slurm"]["extra_srun"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise TrtdistError(f"{snapshot.run.topology} cannot be read ({error}): bring the run up again") from error
