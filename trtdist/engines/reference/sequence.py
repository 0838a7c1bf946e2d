"""One request in the engine: what is read next, what was chosen, what its reader is told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trtdist.engines.base import CONTEXT_ONLY, DisaggregatedParams, EngineError, EngineOutput, GenerateRequest
from trtdist.engines.reference.handle import Handle, Place
from trtdist.engines.reference.rank import say
from trtdist.engines.reference.sampling import chain, choose
from trtdist.engines.reference.shape import HEADS
from trtdist.engines.reference.text import StopText, word
from trtdist.plan import Server

if TYPE_CHECKING:
    from trtdist.engines.reference.arithmetic import Array

__all__ = ["Job", "Sequence", "prompt_digest"]


def prompt_digest(tokens: tuple[int, ...]) -> str:
    """What tells prompts apart."""
    return hashlib.blake2b(repr(tokens).encode(), digest_size=16).hexdigest()


@dataclass(eq=False)
class Job:
    """A request on its way between the event loop and the engine thread; `handle` names the KV cache to go on from."""

    request: GenerateRequest
    tokens: tuple[int, ...]
    handle: Handle | None
    loop: asyncio.AbstractEventLoop
    outputs: asyncio.Queue[EngineOutput | EngineError] = field(default_factory=asyncio.Queue)

    def put(self, output: EngineOutput | EngineError) -> None:
        """Hand an output to the reader; from the engine thread."""
        # The loop is closed when nobody waits for answers any more.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.outputs.put_nowait, output)


class Sequence:
    """The state of one request. A generation server begins with the tokens that the context server chose."""

    def __init__(self, job: Job, server: Server, seed: int) -> None:
        self.job = job
        self.context_only = job.request.request_type == CONTEXT_ONLY
        self.number = secrets.randbits(63)
        self.todo = list(job.tokens)
        self.begun = False
        self.ended = False
        self.remembered = False
        self._server = server
        given = job.request.sampling.seed
        self._seed = seed if given is None else given
        self._prompt_tokens = job.handle.tokens if job.handle else len(job.tokens)
        self._prefilled = self._reused = 0
        self._chosen: list[int] = []
        self._logits = job.handle.logits if job.handle else ""
        self._text = StopText(job.request.sampling.stop)
        self._waiting = server.size
        self._moved = 0
        self._digests: dict[int, str] = {}

    @property
    def answering(self) -> bool:
        """Whether the prompt has been read."""
        return bool(self._chosen)

    def read(self, count: int) -> None:
        """The first `count` tokens of `todo` have been read."""
        self.begun = True
        if not self._chosen:
            self._prefilled += count
        del self.todo[:count]

    def reused(self, count: int) -> None:
        """The first `count` tokens of `todo` need not be read."""
        self._reused = count
        del self.todo[:count]

    def chosen(self, logits: Array) -> None:
        """Choose the next token and tell the reader."""
        self._logits = chain(self._logits, logits)
        token = choose(logits, self.job.request.sampling, self._seed, len(self._chosen))
        if self.context_only:
            self._chosen.append(token)
        else:
            self._add((token,))

    def fetched(self, size: int) -> bool:
        """One rank more has its part of the KV cache; True when all have, and the answer begins."""
        self._moved += size
        self._waiting -= 1
        if self._waiting:
            return False
        self.begun = True
        params = self.job.request.disaggregated
        assert params is not None
        self._add(params.first_token_ids)
        return True

    def kept(self, digests: Mapping[int, str], places: tuple[Place, ...]) -> bool:
        """One rank more keeps its part of the KV cache; True when all do, and the reader has the answer."""
        self._digests.update(digests)
        self._waiting -= 1
        if self._waiting:
            return False
        handle = Handle(
            number=self.number,
            server=self._server.name,
            tokens=self._prompt_tokens,
            places=places,
            digests=tuple(self._digests[head] for head in range(HEADS)),
            prompt=prompt_digest(self.job.tokens),
            logits=self._logits,
        )
        params = DisaggregatedParams(tuple(self._chosen), self.number, handle.encode())
        self._finish((), "", "not_finished", params)
        return True

    def refused(self, problem: str) -> None:
        """The KV cache did not come, and the prompt is not read again for that."""
        say(f"{self._server.name}: request {self.job.request.request_id!r} refused: {problem}")
        self.job.put(EngineError(problem))

    def cancelled(self) -> None:
        """The engine stops before the answer is complete."""
        self._finish((), self._text.rest(), "cancelled")

    def _add(self, tokens: tuple[int, ...]) -> None:
        sampling = self.job.request.sampling
        self._chosen += tokens
        self.todo = list(tokens)
        text = "".join(self._text.push(word(token)) for token in tokens)
        if self._text.found:
            self._finish(tokens, text, "stop")
        elif len(self._chosen) >= sampling.max_tokens:
            self._finish(tokens, text + self._text.rest(), "length")
        else:
            self.job.put(EngineOutput(tokens, text))

    def _finish(
        self, tokens: tuple[int, ...], text: str, reason: str, params: DisaggregatedParams | None = None
    ) -> None:
        self.ended = True
        self.todo = []
        usage: dict[str, Any] = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": len(self._chosen),
            "prefill_tokens": self._prefilled,
            "reused_tokens": self._reused,
            "kv_bytes": self._moved,
            "logits": self._logits,
        }
        say(
            f"{self._server.name}: request {self.job.request.request_id!r}: {self._prompt_tokens} prompt tokens"
            f" ({self._prefilled} read here, {self._reused} held from earlier prompts, {self._moved} bytes of KV cache"
            f" fetched), {len(self._chosen)} tokens, {reason}"
        )
        self.job.put(EngineOutput(tokens, text, reason, params, usage))
