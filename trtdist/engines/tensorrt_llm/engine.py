"""A TensorRT-LLM server as a worker drives it: `LLM` in its own thread, results in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from typing import Any, Callable, TypeVar

from trtdist.engines.base import (
    CONTEXT_AND_GENERATION,
    CONTEXT_ONLY,
    GENERATION_ONLY,
    EngineConfig,
    EngineError,
    EngineOutput,
    GenerateRequest,
    RefusedError,
)
from trtdist.engines.tensorrt_llm import options, session
from trtdist.engines.tensorrt_llm.api import Api, load
from trtdist.engines.tensorrt_llm.deaths import Deaths
from trtdist.engines.tensorrt_llm.device import choose_device, leave_mpi, say
from trtdist.engines.tensorrt_llm.health import Health
from trtdist.engines.tensorrt_llm.requests import (
    Progress,
    handed_over,
    sampling_arguments,
    to_context,
    to_generation,
)
from trtdist.engines.tensorrt_llm.room import Room
from trtdist.engines.world import place

__all__ = ["TensorRtLlmEngine"]

_T = TypeVar("_T")


class TensorRtLlmEngine:
    """One rank of a server that computes with TensorRT-LLM."""

    name = "tensorrt_llm"

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._api: Api | None = None
        self._llm: Any = None
        self._session: Any = None
        self._transport = ""
        self.version = ""
        self._deaths: Deaths | None = None
        self._loading: asyncio.Future[tuple[Api, Any]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._room: Room | None = None

    @property
    def reuse_tokens(self) -> int:
        """What its KV cache has room for, once it has told; 0 unless the router asks for it (`policy: kv_prefix`)."""
        return 0 if self._room is None else self._room.tokens

    async def start(self) -> None:
        """Load; returns when all ranks have. EngineError as soon as one of them cannot, whatever `LLM` waits for."""
        deaths = self._deaths = Deaths()
        loading = self._loading = _in_thread("tensorrt-llm-load", lambda: self._load(deaths))
        waiting: list[asyncio.Future[Any]] = [loading, deaths.reason]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            raise EngineError(deaths.reason.result())
        error = loading.exception()
        if isinstance(error, EngineError):
            raise error
        if error is not None:
            raise EngineError(_described(error)) from error
        self._api, self._llm = loading.result()
        self.version = self._api.version
        self._watching = asyncio.ensure_future(Health(self._llm, deaths).watch())
        if options.wants_events(self._config, self._api):
            self._room = Room(self._llm, options.tokens_per_block(self._config))
        say(f"{self._config.server.name} runs TensorRT-LLM {self._api.version}")

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineOutput]:
        """Run one request; closing the iterator cancels it. EngineError for this request alone."""
        llm, api, deaths = self._running()
        if request.request_type == GENERATION_ONLY:
            params = to_generation(request, api, self._transport)
            if request.sampling.max_tokens <= len(params.first_gen_tokens):
                yield self._first_is_last(request, params.first_gen_tokens)
                return
        elif request.request_type == CONTEXT_ONLY:
            params = to_context(api)
        elif request.request_type == CONTEXT_AND_GENERATION:
            params = None
        else:
            raise EngineError(f"request type {request.request_type!r} is none that TensorRT-LLM has")
        result = self._submitted(llm, api, request, params)
        progress = Progress()
        try:
            async for response in result:
                output = progress.output(response)
                if request.request_type == CONTEXT_ONLY:
                    output = self._context_output(output, response, params)
                yield output
            if self._room is not None:
                self._room.begin()
        except (asyncio.CancelledError, GeneratorExit):
            self._abort(request, result)
            raise
        except (api.request_error, ValueError) as error:
            raise EngineError(str(error)) from None
        except RuntimeError as error:
            # What is no error of this request alone is the engine's (`_handle_background_error`, executor.py).
            deaths.failed(_described(error))
            raise EngineError(f"the engine failed: {_described(error)}") from error

    async def release(self, context_request_id: int) -> None:
        """Nothing to do: `abort` knows no request that has ended (`abort_request`, executor/base_worker.py), so that
        only TensorRT-LLM's own time-out frees what is not fetched. `options` sets it (`kv_transfer_timeout_ms`)."""

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """The token ids of a prompt."""
        llm, _, _ = self._running()
        return tuple(llm.tokenizer.encode(prompt))

    async def died(self) -> str:
        """The reason, once the engine has failed."""
        assert self._deaths is not None, "started before"
        return await asyncio.shield(self._deaths.reason)

    async def stop(self) -> None:
        """End the engine and its followers. One that has died is left alone: its `shutdown` would wait for ever.

        Nothing ends a thread that loads, nor an MPI whose other ranks still load: then the process ends here.
        """
        if self._watching is not None:
            self._watching.cancel()
        if self._room is not None:
            self._room.end()
        if self._deaths is None or self._deaths.reason.done():
            return
        self._deaths.stop()
        if self._loading is not None and not self._loading.done():
            say(f"{self._config.server.name} is stopped while it loads")
            os._exit(0)
        if self._llm is None:
            return
        await _in_thread("tensorrt-llm-stop", self._shut_down)

    def follow(self) -> None:
        """Take part as a rank that does not lead; EngineError when it cannot."""
        choose_device(self._config)
        communicator = session.split_world(self._config)
        api = load()
        os.environ.update(options.environment(self._config, api))
        say(f"rank {self._config.rank} of {self._config.server.name} follows its leader, TensorRT-LLM {api.version}")
        session.follow(communicator)

    def _load(self, deaths: Deaths) -> tuple[Api, Any]:
        """Device, MPI, engine: in this order, and in a thread of their own since it takes minutes."""
        choose_device(self._config)
        communicator = None
        if place(self._config)[1] > 1:
            communicator = session.split_world(self._config)
        else:
            leave_mpi(os.environ)
        api = load()
        self._transport = options.transport(self._config, api)
        os.environ.update(options.environment(self._config, api))
        arguments = options.arguments(self._config, api)
        if communicator is not None:
            arguments["_mpi_session"] = self._session = session.lead(communicator, deaths)
        return api, api.llm(**arguments)

    def _shut_down(self) -> None:
        """Newer releases leave a session that they were given to whoever made it; for others the second end is none."""
        self._llm.shutdown()
        if self._session is not None:
            self._session.shutdown()

    def _running(self) -> tuple[Any, Api, Deaths]:
        if self._api is None or self._deaths is None or self._deaths.reason.done():
            raise EngineError("the engine does not run")
        return self._llm, self._api, self._deaths

    def _submitted(self, llm: Any, api: Api, request: GenerateRequest, params: Any) -> Any:
        most = 1 if request.request_type == CONTEXT_ONLY else request.sampling.max_tokens
        inputs: Any = list(request.token_ids) if request.token_ids else request.prompt
        try:
            return llm.generate_async(
                inputs,
                sampling_params=api.sampling_params(**sampling_arguments(request.sampling, most)),
                streaming=request.request_type != CONTEXT_ONLY,
                disaggregated_params=params,
            )
        except ValueError as error:
            raise RefusedError(str(error)) from None
        except RuntimeError as error:
            raise EngineError(str(error)) from error

    def _context_output(self, output: EngineOutput, response: Any, asked: Any) -> EngineOutput:
        """The single output of a context-only request: the KV cache, or the whole answer if its first token ends it."""
        assert self._api is not None
        if output.finish_reason in ("stop", "cancelled"):
            return output
        found = response.outputs[0].disaggregated_params
        where = handed_over(found, asked, self._api, self._config.server.name, self._transport)
        return EngineOutput(output.token_ids, output.text, "not_finished", where, output.usage)

    def _first_is_last(self, request: GenerateRequest, tokens: list[int]) -> EngineOutput:
        prompt = request.token_ids or self.tokenize(request.prompt)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        return EngineOutput(tuple(tokens), self._llm.tokenizer.decode(tokens), "length", usage=usage)

    def _abort(self, request: GenerateRequest, result: Any) -> None:
        if result.finished or self._deaths is None or self._deaths.reason.done():
            return
        say(f"{self._config.server.name}: request {request.request_id!r}: cancelled")
        with contextlib.suppress(RuntimeError):
            result.abort()


def _described(error: BaseException) -> str:
    """An error with what led to it: TensorRT-LLM tells the cause of "Executor worker returned error" only there."""
    told = str(error) or type(error).__name__
    cause = error.__cause__
    return f"{told}: {_described(cause)}" if cause is not None else told


def _in_thread(name: str, work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Run something in a thread that nobody waits for at the end of the process; its result or error."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except Exception as error:  # the process boundary of the engine: whatever TensorRT-LLM raises is its failure
            problem = error
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
