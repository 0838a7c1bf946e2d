"""`python -m benchmarks.plane.pretend RUN_DIR [--server N] [--pace PACE]`: a worker whose engine only pretends.

The engine computes nothing and gives as many tokens as are asked for, each as an output of its own. What is measured
with it is the way from the engine to the client. `--pace` says when:

burst     as fast as they are taken, as an engine would that has many ready: they become chunks of many tokens (default)
turn      as fast as they are taken, but one in each turn of the event loop: each becomes a chunk of its own
a number  one each so many milliseconds, for each answer by itself; its text is when the engine gave it
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from trtdist.engines.base import EngineOutput, GenerateRequest
from trtdist.engines.reference.text import FIRST_WORD, tokenize, word
from trtdist.events import EventWriter
from trtdist.serving.program import run_until_stopped
from trtdist.serving.run_config import RunConfig
from trtdist.serving.worker import serve

__all__ = ["BURST", "TEXT", "TURN", "PretendEngine"]

TEXT = " token"
BURST, TURN = "burst", "turn"


class PretendEngine:
    """Takes part in a run as an engine does, with negligible compute."""

    name = "pretend"

    def __init__(self, pace: str) -> None:
        self._outputs = {BURST: _burst, TURN: _turn}.get(pace) or _paced(float(pace) / 1000)

    async def start(self) -> None:
        """There is nothing to load."""

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineOutput]:
        """One token at a time."""
        usage = {"prompt_tokens": len(request.token_ids or tokenize(request.prompt))}
        last = request.sampling.max_tokens
        number = 0
        async for token, text in self._outputs(last):
            number += 1
            if number == last:
                yield EngineOutput((token,), text, "length", usage=usage)
            else:
                yield EngineOutput((token,), text)

    async def release(self, context_request_id: int) -> None:
        """There is no cache."""

    @property
    def reuse_tokens(self) -> int:
        """Nothing is held."""
        return 0

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """As the reference engine does."""
        return tokenize(prompt)

    async def died(self) -> str:
        """Never."""
        return await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        """There is nothing to stop."""

    def follow(self) -> None:
        """There is one rank."""


async def _burst(count: int) -> AsyncIterator[tuple[int, str]]:
    for number in range(count):
        yield number, TEXT


async def _turn(count: int) -> AsyncIterator[tuple[int, str]]:
    for number in range(count):
        token = FIRST_WORD + number % 64
        yield token, word(token)
        await asyncio.sleep(0)


def _paced(seconds: float) -> Callable[[int], AsyncIterator[tuple[int, str]]]:
    async def outputs(count: int) -> AsyncIterator[tuple[int, str]]:
        due = time.perf_counter()
        for number in range(count):
            yield FIRST_WORD + number % 64, f" {time.perf_counter_ns()}"
            due += seconds
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    return outputs


def main() -> None:
    """Serve until TERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--server", type=int, default=0)
    parser.add_argument("--pace", default=BURST)
    options = parser.parse_args()
    config = RunConfig.load(options.run_dir)
    server = config.plan().servers[options.server]
    events = EventWriter(config.run.event_file(f"server.{server.name}"))
    run_until_stopped(lambda stop: serve(config, server, PretendEngine(options.pace), events, stop))


if __name__ == "__main__":
    main()
