"""How `trtdist client` reaches a run: over the network, or through a step on its head node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trtdist.cli.beside import ended, environment, head
from trtdist.errors import InputError, TrtdistError
from trtdist.observe.snapshot import Snapshot
from trtdist.services.envfile import read_env_or_nothing

if TYPE_CHECKING:
    from trtdist.serving.requester import Answer, Ask

__all__ = ["AUTO", "DIRECT", "STEP", "answers"]

AUTO, DIRECT, STEP = "auto", "direct", "step"
_REACHED_S = 1.0
_LINE = 16 * 1024 * 1024


def answers(snapshot: Snapshot, ask: Ask, via: str) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Answer]]:
    """The answer to a request while in `async with`, whose end cancels what has not come. `via` is AUTO, DIRECT or
    STEP; AUTO takes the step when the run has a job and its door (NATS, or its HTTP address) cannot be reached within a
    second."""
    if via == STEP and snapshot.job_id is None:
        raise InputError(f"run {snapshot.run.run_id} is no job of Slurm: ask it with --via direct")
    through_step = via == STEP or (via == AUTO and snapshot.job_id is not None and not _reached(snapshot))
    return _through_step(snapshot, ask) if through_step else _direct(snapshot, ask)


def _reached(snapshot: Snapshot) -> bool:
    """Whether a connection to the run's door is accepted within a second."""
    ends = snapshot.endpoints
    door = ends.http_url if snapshot.plan.over_http else ends.nats_url
    parts = urlsplit((door or "").split(",")[0])
    try:
        socket.create_connection((parts.hostname or "", parts.port or 4222), timeout=_REACHED_S).close()
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def _direct(snapshot: Snapshot, ask: Ask) -> AsyncIterator[AsyncIterator[Answer]]:
    if snapshot.plan.over_http:
        from trtdist.serving.http_asking import stream_over_http

        run = snapshot.run.path
        async with contextlib.aclosing(stream_over_http(run, snapshot.plan.model, ask)) as over_http:
            yield over_http
        return
    from trtdist.serving.requester import Requester
    from trtdist.serving.run_config import RunConfig

    async with (
        Requester.open(RunConfig.load(snapshot.run.path), "trtdist client") as requester,
        contextlib.aclosing(requester.stream(ask)) as found,
    ):
        yield found


@contextlib.asynccontextmanager
async def _through_step(snapshot: Snapshot, ask: Ask) -> AsyncIterator[AsyncIterator[Answer]]:
    from trtdist.serving.asking import encode_ask

    python = read_env_or_nothing(snapshot.run.resolved_env)["TRTDIST_PYTHON"]
    program = [python, "-m", "trtdist.serving.asking", str(snapshot.run.path)]
    process = await asyncio.create_subprocess_exec(
        *head(snapshot).command(program, name="client"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(snapshot, os.environ),
        cwd=snapshot.run.site,
        limit=_LINE,
        # Ctrl-C is for this command, which then ends the step.
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(encode_ask(ask))
        async with contextlib.aclosing(_read(process)) as found:
            yield found
    finally:
        # The end of its input is what tells the step that nobody waits for the rest.
        process.stdin.close()
        await ended(process)


async def _read(process: asyncio.subprocess.Process) -> AsyncGenerator[Answer, None]:
    from trtdist.serving.asking import decode_answer

    assert process.stdout is not None and process.stderr is not None
    complaints = asyncio.ensure_future(process.stderr.read())
    last = None
    try:
        while line := await process.stdout.readline():
            answer = decode_answer(line)
            if answer is not None:
                last = answer
                yield answer
        if last is None or last.finish_reason is None:
            words = " ".join((await complaints).decode("utf-8", "replace").split())
            raise TrtdistError(f"the step that asks the run ended before the answer did: {words or 'without a word'}")
    finally:
        complaints.cancel()
