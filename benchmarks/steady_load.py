"""A steady load of streamed requests on a run, each answer compared with the right one.

Used by the benchmarks and the fault tests: what a fault costs is what of this load fails meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trtdist.engines.base import Sampling
from trtdist.errors import TrtdistError
from trtdist.serving.requester import Ask, Requester
from trtdist.serving.run_config import RunConfig

__all__ = ["Load", "Outcome", "steady_load"]

PROMPT = "The capital of France is"


@dataclass(frozen=True)
class Outcome:
    """One request: when it began and ended (seconds since the epoch), its answer, and why it failed ("" if not)."""

    begun: float
    ended: float
    text: str
    error: str = ""


@dataclass
class Load:
    """So many streams at a time, of so many tokens each, on the run in `folder`, until `stop`; each has `timeout`
    seconds."""

    folder: Path
    streams: int = 8
    tokens: int = 24
    timeout: float = 30.0
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._flowing = threading.Event()
        self._whole = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))

    def start(self) -> None:
        """Begin, and return once answers come."""
        self._thread.start()
        if not self._flowing.wait(60):
            # A thread that goes on would keep the program from ending.
            self._stop.set()
            raise AssertionError("no answer came")

    def stop(self) -> None:
        """Ask no more and wait for what is open, which must all end in an answer or an error."""
        self._stop.set()
        self._thread.join(120)
        assert self._whole.is_set(), "requests were lost without an error"

    def failed(self) -> list[Outcome]:
        """The requests that failed."""
        return [each for each in self.outcomes if each.error]

    def answers(self) -> set[str]:
        """The different answers to the one prompt, of which there must be one."""
        return {each.text for each in self.outcomes if not each.error}

    def longest_gap(self, after: float) -> float:
        """The longest time in which no request ended well, from `after` on, in seconds."""
        ends = sorted(each.ended for each in self.outcomes if not each.error and each.ended >= after)
        return max((later - earlier for earlier, later in zip([after, *ends], ends, strict=False)), default=0.0)

    async def _work(self) -> None:
        async with Requester.open(RunConfig.load(self.folder), "load") as requester:
            await asyncio.gather(*(self._stream(requester) for _ in range(self.streams)))
        self._whole.set()

    async def _stream(self, requester: Requester) -> None:
        sampling = Sampling(max_tokens=self.tokens, temperature=0.0)
        while not self._stop.is_set():
            begun, text, problem = time.time(), "", ""
            try:
                async for answer in requester.stream(Ask(sampling, prompt=PROMPT, timeout=self.timeout)):
                    text += answer.text
            except TrtdistError as error:
                problem = str(error) or type(error).__name__
                await asyncio.sleep(0.05)
            self.outcomes.append(Outcome(begun, time.time(), text, problem))
            if not problem:
                self._flowing.set()


@contextmanager
def steady_load(folder: Path, streams: int = 8, tokens: int = 24, timeout: float = 30.0) -> Iterator[Load]:
    """A load while in `with`."""
    load = Load(folder, streams, tokens, timeout)
    load.start()
    try:
        yield load
    finally:
        load.stop()
