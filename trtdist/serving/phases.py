"""What a server does with a request: generate an answer, or compute the KV cache and hand the request on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from nats import errors
from nats.aio.client import Client

from trtdist.engines.base import (
    CONTEXT_AND_GENERATION,
    CONTEXT_ONLY,
    GENERATION_ONLY,
    DisaggregatedParams,
    Engine,
    EngineOutput,
    GenerateRequest,
)
from trtdist.serving.held import HeldPublisher
from trtdist.serving.instance import Instance
from trtdist.serving.kept import KeptCaches
from trtdist.serving.outbox import Outbox
from trtdist.serving.protocol import Coming, Failure, GenerateCall, decode_answer
from trtdist.serving.pulse import Pulse, Watched
from trtdist.serving.wire import ProtocolError

__all__ = ["PhaseFailed", "Station", "generate", "prefill"]

# A pause of NATS that is shorter does not fail a hand-over.
HAND_OVER_S = 10.0
# From this size on, JSON takes long enough for others to notice; a thread lets them in between.
LARGE_BYTES = 256 * 1024


class PhaseFailed(Exception):
    """An attempt cannot go on: one of the protocol's codes and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Station:
    """What serves requests: a server of the plan with its engine, its connection and its instance.

    `reads` says whether it takes prompts: all do but generation servers, and those do, too, where short prompts go to
    them at once.
    """

    role: str
    instance: Instance
    engine: Engine
    nats: Client
    kept: KeptCaches
    held: HeldPublisher
    reads: bool
    pulse: Pulse = field(default_factory=Pulse)


async def generate(station: Station, call: GenerateCall, outbox: Outbox, deadline: float) -> None:
    """Stream the answer; closing it half-way cancels it in the engine."""
    kind = CONTEXT_AND_GENERATION if call.disaggregated is None else GENERATION_ONLY
    async with _closing(station.engine.generate(_request(call, kind))) as outputs:
        async for output in Watched(outputs, station.pulse):
            await outbox.chunk(output)
            # Asked as well where a cancellation should have told it: nats-py may swallow one.
            if outbox.closed:
                return
    raise PhaseFailed("engine", "the engine ended without saying why")


async def prefill(station: Station, call: GenerateCall, outbox: Outbox, deadline: float) -> None:
    """Compute the KV cache and the first token, and hand the request to the generation server.

    The cache is freed unless that server took the request. An answer that ends with its first token is sent from here.
    That server is told beforehand, so that it does not leave meanwhile.
    """
    async with contextlib.AsyncExitStack() as unless_taken:
        await _announce(station, call, deadline, unless_taken)
        output = await _first_output(station, call, unless_taken)
        outbox.usage = dict(output.usage)
        if output.disaggregated is None:
            await outbox.chunk(output)
            return
        await _hand_over(station, call, output.disaggregated, deadline)
        unless_taken.pop_all()
    outbox.hand_over(len(output.disaggregated.first_token_ids))
    station.kept.add(call.request_id, call.attempt, output.disaggregated.context_request_id, deadline)


async def _announce(
    station: Station, call: GenerateCall, deadline: float, unless_taken: contextlib.AsyncExitStack
) -> None:
    target, request_id, attempt = call.generation, call.request_id, call.attempt
    assert target is not None  # a context server refuses calls without
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    await _tell(station, target, Coming(request_id, attempt, left))
    unless_taken.push_async_callback(_tell, station, target, Coming(request_id, attempt, 0.0))


async def _tell(station: Station, target: Instance, message: Coming) -> None:
    with contextlib.suppress(errors.Error, OSError):
        await station.nats.publish(target.control_subject, message.encode())


def _request(call: GenerateCall, kind: str) -> GenerateRequest:
    """Named after the attempt: an older one may still be ending in the engine."""
    name = f"{call.request_id}.{call.attempt}"
    return GenerateRequest(name, call.sampling, call.prompt, call.token_ids, kind, call.disaggregated)


async def _first_output(station: Station, call: GenerateCall, unless_taken: contextlib.AsyncExitStack) -> EngineOutput:
    """The only output of a context-only request; its cache is to be freed from the moment on that it is there."""
    first = replace(call, sampling=replace(call.sampling, max_tokens=1))
    async with _closing(station.engine.generate(_request(first, CONTEXT_ONLY))) as outputs:
        async for output in Watched(outputs, station.pulse):
            if output.disaggregated is not None:
                unless_taken.push_async_callback(station.kept.release, output.disaggregated.context_request_id)
            elif output.finish_reason is None:
                break
            return output
    raise PhaseFailed("engine", "the engine gave no KV cache for the generation server")


async def _hand_over(station: Station, call: GenerateCall, kept: DisaggregatedParams, deadline: float) -> None:
    target = call.generation
    assert target is not None  # a context server refuses calls without
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    data = await _encode(replace(call, generation=None, disaggregated=kept, timeout=left))
    if len(data) > station.nats.max_payload:
        limit = f"NATS takes {station.nats.max_payload} bytes"
        raise PhaseFailed("too_large", f"with its KV state the request has {len(data)} bytes, and {limit}")
    try:
        answer = decode_answer((await station.nats.request(target.subject, data, min(HAND_OVER_S, left))).data)
    except (errors.Error, ProtocolError) as error:
        reason = str(error) or type(error).__name__
        raise PhaseFailed("unavailable", f"{target.server} did not take the request: {reason}") from None
    if isinstance(answer, Failure):
        raise PhaseFailed(answer.code, f"{target.server} refused the request: {answer.message}")


async def _encode(call: GenerateCall) -> bytes:
    if 8 * len(call.token_ids) + len(call.prompt) < LARGE_BYTES:
        return call.encode()
    return await asyncio.get_running_loop().run_in_executor(None, call.encode)


@contextlib.asynccontextmanager
async def _closing(iterator: AsyncIterator[EngineOutput]) -> AsyncIterator[AsyncIterator[EngineOutput]]:
    """Close an engine's iterator at the end, where it can be closed."""
    try:
        yield iterator
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
