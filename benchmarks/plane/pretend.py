"""`python -m benchmarks.plane.pretend RUN_DIR`: a worker whose engine only pretends.

The engine computes nothing and never waits: it gives as many tokens as are asked for, each as an output of its own, as
fast as they are taken. What is measured with it is the way from the engine to the client.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from trtdist.engines.base import EngineOutput, GenerateRequest
from trtdist.events import EventWriter
from trtdist.serving.program import run_program, run_until_stopped
from trtdist.serving.run_config import RunConfig
from trtdist.serving.worker import serve

__all__ = ["TEXT", "PretendEngine"]

TEXT = " token"


class PretendEngine:
    """Takes part in a run as an engine does, with negligible compute."""

    name = "pretend"

    async def start(self) -> None:
        """There is nothing to load."""

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineOutput]:
        """One token at a time."""
        last = request.sampling.max_tokens - 1
        usage = {"prompt_tokens": len(request.token_ids) or len(request.prompt.split())}
        for number in range(last):
            yield EngineOutput((number,), TEXT)
        yield EngineOutput((last,), TEXT, "length", usage=usage)

    async def release(self, context_request_id: int) -> None:
        """There is no cache."""

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """One token a word."""
        return tuple(range(len(prompt.split())))

    async def died(self) -> str:
        """Never."""
        return await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        """There is nothing to stop."""

    def follow(self) -> None:
        """There is one rank."""


def _work(run_dir: Path) -> None:
    config = RunConfig.load(run_dir)
    server = config.plan().servers[0]
    events = EventWriter(config.run.event_file(f"server.{server.name}"))
    run_until_stopped(lambda stop: serve(config, server, PretendEngine(), events, stop))


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:], _work))
