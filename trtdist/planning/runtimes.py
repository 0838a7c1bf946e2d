"""What serves around the engines, as far as a plan depends on it: which head services and which front a runtime has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtdist.topology.model import Topology

__all__ = ["ServingRuntime", "serving_runtime"]


@dataclass(frozen=True)
class ServingRuntime:
    """One value of `runtime` in a topology.

    `services` are the head services that a deployment needs, in the order of their start. `fronts` are the kinds of the
    steps between its users and its servers, none where users ask a server itself. `ours` says whether its programs are
    of this project: they take the API keys of a run, and speak TLS by its certificates.
    """

    services: Callable[[Topology], tuple[str, ...]]
    fronts: Callable[[Topology], tuple[str, ...]]
    ours: bool = False


def serving_runtime(topology: Topology) -> ServingRuntime:
    """The runtime that a topology names."""
    return _RUNTIMES[topology.runtime]


def _both(topology: Topology) -> tuple[str, ...]:
    return "nats", "etcd"


def _of_trtdist(topology: Topology) -> tuple[str, ...]:
    return ("router",) if topology.router.http is None else ("router", "front")


def _for_discovery(topology: Topology) -> tuple[str, ...]:
    return ("etcd",) if topology.router.discovery == "etcd" and topology.disaggregated else ()


def _if_disaggregated(topology: Topology) -> tuple[str, ...]:
    return ("router",) if topology.disaggregated else ()


def _of_dynamo(topology: Topology) -> tuple[str, ...]:
    return ("front",)


_RUNTIMES = {
    "trtdist": ServingRuntime(_both, _of_trtdist, ours=True),
    # Its client of etcd knows neither TLS nor passwords (tensorrt_llm/serve/cluster_storage.py 057d4a79: secure=False).
    "trtllm-serve": ServingRuntime(_for_discovery, _if_disaggregated),
    # Its clients compare the names in certificates, and those of a run have none (lib/runtime/src/transports/etcd.rs
    # 0f249f5e, nats.rs 08207471).
    "dynamo": ServingRuntime(_both, _of_dynamo),
}
