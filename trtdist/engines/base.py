"""What the worker asks of an engine, whatever it is.

The words are TensorRT-LLM's (LLM API, `SamplingParams`, `DisaggregatedParams`), so that the adapter is thin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trtdist.plan import Plan, Server

__all__ = [
    "CONTEXT_AND_GENERATION",
    "CONTEXT_ONLY",
    "GENERATION_ONLY",
    "DisaggregatedParams",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineOutput",
    "GenerateRequest",
    "RefusedError",
    "Sampling",
]

CONTEXT_ONLY = "context_only"
GENERATION_ONLY = "generation_only"
CONTEXT_AND_GENERATION = "context_and_generation"


class EngineError(Exception):
    """The engine refused or failed one request; the message goes to whoever asked."""


class RefusedError(EngineError):
    """The engine does not take one request, whose sender must change it: a prompt that is too long, say."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy, `seed` makes sampling reproducible."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class DisaggregatedParams:
    """What a context server hands to a generation server: the first tokens and where the KV cache lies.

    `opaque_state` belongs to the engine and travels as it is.
    """

    first_token_ids: tuple[int, ...]
    context_request_id: int
    opaque_state: bytes


@dataclass(frozen=True)
class GenerateRequest:
    """One request. `token_ids` is used when given, else `prompt` is tokenised by the engine."""

    request_id: str
    sampling: Sampling
    prompt: str = ""
    token_ids: tuple[int, ...] = ()
    request_type: str = CONTEXT_AND_GENERATION
    disaggregated: DisaggregatedParams | None = None


@dataclass(frozen=True)
class EngineOutput:
    """What was added since the output before: new tokens, their text, and at the end why it ended.

    `finish_reason` is None until the last output: `stop`, `length` or `cancelled`, and `not_finished` with
    `disaggregated` set as the single output of a context-only request.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None = None
    disaggregated: DisaggregatedParams | None = None
    usage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineConfig:
    """Which rank of which server an engine is, in which run; `run_dir` has the secrets and the resolved addresses.

    A rank that has nothing left to do waits `patience` seconds for the other ranks that started together with it.
    """

    plan: Plan
    server: Server
    rank: int
    run_dir: Path
    patience: float = 30.0


class Engine(Protocol):
    """One engine over the ranks of one server.

    The module `trtdist.engines.<name>` has `create(config: EngineConfig) -> Engine`. Every rank constructs one. The
    leader calls `start`, then `generate` for each request, then `stop`; the other ranks call `follow`, which returns
    when the leader stopped or raises when it died.
    """

    name: str
    version: str
    """What computes, once it is loaded, as far as `name` does not say it; "" for nothing to add."""

    async def start(self) -> None:
        """Load; returns when requests can be taken. The event loop is not blocked meanwhile."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[EngineOutput]:
        """Run one request; closing the iterator cancels it. Raises EngineError for this request alone."""
        ...

    async def release(self, context_request_id: int) -> None:
        """Free the KV cache that a context-only request left for a generation server that will not come."""
        ...

    @property
    def reuse_tokens(self) -> int:
        """How many tokens of earlier prompts it holds for prompts that begin alike, the last used ones; 0 for none."""
        ...

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """The token ids of a prompt."""
        ...

    async def died(self) -> str:
        """Returns, with the reason, only when the engine can serve no more."""
        ...

    async def stop(self) -> None:
        """End the engine and its followers."""
        ...

    def follow(self) -> None:
        """Take part as a rank that does not lead."""
        ...
