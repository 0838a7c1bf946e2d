"""tensorrt_llm/disaggregated_params.py; fields after `draft_tokens` came with later releases."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass

from tensorrt_llm.version import NUMBER


@dataclass(kw_only=True)
class _DisaggregatedParams:
    request_type: str | None = None
    first_gen_tokens: list[int] | None = None
    ctx_request_id: int | None = None
    opaque_state: bytes | None = None
    draft_tokens: list[int] | None = None

    def __post_init__(self):
        kinds = ("context_only", "generation_only", "context_and_generation")
        if self.request_type is not None and self.request_type.lower() not in kinds:
            raise ValueError(
                f"Unknown request type: {self.request_type}. Must be context_only, generation_only or"
                " context_and_generation"
            )


_LATER = ("disagg_request_id", "ctx_dp_rank", "ctx_info_endpoint") if NUMBER >= (1, 2) else ()

DisaggregatedParams = make_dataclass(
    "DisaggregatedParams",
    [(name, object, field(default=None)) for name in _LATER],
    bases=(_DisaggregatedParams,),
    kw_only=True,
)
# Made above, and pickled on the way to the workers.
DisaggregatedParams.__module__ = __name__
