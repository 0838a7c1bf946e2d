"""tensorrt_llm/executor/result.py: what a caller gets for a request, which grows with each response."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tensorrt_llm.disaggregated_params import DisaggregatedParams
from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.version import NUMBER


@dataclass
class Response:
    """One response of the executor: new tokens, and `error` when the request has failed."""

    client_id: int
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    context: dict | None = None
    error: str = ""


@dataclass
class CompletionOutput:
    """The answer so far."""

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | None = None
    disaggregated_params: object = None


class GenerationResult:
    """The answer to one request; an async iterator over its responses."""

    def __init__(self, request, executor, tokenizer):
        self._request, self._executor, self._tokenizer = request, executor, tokenizer
        self.outputs = [CompletionOutput()]
        self._loop = asyncio.get_running_loop()
        self.aqueue: asyncio.Queue[Response] = asyncio.Queue()
        self._done = self._aborted = False

    @property
    def request_id(self) -> int:
        """The number of the request in its proxy."""
        return self._request.id

    @property
    def prompt_token_ids(self) -> list[int]:
        """The tokens of the prompt."""
        return self._request.prompt_token_ids

    @property
    def finished(self) -> bool:
        """Whether this was the last response."""
        return self._done

    def abort(self) -> None:
        """Ask the executor to end this request; what is left of it still comes."""
        self._executor.abort_request(self.request_id)
        self._aborted = True

    def put(self, response: Response) -> None:
        """Hand over a response, from the proxy's thread."""
        self._loop.call_soon_threadsafe(self.aqueue.put_nowait, response)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self._done:
            raise StopAsyncIteration
        self._handle_response(await self.aqueue.get())
        return self

    def _handle_response(self, response: Response) -> None:
        if response.error:
            raise RequestError(response.error)
        output = self.outputs[0]
        output.token_ids.extend(response.tokens)
        output.text = self._tokenizer.decode(output.token_ids)
        self._done = bool(response.finish)
        if response.context is not None:
            output.disaggregated_params = DisaggregatedParams(request_type="context_only", **response.context)
        if response.finish in ("stop", "length", "timeout", "cancelled"):
            output.finish_reason = response.finish
        elif response.finish:
            # Since 0.21 `not_finished` is an end of a context-only request.
            if NUMBER < (0, 21):
                raise ValueError("Unknown finish reason: FinishReason.NOT_FINISHED")
            output.finish_reason = "not_finished"
        for word in self._request.sampling_params.stops():
            if word in output.text:
                output.text = output.text[: output.text.find(word)]
                output.finish_reason, output.stop_reason = "stop", word
                self.abort()
                self._done = True
