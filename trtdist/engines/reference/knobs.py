"""What `reference` in a server section asks for: delays in seconds, and faults."""

from __future__ import annotations

from dataclasses import dataclass

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.reference.shape import HEADS
from trtdist.plan import Server

__all__ = ["Knobs", "check_server", "knobs_of", "reuses"]


@dataclass(frozen=True)
class Knobs:
    """The knobs of one rank: faults are None where they are another rank's.

    `reuse` is `kv_cache_config.enable_block_reuse`.
    """

    load_delay: float = 0.0
    prefill_delay: float = 0.0
    step_delay: float = 0.0
    load_error: str | None = None
    exit_after_tokens: int | None = None
    exit_code: int = 1
    fault_rank: int = 0
    reuse: bool = False


def knobs_of(config: EngineConfig) -> Knobs:
    """The knobs of this rank; EngineError when there are others than known."""
    given = dict(config.server.engine_args.get("reference") or {})
    unknown = sorted(set(given) - set(Knobs.__dataclass_fields__) | ({"reuse"} & set(given)))
    if unknown:
        raise EngineError(f"{config.server.name}: the reference engine has no {', '.join(unknown)}")
    if given.get("fault_rank", 0) != config.rank:
        given.update(load_error=None, exit_after_tokens=None)
    return Knobs(**given, reuse=reuses(config.server))


def reuses(server: Server) -> bool:
    """Whether prompts that begin like earlier ones reuse their keys and values: only when it is asked for."""
    settings = server.engine_args.get("kv_cache_config") or {}
    return settings.get("enable_block_reuse") is True and server.role != "generation"


def check_server(server: Server) -> None:
    """EngineError when the ranks of a server cannot share this model."""
    tp = server.tensor_parallel_size
    if server.pipeline_parallel_size != 1 or server.context_parallel_size != 1:
        raise EngineError(
            f"{server.name}: the reference engine is tensor parallel only; set pipeline_parallel_size and"
            " context_parallel_size to 1"
        )
    if HEADS % tp or tp != server.size:
        raise EngineError(f"{server.name}: the reference engine has {HEADS} heads; tensor_parallel_size must divide it")
