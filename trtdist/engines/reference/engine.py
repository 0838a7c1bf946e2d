"""The reference engine as a worker drives it: the asyncio side, and the thread beside it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

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
from trtdist.engines.reference.follower import follow
from trtdist.engines.reference.handle import Handle, parse
from trtdist.engines.reference.knobs import check_server, reuses
from trtdist.engines.reference.leader import Ask, Cancelled, Leader, Released, Stopped, Submitted
from trtdist.engines.reference.links import Links
from trtdist.engines.reference.prefixes import BLOCK, BLOCKS
from trtdist.engines.reference.rank import say
from trtdist.engines.reference.sampling import check_sampling
from trtdist.engines.reference.sequence import Job, prompt_digest
from trtdist.engines.reference.shape import POSITIONS, VOCABULARY
from trtdist.engines.reference.store import Store
from trtdist.engines.reference.text import FIRST_WORD, tokenize
from trtdist.plan import Plan

__all__ = ["ReferenceEngine"]


class ReferenceEngine:
    """One rank of a server that computes with the reference model.

    `connect` gives the links between ranks; `store` has the KV caches that this rank keeps for others.
    """

    name = "reference"
    version = ""

    def __init__(self, config: EngineConfig, connect: Callable[[EngineConfig], Links]) -> None:
        self._config = config
        self._connect = connect
        self.store = Store()
        self._leader: Leader | None = None
        self._ended: asyncio.Future[str] | None = None
        self._jobs: set[Job] = set()

    async def start(self) -> None:
        """Load; returns when all ranks have. EngineError when one of them cannot, or the model cannot be shared so."""
        check_server(self._config.server)
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[str] = loop.create_future()
        ended: asyncio.Future[str] = loop.create_future()
        self._ended = ended
        self._leader = Leader(self._config, self.store, self._connect, lambda: _settle(loop, loaded, ""))
        thread = threading.Thread(target=self._run, args=(self._leader, ended), name="reference-engine", daemon=True)
        thread.start()
        await asyncio.wait({loaded, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not loaded.done():
            raise EngineError(ended.result() or "the engine was stopped while it loaded")

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineOutput]:
        """Run one request; closing the iterator cancels it. EngineError for this request alone."""
        job = self._job(request)
        self._ask(Submitted(job))
        self._jobs.add(job)
        told, whole = 0, False
        try:
            while not whole:
                output = await job.outputs.get()
                if isinstance(output, EngineError):
                    raise output
                told += len(output.token_ids)
                whole = output.finish_reason is not None
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            if not whole:
                say(f"{self._config.server.name}: request {request.request_id!r}: cancelled after {told} tokens")
            raise
        finally:
            self._jobs.discard(job)
            with contextlib.suppress(EngineError):
                self._ask(Cancelled(job))

    async def release(self, context_request_id: int) -> None:
        """Free a KV cache that no generation server will fetch."""
        self._ask(Released(context_request_id))

    @property
    def reuse_tokens(self) -> int:
        """How many tokens of earlier prompts are held for those that begin alike."""
        return BLOCK * BLOCKS if reuses(self._config.server) else 0

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """The token ids of a prompt."""
        return tokenize(prompt)

    async def died(self) -> str:
        """The reason, once the engine has failed."""
        assert self._ended is not None, "started before"
        reason = await asyncio.shield(self._ended)
        if not reason:
            await asyncio.get_running_loop().create_future()
        return reason

    async def stop(self) -> None:
        """End the engine and its followers; returns when this process has left MPI."""
        if self._leader is not None and self._ended is not None:
            self._leader.ask(Stopped())
            await asyncio.wait({self._ended})

    def follow(self) -> None:
        """Take part as a rank that does not lead; EngineError when the leader or this rank has failed."""
        check_server(self._config.server)
        follow(self._config, self.store, self._connect)

    def _ask(self, what: Ask) -> None:
        if self._leader is None or self._ended is None or self._ended.done():
            raise EngineError("the engine does not run")
        self._leader.ask(what)

    def _run(self, leader: Leader, ended: asyncio.Future[str]) -> None:
        loop = ended.get_loop()
        reason = "the engine thread was interrupted"
        try:
            leader.run()
            reason = ""
        except Exception as error:  # the process boundary of the engine: what went wrong in its thread is its death
            reason = str(error) or type(error).__name__
        finally:
            _settle(loop, ended, reason)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._fail_all, reason)

    def _fail_all(self, reason: str) -> None:
        for job in self._jobs:
            job.outputs.put_nowait(EngineError(f"the engine died: {reason}" if reason else "the engine was stopped"))

    def _job(self, request: GenerateRequest) -> Job:
        check_sampling(request.sampling)
        kinds = (CONTEXT_ONLY, GENERATION_ONLY, CONTEXT_AND_GENERATION)
        if request.request_type not in kinds:
            raise EngineError(f"request type {request.request_type!r} is none of {', '.join(kinds)}")
        handle = _handle(request, self._config.plan) if request.request_type == GENERATION_ONLY else None
        tokens = () if handle else request.token_ids or tokenize(request.prompt)
        if any(not 0 <= token < VOCABULARY for token in tokens):
            raise RefusedError(f"a token is not in the vocabulary of {VOCABULARY}")
        length = handle.tokens if handle else len(tokens)
        wanted = length + request.sampling.max_tokens
        if wanted > POSITIONS and request.request_type == CONTEXT_ONLY:
            # Asked for one token, whatever the user wants of the generation server.
            raise RefusedError(f"{length} prompt tokens are too many: with the answer, {POSITIONS} are the limit")
        if wanted > POSITIONS:
            raise RefusedError(
                f"{length} prompt tokens and {request.sampling.max_tokens} to be generated are {wanted}; the limit is"
                f" {POSITIONS} together"
            )
        return Job(request, tokens, handle, asyncio.get_running_loop())


def _handle(request: GenerateRequest, plan: Plan) -> Handle:
    """The KV cache that a generation-only request names, EngineError when it does not fit the request."""
    params = request.disaggregated
    if params is None:
        raise EngineError("a generation server needs what the context server gave; it does not read prompts")
    handle = parse(params.opaque_state)
    if handle.number != params.context_request_id:
        raise EngineError("the state of the context server belongs to another request")
    _check_places(handle, plan)
    first = params.first_token_ids
    if len(first) != 1 or not FIRST_WORD <= first[0] < VOCABULARY:
        raise EngineError("the context server's first token is missing or no word of the reference engine")
    prompt = request.token_ids or (tokenize(request.prompt) if request.prompt else ())
    if prompt and prompt_digest(prompt) != handle.prompt:
        raise EngineError("the KV cache was made from another prompt")
    return handle


def _check_places(handle: Handle, plan: Plan) -> None:
    """EngineError unless the KV cache lies where a context server of this plan keeps it."""
    found = [server for server in plan.servers if server.name == handle.server and server.role == "context"]
    if not found or len(handle.places) != found[0].size:
        raise EngineError(f"the KV cache is said to lie at {handle.server!r}, which is no context server of this plan")
    world = tuple(rank.world_rank for rank in found[0].ranks)
    apart = all(isinstance(place, tuple) for place in handle.places)
    if handle.places != world if plan.launch == "mpi_world" else not apart:
        raise EngineError(f"the KV cache of {handle.server} is said to lie where that server is not")


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[str], result: str) -> None:
    """Set the result of a future from another thread, if its loop still runs."""

    def settle() -> None:
        if not future.done():
            future.set_result(result)

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
