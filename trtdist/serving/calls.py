"""The requests that a server works on: which it takes, and who is to hear what a requester sends meanwhile."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from typing import Any

from trtdist.serving.background import Background
from trtdist.serving.job import Job
from trtdist.serving.on_the_way import OnTheWay
from trtdist.serving.phases import LARGE_BYTES, Station
from trtdist.serving.protocol import Accepted, Cancel, Coming, Control, Credit, Failure, GenerateCall, decode_call
from trtdist.serving.waiting import within
from trtdist.serving.wire import ProtocolError

__all__ = ["MAX_REQUESTS", "Calls"]

MAX_REQUESTS = 4096
# Of how many requests it is remembered which attempts are over, so that late messages do not revive them.
MAX_REMEMBERED = 65536
FAIL_S = 1.0

_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")


class Calls:
    """Takes GenerateCalls for a server and serves them at the same time, the newest attempt of each request."""

    def __init__(self, station: Station, background: Background, most: int = MAX_REQUESTS) -> None:
        self._station = station
        self._background = background
        self._most = most
        self._open: dict[str, Job] = {}
        self._over: OrderedDict[str, int] = OrderedDict()
        self._closed = ""
        self._on_the_way = OnTheWay()

    async def answer(self, data: bytes) -> bytes:
        """Take the call in a message, or refuse it; returns what to say to that."""
        try:
            if len(data) < LARGE_BYTES:
                call = decode_call(data)
            else:
                call = await asyncio.get_running_loop().run_in_executor(None, decode_call, data)
        except ProtocolError as error:
            return Failure("bad_request", str(error)).encode()
        refusal = self._refusal(call)
        if refusal is not None:
            return Failure(*refusal, attempt=call.attempt).encode()
        self._begin(call)
        self._on_the_way.remove(call.request_id, call.attempt)
        return Accepted().encode()

    def control(self, message: Control) -> None:
        """Hear what a requester says about its request."""
        job = self._open.get(message.request_id)
        if isinstance(message, Credit) and job is not None and job.attempt == message.attempt:
            job.allow(message.until)
        if isinstance(message, Coming) and message.attempt >= self._over.get(message.request_id, 0):
            self._on_the_way.add(message)
        if isinstance(message, Cancel):
            self._on_the_way.remove(message.request_id, message.attempt)
            self._give_up(message.request_id, message.attempt, "cancelled", f"it was cancelled: {message.reason}")

    def stats(self) -> dict[str, Any]:
        """What `$SRV.STATS` tells: the slots in use and those there are."""
        return {"request_active_slots": len(self._open), "request_total_slots": self._most}

    def close(self, reason: str) -> None:
        """Take no more but what a context server works on for us, for a reason that is told in a sentence."""
        self._closed = reason

    async def drain(self, seconds: float) -> None:
        """Finish what is open or on its way; what is not done after `seconds` fails."""
        try:
            await within(seconds, self._idle())
        except asyncio.TimeoutError:
            await self.fail("unavailable", self._closed)

    async def _idle(self) -> None:
        while self._on_the_way or self._background:
            await (self._background.wait() if self._background else self._on_the_way.fewer())

    async def fail(self, code: str, message: str) -> None:
        """Fail what is open, and take nothing any more that is on its way."""
        self._on_the_way.clear()
        for job in self._open.values():
            job.end(code, message)
        await self._background.wait(FAIL_S)

    def _refusal(self, call: GenerateCall) -> tuple[str, str] | None:
        if self._closed and not self._on_the_way.has(call.request_id, call.attempt):
            return "unavailable", self._closed
        problem = _problem(self._station.role, self._station.reads, call)
        if problem:
            return "bad_request", f"{self._station.instance.server}: {problem}"
        if call.attempt < self._over.get(call.request_id, 0):
            return "stale", f"attempt {call.attempt} of request {call.request_id} is over"
        if call.timeout <= 0:
            return "deadline", "no time is left for the request"
        if len(self._open) >= self._most and call.request_id not in self._open:
            return "overloaded", f"{self._station.instance.server} works on {self._most} requests already"
        return None

    def _begin(self, call: GenerateCall) -> None:
        self._give_up(call.request_id, call.attempt, "stale", f"attempt {call.attempt} takes its place")
        job = Job(self._station, call)
        self._open[call.request_id] = job
        self._background.start(self._serve(call.request_id, job))

    async def _serve(self, request_id: str, job: Job) -> None:
        try:
            await job.serve()
        finally:
            if self._open.get(request_id) is job:
                del self._open[request_id]

    def _give_up(self, request_id: str, attempt: int, code: str, message: str) -> None:
        """Attempts up to this one are over, here and where their KV cache waits."""
        self._over[request_id] = max(attempt + 1, self._over.pop(request_id, 0))
        if len(self._over) > MAX_REMEMBERED:
            self._over.popitem(last=False)
        job = self._open.get(request_id)
        if job is not None and job.attempt <= attempt:
            job.end(code, message)
        self._station.kept.free(request_id, attempt)


def _problem(role: str, reads: bool, call: GenerateCall) -> str:
    """What is wrong with a call for a server of this role, "" when nothing is."""
    if not _SUBJECT.fullmatch(call.inbox) or (call.notify and not _SUBJECT.fullmatch(call.notify)):
        return "inbox and notify must be subjects without wildcards"
    if not call.prompt and not call.token_ids:
        return "a request needs a prompt or token_ids"
    if role == "context" and call.generation is None:
        return "a context server must be told which server generates"
    if not reads and call.disaggregated is None:
        return "a generation server needs the KV cache of a context server; ask a context server first"
    if role != "context" and call.generation is not None:
        return "only a context server hands a request on"
    if role != "generation" and call.disaggregated is not None:
        return "only a generation server takes a KV cache"
    return ""
