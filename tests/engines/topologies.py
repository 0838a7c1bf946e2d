"""Plans and requests for tests of the reference engine."""

from __future__ import annotations

from typing import Any

from tests.planning.topologies import section, topology
from trtdist.engines.base import GENERATION_ONLY, EngineOutput, GenerateRequest, Sampling
from trtdist.plan import Plan
from trtdist.planning import Target, plan

__all__ = ["KEY", "continued", "disaggregated", "monolithic", "reusing"]

# The key of a run, as secrets/kv.key has it.
KEY = "0123456789abcdef" * 4


def monolithic(tp: int = 1, **knobs: Any) -> Plan:
    """One server that does all."""
    servers = {**section(1, tp), "reference": knobs or None}
    return plan(topology(engine="reference", servers=servers), Target.LOCAL)


def reusing(tp: int = 1) -> Plan:
    """One server that reuses what it has of prompts that begin alike."""
    servers = section(1, tp)
    servers["kv_cache_config"] = {**servers["kv_cache_config"], "enable_block_reuse": True}
    return plan(topology(engine="reference", servers=servers), Target.LOCAL)


def disaggregated(
    launch: str, context: int = 1, generation: int = 1, generations: int = 1, knobs: dict[str, Any] | None = None
) -> Plan:
    """A context server and generation servers of the given TP; `knobs` are those of the generation servers."""
    read = section(1, context, fraction=0.1)
    write = {**section(generations, generation, fraction=0.1), "reference": knobs}
    made = topology(engine="reference", launch=launch, context_servers=read, generation_servers=write)
    return plan(made, Target.LOCAL)


def continued(output: EngineOutput, sampling: Sampling, prompt: str = "") -> GenerateRequest:
    """The request to the generation server that follows the answer of a context server."""
    return GenerateRequest("r", sampling, prompt, request_type=GENERATION_ONLY, disaggregated=output.disaggregated)
