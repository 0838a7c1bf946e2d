"""How the scripts differ by the runtime of a topology: which programs run, and the files that these read.

Flags and keys of programs that are not ours are listed with their sources in docs/tensorrt-llm-support.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trtdist.plan import Plan, Server, Step
from trtdist.rendering.templates import render
from trtdist.rendering.trtllm_files import cluster_of, engine_options, router_config, to_yaml
from trtdist.topology.lint.versions import Version, release_of
from trtdist.topology.model import Topology

__all__ = ["ProgramTemplate", "Scripts", "beside", "scripts_of"]

# Long answers take long; the router gives a request 180 s unless it is told otherwise.
_REQUEST_S = 3600
_ROLES = {"context": "CONTEXT", "generation": "GENERATION"}
_MODES = {"context": "prefill", "generation": "decode"}
_ROUTER_MODES = {"round_robin": "round-robin", "least_loaded": "least-loaded", "kv_prefix": "kv"}


@dataclass(frozen=True)
class ProgramTemplate:
    """The template that says which program a step is, and the values that it takes."""

    template: str
    values: Callable[[Topology], dict[str, Any]] = lambda topology: {}


@dataclass(frozen=True)
class Scripts:
    """What a runtime runs.

    `worker` says which program a rank is, `server` what a launcher starts beside the first rank (none where the ranks
    serve by themselves), `programs` what the steps are, by their kind, that run in the engine's image as well. All
    other steps are modules of trtdist; `prover` is the one that sends canaries.
    """

    worker: str
    prover: str
    server: str | None = None
    server_values: Callable[[Topology, Server], dict[str, Any]] = lambda topology, server: {}
    programs: Mapping[str, ProgramTemplate] = field(default_factory=dict)

    def in_image(self, step: Step) -> bool:
        """Whether a step runs a program of the engine's image."""
        return step.kind == "workers" or step.kind in self.programs

    def program(self, topology: Topology, step: Step) -> dict[str, Any]:
        """What the task file of a step that is no server takes: its template, with the values of that."""
        found = self.programs.get(step.kind)
        if found is not None:
            return {"program": found.template, **found.values(topology)}
        modules = {"service": ["trtdist.services", step.name], "canary": [self.prover]}
        return {
            "program": "_program.trtdist.sh.j2",
            "arguments": modules.get(step.kind, [f"trtdist.serving.{step.kind}"]),
        }


def scripts_of(topology: Topology) -> Scripts:
    """The scripts of the runtime that a topology names."""
    return _RUNTIMES[topology.runtime]


def beside(plan: Plan, topology: Topology, step: Step) -> dict[str, str]:
    """The files that belong to a step beside its launch line and task, by their names in `scripts/`."""
    runtime, release = scripts_of(topology), release_of(topology.tensorrt_llm, topology.container.image)
    if step.kind == "router" and step.kind in runtime.programs:
        return {f"{step.stem}.disagg_config.yaml": to_yaml(_router(plan, topology, release))}
    if step.kind != "workers" or runtime.server is None:
        return {}
    server = plan.server(step.servers[0])
    options = {**engine_options(plan, server, release), **_cluster(topology)}
    script = render(
        "server.sh.j2",
        plan=plan,
        step=step,
        server=server,
        model=plan.model,
        workdir=topology.container.workdir,
        program=runtime.server,
        **runtime.server_values(topology, server),
    )
    return {f"{step.stem}.server.sh": script, f"{step.stem}.extra_llm_api_options.yaml": to_yaml(options)}


def _router(plan: Plan, topology: Topology, release: Version | None) -> dict[str, Any]:
    cluster = _cluster(topology)
    addresses = {} if cluster else {server.name: f"@{server.name}@" for server in plan.servers}
    return {**router_config(plan, addresses), **cluster}


def _cluster(topology: Topology) -> dict[str, Any]:
    """Where servers register and the router looks for them, when it is not told their addresses."""
    found = topology.router.discovery == "etcd" and topology.disaggregated
    return {"disagg_cluster": cluster_of(topology)} if found else {}


def _trtllm_server(topology: Topology, server: Server) -> dict[str, Any]:
    return {"role": _ROLES.get(server.role) if topology.router.discovery == "etcd" else None}


def _trtllm_router(topology: Topology) -> dict[str, Any]:
    return {"ready": math.ceil(topology.timeouts.ready), "request": _REQUEST_S}


def _dynamo_server(topology: Topology, server: Server) -> dict[str, Any]:
    return {"mode": _MODES.get(server.role), "events": topology.router.policy == "kv_prefix"}


def _dynamo_front(topology: Topology) -> dict[str, Any]:
    return {"mode": _ROUTER_MODES[topology.router.policy], "enforce": topology.disaggregated}


_RUNTIMES = {
    "trtdist": Scripts("_worker.trtdist.sh.j2", "trtdist.serving.canary"),
    "trtllm-serve": Scripts(
        "_worker.launched.sh.j2",
        "trtdist.serving.http_prover",
        "_server.trtllm-serve.sh.j2",
        _trtllm_server,
        {"router": ProgramTemplate("_router.trtllm-serve.sh.j2", _trtllm_router)},
    ),
    "dynamo": Scripts(
        "_worker.launched.sh.j2",
        "trtdist.serving.http_prover",
        "_server.dynamo.sh.j2",
        _dynamo_server,
        {"front": ProgramTemplate("_front.dynamo.sh.j2", _dynamo_front)},
    ),
}
