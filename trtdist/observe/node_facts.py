"""What nodes answered when they were examined, as frozen facts; see `trtdist.supervisor.examine`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["HELLO_S", "HERE", "LOOK_S", "MEET_S", "HelloFacts", "NodeFacts", "Wanted", "facts_of", "latest"]

LOOK_S, MEET_S, HELLO_S = 18.0, 29.0, 42.0
"""When nodes must have looked around, met each other, and greeted each other over MPI, in seconds since they were
there. What has not ended by then is a finding, and all is told and cleared away within a minute."""

HERE = ".here"
"""The file by which nodes know that they see what the machine writes where the command runs; no node is called that."""


@dataclass(frozen=True)
class Wanted:
    """What a deployment needs of its nodes, which are in Slurm's order, the head node first.

    `image` is a path, or ""; its size and architecture are what is known of it elsewhere, 0 and "" for nothing.
    `runtime` is started by `program`, "" for none. `gpus` is how many each node must have, `planned` the share of the
    memory of one that is planned for.
    """

    nodes: tuple[str, ...]
    python: str
    runtime: str = "none"
    program: str = ""
    image: str = ""
    image_size: int = 0
    image_architecture: str = ""
    gpus: int = 0
    planned: float = 0.0
    runs: str = ""


@dataclass(frozen=True)
class NodeFacts:
    """The report of one node; what a report does not have was not looked at. Sizes are in bytes, limits as getrlimit
    has them (-1 for none), `skew` and `round_trip` in seconds. `at` is what the node had begun and not ended, `looked`
    whether it got through looking around."""

    node: str
    at: str = ""
    looked: bool = True
    python: tuple[int, ...] = (3, 9)
    executable: str = ""
    run_python: bool = True
    machine: str = ""
    address: str = ""
    interface: str = ""
    address_problem: str = ""
    unresolved: tuple[str, ...] = ()
    unreached: Mapping[str, str] | None = None
    skew: float = 0.0
    round_trip: float = 0.0
    write_problem: str = ""
    unseen: tuple[str, ...] = ()
    mounts_missing: tuple[str, ...] = ()
    image: Mapping[str, Any] | None = None
    programs: Mapping[str, str] | None = None
    services: Mapping[str, Mapping[str, str]] | None = None
    hooks: tuple[str, ...] = ()
    temporary: Mapping[str, Any] | None = None
    unpacked: Mapping[str, Any] | None = None
    shm: Mapping[str, Any] | None = None
    limits: Mapping[str, int] | None = None
    leaking: tuple[str, ...] = ()
    devices: str = "all"
    gpus: Mapping[str, Any] | None = None
    met: bool = False


@dataclass(frozen=True)
class HelloFacts:
    """How a greeting over MPI went: on which nodes, the ranks' own reports, what nodes had begun and not ended, the
    exit code of srun (None when it did not end in time), and what it said. `server_pmix` and `pmix` are the releases of
    PMIx that Slurm and the ranks have, "" for what is not known."""

    nodes: tuple[str, ...]
    tasks: int
    mpi: str
    ranks: tuple[Mapping[str, Any], ...]
    at: Mapping[str, str]
    code: int | None
    said: str
    seconds: float
    server_pmix: str = ""
    pmix: str = ""


def latest(reports: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What each node was at when it printed its last line, "" when it had ended that."""
    return {str(report["node"]): str(report.get("at", "")) for report in reports}


def facts_of(reports: Iterable[Mapping[str, Any]]) -> dict[str, NodeFacts]:
    """The facts by node, of the lines that the nodes printed: what it is, then whom it met."""
    found: dict[str, dict[str, Any]] = {}
    known = {field.name for field in fields(NodeFacts)}
    for report in reports:
        met = report.get("met")
        lines = {**report, **met, "met": True} if isinstance(met, dict) else dict(report)
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in lines.items() if name in known}
        node = found.setdefault(str(report["node"]), {"looked": False})
        node.update({"at": "", **values})
        node["looked"] |= "at" not in report
    return {name: NodeFacts(**values) for name, values in found.items()}
