"""Between the words of the engine seam and those of the LLM API.

Sources: `tensorrt_llm/sampling_params.py` (names, and that `temperature` must be above 0), `tensorrt_llm/llmapi/llm.py`
(`generate_async`), `tensorrt_llm/executor/result.py` (`CompletionOutput`, finish reasons). A context-only request ends
with `length` when it was asked for one token, and with `not_finished` in releases that know it; others raise
`Unknown finish reason: FinishReason.NOT_FINISHED` when asked for more, so it is always one.
"""

from __future__ import annotations

import secrets
from typing import Any

from trtdist.engines.base import (
    CONTEXT_ONLY,
    GENERATION_ONLY,
    DisaggregatedParams,
    EngineError,
    EngineOutput,
    GenerateRequest,
    Sampling,
)
from trtdist.engines.tensorrt_llm.api import Api, field_names
from trtdist.engines.tensorrt_llm.handle import MORE_FIELDS, Handle, parse

__all__ = ["Progress", "handed_over", "sampling_arguments", "to_context", "to_generation"]

# `timeout` is a limit of TensorRT-LLM's own, and `cancelled` what its `abort` leaves.
_REASONS = {"stop": "stop", "length": "length", "timeout": "length", "cancelled": "cancelled"}
# disagg_request_id: below are the ids that engines count by themselves (MIN_GLOBAL_ID in llmapi/disagg_utils.py).
_LEAST_ID, _MOST_ID = 1 << 40, (1 << 63) - 1


def sampling_arguments(sampling: Sampling, max_tokens: int) -> dict[str, Any]:
    """The arguments of `SamplingParams`.

    Greedy is `top_k` 1, as temperature 0 is not allowed in older releases. Otherwise `top_p` is always given: PyTorch
    samplers of older releases choose greedily when neither it nor `top_k` is.
    """
    found: dict[str, Any] = {"max_tokens": max_tokens}
    if sampling.temperature > 0:
        found.update(temperature=sampling.temperature, top_p=sampling.top_p)
    else:
        found["top_k"] = 1
    if sampling.seed is not None:
        found["seed"] = sampling.seed
    if sampling.stop:
        found["stop"] = list(sampling.stop)
    return found


def to_context(api: Api) -> Any:
    """The `DisaggregatedParams` of a context-only request.

    Where there is a `disagg_request_id` both servers must name the request by it; the Python transceiver needs it.
    """
    more = {}
    if "disagg_request_id" in field_names(api.disaggregated_params):
        more["disagg_request_id"] = _LEAST_ID + secrets.randbelow(_MOST_ID - _LEAST_ID)
    return api.disaggregated_params(request_type=CONTEXT_ONLY, **more)


def handed_over(found: Any, asked: Any, api: Api, server: str, transport: str) -> DisaggregatedParams:
    """What a context-only result tells, for the generation server; EngineError when it tells nothing."""
    if found is None or not found.first_gen_tokens or found.ctx_request_id is None:
        raise EngineError("the context server gave no KV cache: its cache_transceiver_config may be missing")
    more = {name: getattr(found, name, None) for name in MORE_FIELDS}
    if more["disagg_request_id"] is None:
        more["disagg_request_id"] = getattr(asked, "disagg_request_id", None)
    told = {name: value for name, value in more.items() if value is not None}
    state = Handle(server, api.version, transport, bytes(found.opaque_state or b""), told).encode()
    return DisaggregatedParams(tuple(found.first_gen_tokens), int(found.ctx_request_id), state)


def to_generation(request: GenerateRequest, api: Api, transport: str) -> Any:
    """The `DisaggregatedParams` of a generation-only request; EngineError when the KV cache is none for this server."""
    params = request.disaggregated
    if params is None:
        raise EngineError("a generation server needs what the context server gave; it does not read prompts")
    handle = parse(params.opaque_state)
    if handle.transport != transport:
        raise EngineError(
            f"{handle.server} sends KV caches over {handle.transport or 'nothing'} and this server receives them over"
            f" {transport}: give both the same cache_transceiver_config"
        )
    if handle.release != api.version:
        raise EngineError(
            f"{handle.server} runs TensorRT-LLM {handle.release} and this server {api.version}: use one image for both"
        )
    return api.disaggregated_params(
        request_type=GENERATION_ONLY,
        first_gen_tokens=list(params.first_token_ids),
        ctx_request_id=params.context_request_id,
        opaque_state=handle.state,
        **handle.more,
    )


class Progress:
    """What was told of an answer so far, so that each output has only what is new.

    A result's `token_ids` and `text` grow from response to response (`DetokenizedGenerationResultBase`), except that
    a stop word may be cut off the end again.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._text = 0

    def output(self, result: Any) -> EngineOutput:
        """The output for the newest response of a result; EngineError for an end that nobody knows."""
        completion = result.outputs[0]
        tokens, text = tuple(completion.token_ids[self._tokens :]), completion.text[self._text :]
        self._tokens, self._text = self._tokens + len(tokens), self._text + len(text)
        if not result.finished:
            return EngineOutput(tokens, text)
        if completion.finish_reason not in _REASONS:
            raise EngineError(f"the engine ended an answer with {completion.finish_reason!r}, which is no end of one")
        usage = {"prompt_tokens": len(result.prompt_token_ids), "completion_tokens": len(completion.token_ids)}
        return EngineOutput(tokens, text, _REASONS[completion.finish_reason], usage=usage)
