"""An engine that does what the prompt says; also put beside the real engines in the `site/` of a test's run.

count N [BYTES]   N outputs of one token each, of BYTES characters (default 2), without ever waiting
turns N           the same, each in a turn of the event loop of its own, so that each becomes a chunk
wait              one output, then nothing
fail              EngineError
refuse            RefusedError
crash             a defect
end               ends without a reason
state N           as a context server: a KV state of N bytes; as another: like `count 2`
eos               as a context server: the answer ends with its first token
block N           like `count 1`, after N seconds in which nothing else runs
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from trtdist.engines.base import (
    CONTEXT_ONLY,
    DisaggregatedParams,
    EngineConfig,
    EngineError,
    EngineOutput,
    GenerateRequest,
    RefusedError,
)

__all__ = ["ScriptedEngine", "create"]


class ScriptedEngine:
    """Keeps what was asked of it, for tests to look at."""

    name = "scripted"
    version = "1.0"

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.reuse_tokens = 0
        self.requests: list[GenerateRequest] = []
        self.ended: list[str] = []
        self.released: list[int] = []
        self.produced = 0
        self.stopped = False
        self.death: asyncio.Future[str] | None = None

    async def start(self) -> None:
        """Load, or refuse as $SCRIPTED_START says."""
        if os.environ.get("SCRIPTED_START") == "fail":
            raise EngineError("no weights")
        if os.environ.get("SCRIPTED_START") == "wait":
            await asyncio.sleep(3600)
        self.death = asyncio.get_running_loop().create_future()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineOutput]:
        """Follow the script in the prompt."""
        self.requests.append(request)
        try:
            async for output in self._follow_script(request):
                self.produced += 1
                yield output
        finally:
            self.ended.append(request.request_id)

    async def _follow_script(self, request: GenerateRequest) -> AsyncIterator[EngineOutput]:
        verb, *numbers = request.prompt.split()
        if verb == "fail":
            raise EngineError("this engine fails")
        if verb == "refuse":
            raise RefusedError("this engine takes no such thing")
        if verb == "crash":
            raise ZeroDivisionError("a defect")
        if verb == "block":
            time.sleep(float(numbers[0]))
        if verb == "die":
            assert self.death is not None
            self.death.set_result("the engine has died")
        if request.request_type == CONTEXT_ONLY:
            yield await self._prefill(verb, numbers)
            return
        count = int(numbers[0]) if verb in ("count", "turns") else 2
        size = int(numbers[1]) if verb == "count" and len(numbers) > 1 else 2
        for number in range(count):
            last = number == count - 1 and verb not in ("wait", "end")
            usage = {"prompt_tokens": 7} if last else {}
            yield EngineOutput((number,), str(number % 10).ljust(size), "length" if last else None, usage=usage)
            if verb == "turns":
                await asyncio.sleep(0)
            if verb in ("wait", "die"):
                await asyncio.sleep(3600)

    async def _prefill(self, verb: str, numbers: list[str]) -> EngineOutput:
        if verb == "wait":
            await asyncio.sleep(3600)
        if verb == "eos":
            return EngineOutput((1,), "!", "stop", usage={"prompt_tokens": 7})
        state = bytes(int(numbers[0])) if verb == "state" else b"kv"
        kept = DisaggregatedParams((1,), 100 + len(self.requests), state)
        return EngineOutput((1,), "", "not_finished", kept, {"prompt_tokens": 7})

    async def release(self, context_request_id: int) -> None:
        """Take it down."""
        self.released.append(context_request_id)

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """One token a character."""
        return tuple(map(ord, prompt))

    async def died(self) -> str:
        """Wait for the death that a test causes."""
        assert self.death is not None
        return await asyncio.shield(self.death)

    async def stop(self) -> None:
        """Stop at once."""
        self.stopped = True

    def follow(self) -> None:
        """Sleep as long as the test says that the leader lives."""
        print(f"rank {self.rank} follows", flush=True)
        while not os.path.exists(os.environ["SCRIPTED_LEADER_ENDED"]):
            time.sleep(0.02)


def create(config: EngineConfig) -> ScriptedEngine:
    """As the worker calls it."""
    return ScriptedEngine(config.rank)
