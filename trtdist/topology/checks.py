"""What no single value shows: sections and choices that exclude or need each other.

Works on the data before it is known to be right, so that these problems are told together with all others; whatever
is malformed is left to the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtdist.topology.nodes import Section, at
from trtdist.topology.problems import Problems

__all__ = ["REFERENCE_TP", "cross_checks"]

_SERVERS = ("context_servers", "generation_servers", "servers")

# The runtimes whose programs are not ours, and what of `router` and `router.http` only ours read.
_FOREIGN = ("trtllm-serve", "dynamo")
_OF_ROUTER = ("weights", "direct_below")
_OF_FRONT = ("keys", "certificate", "certificate_key", "processes", "max_requests")

# The reference engine shares its eight heads among the ranks of a server, and nothing else.
REFERENCE_TP = (1, 2, 4, 8)


def cross_checks(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    """Note what does not go together."""
    _roles(data, root, problems)
    _runtime(data, root, problems)
    _one_door(data, root, problems)
    _container(data, root, problems)
    _one_of(data, root, problems)
    _reference(data, root, problems)


def _part(data: Any, key: str) -> Mapping[str, Any]:
    value = data.get(key) if isinstance(data, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _roles(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    context, generation, monolithic = (key in data for key in _SERVERS)
    if monolithic and (context or generation):
        other = "context_servers" if context else "generation_servers"
        problems.error(
            "TRT020",
            f"'servers' (monolithic) and {other!r} (disaggregated) exclude each other; remove one of them",
            at(root, ("servers",)),
        )
    elif context != generation:
        there, missing = _SERVERS[:2] if context else _SERVERS[1::-1]
        problems.error("TRT021", f"{there!r} needs {missing!r} beside it; add that section", at(root, (there,)))
    elif not (context or monolithic):
        problems.error(
            "TRT021", "there are no servers: add 'servers', or 'context_servers' and 'generation_servers'", root.origin
        )


def _runtime(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    runtime = data.get("runtime", "trtdist")
    if runtime in _FOREIGN and data.get("launch", "mpi_world") == "mpi_world":
        where = at(root, ("launch",)) if "launch" in data else at(root, ("runtime",))
        problems.error("TRT022", f"runtime {runtime} has no common MPI world; write `launch: per_server`", where)
    if data.get("engine") == "reference" and runtime in _FOREIGN:
        problems.error(
            "TRT023", f"runtime {runtime} serves TensorRT-LLM only; write `runtime: trtdist`", at(root, ("engine",))
        )
    router = _part(data, "router")
    if runtime in _FOREIGN:
        _of_trtdist_alone(str(runtime), router, root, problems)
        _no_spares(str(runtime), _part(data, "slurm").get("spares"), root, problems)
    if runtime != "trtllm-serve" and router.get("discovery", "static") != "static":
        problems.error(
            "TRT030",
            "router.discovery is read by `runtime: trtllm-serve` only; leave it out",
            at(root, ("router", "discovery")),
        )


def _one_door(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    """The router of TensorRT-LLM is for disaggregated servers; a monolithic one is asked itself."""
    if data.get("runtime") == "trtllm-serve" and _count(_part(data, "servers"), "num_instances") > 1:
        problems.error(
            "TRT030",
            "runtime trtllm-serve has no router for monolithic servers; write num_instances: 1, or"
            " take `runtime: dynamo` or `runtime: trtdist`",
            at(root, ("servers", "num_instances")),
        )


def _of_trtdist_alone(runtime: str, router: Mapping[str, Any], root: Section, problems: Problems) -> None:
    """Keys of the router and front end that programs of others have no word for."""
    given: list[tuple[str, ...]] = [("router", key) for key in _OF_ROUTER if key in router]
    given += [("router", "http", key) for key in _OF_FRONT if key in _part(router, "http")]
    for path in given:
        problems.error("TRT030", f"runtime {runtime} has no {'.'.join(path)}; leave it out", at(root, path))


def _no_spares(runtime: str, spares: Any, root: Section, problems: Problems) -> None:
    """A server that is started again must be where routers were told that it is."""
    if isinstance(spares, int) and spares > 0:
        problems.error(
            "TRT030",
            f"with runtime {runtime} a server stays at the address that others were told; leave slurm.spares out",
            at(root, ("slurm", "spares")),
        )


def _container(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    container = _part(data, "container")
    runtime, image = container.get("runtime", "none"), container.get("image")
    if image is not None and runtime == "none":
        problems.error(
            "TRT024",
            "container.image is not used without a runtime; write container.runtime, such as pyxis or docker",
            at(root, ("container", "image")),
        )
    elif image is None and isinstance(runtime, str) and runtime != "none":
        problems.error(
            "TRT024", f"container runtime {runtime} needs an image; write container.image", at(root, ("container",))
        )


def _one_of(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    services = _part(data, "services")
    for name in ("nats", "etcd"):
        service = _part(services, name)
        if service.get("external") is not None and service.get("binary") is not None:
            problems.error(
                "TRT025",
                f"services.{name}: 'external' uses a server that runs already, so 'binary' starts nothing; keep one",
                at(root, ("services", name, "binary")),
            )
    network = _part(data, "network")
    if network.get("interface") is not None and network.get("subnet") is not None:
        problems.error(
            "TRT025",
            "network: 'interface' and 'subnet' both choose the network; keep one",
            at(root, ("network", "subnet")),
        )


def _reference(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    engine = data.get("engine", "tensorrt_llm")
    if engine == "reference":
        _reference_ranks(data, root, problems)
    if engine != "tensorrt_llm":
        return
    for key in _SERVERS:
        if _part(data, key).get("reference") is not None:
            problems.error(
                "TRT023",
                f"{key}.reference is read by `engine: reference` only; remove it or change the engine",
                at(root, (key, "reference")),
            )


def _reference_ranks(data: Mapping[str, Any], root: Section, problems: Problems) -> None:
    for key in _SERVERS:
        servers = _part(data, key)
        for size in ("pipeline_parallel_size", "context_parallel_size"):
            if _count(servers, size) > 1:
                problems.error(
                    "TRT027",
                    f"the reference engine is tensor parallel only; {key}.{size} must be 1",
                    at(root, (key, size)),
                )
        if _count(servers, "tensor_parallel_size") not in REFERENCE_TP:
            problems.error(
                "TRT027",
                f"the reference engine has 8 heads to share; {key}.tensor_parallel_size must be 1, 2, 4 or 8",
                at(root, (key, "tensor_parallel_size")),
            )


def _count(servers: Mapping[str, Any], size: str) -> int:
    """A number of ranks; 1 for what the models refuse."""
    value = servers.get(size, 1)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1
