"""Where the servers of runtimes that are not ours listen, found in the allocation. Standard library, Python 3.9.

Each has two ports on the node of its leader: for HTTP, and for the rendezvous of PyTorch. They are chosen there shortly
before the server binds them. A claim would be in its way: `trtllm-serve` binds without SO_REUSEADDR
(tensorrt_llm/commands/serve.py 00209af1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trtdist.errors import TrtdistError
from trtdist.plan import Plan
from trtdist.supervisor.facts import Node
from trtdist.supervisor.ports import PortClaims, range_of

__all__ = ["door_of", "ports_asked", "server_addresses"]

_EACH = 2


def ports_asked(plan: Plan) -> tuple[int, ...]:
    """How many ports the servers need on each node."""
    leads = [server.leader.node for server in plan.servers] if plan.over_http else []
    return tuple(_EACH * leads.count(node) for node in range(plan.allocation.nodes))


def door_of(plan: Plan) -> str:
    """The server that users ask themselves, since nothing stands before it; "" when there is a router or front."""
    behind = any(step.kind in ("router", "front") for step in plan.steps)
    return "" if behind else plan.servers[0].name


def server_addresses(
    plan: Plan, nodes: Sequence[Node], values: Mapping[str, str], claims: PortClaims
) -> dict[str, str]:
    """What resolved.env says of the servers, as lists of NAME=VALUE: TRTDIST_ENDPOINTS (where each listens, HOST:PORT)
    and TRTDIST_MASTERS (its second port). TrtdistError for addresses that TensorRT-LLM cannot use."""
    asked = zip(nodes, ports_asked(plan))
    free = [list(node.ports or _free_here(node, count, values, claims)) for node, count in asked]
    listening, masters = {}, {}
    for server in plan.servers:
        node = server.leader.node
        address = nodes[node].address
        if ":" in address:
            # extract_ctx_gen_cfgs in tensorrt_llm/llmapi/disagg_utils.py (0228a712) parts URLs at each colon.
            raise TrtdistError(f"{plan.runtime} knows IPv4 alone, and the run would use {address}: set network.subnet")
        listening[server.name] = f"{address}:{free[node].pop()}"
        masters[server.name] = str(free[node].pop())
    door = door_of(plan)
    if door:
        listening[door] = f"{values['TRTDIST_HTTP_HOST']}:{values['TRTDIST_HTTP_PORT']}"
    claims.release([int(values["TRTDIST_HTTP_PORT"])])
    return {"TRTDIST_ENDPOINTS": _listed(listening), "TRTDIST_MASTERS": _listed(masters)}


def _free_here(node: Node, count: int, values: Mapping[str, str], claims: PortClaims) -> list[int]:
    ports = claims.claim(node.address, count, range_of(values)) if count else []
    claims.release(ports)
    return ports


def _listed(found: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in found.items())
