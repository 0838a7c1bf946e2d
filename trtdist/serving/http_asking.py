"""A request to a run that speaks HTTP alone: to OpenAI's completions, and the stream of its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env
from trtdist.serving.http1 import Connection, HttpError, parse_url
from trtdist.serving.http_canary import told_by
from trtdist.serving.requester import Answer, Ask, RequestError
from trtdist.serving.sse import EventReader
from trtdist.serving.waiting import within

__all__ = ["stream_over_http"]

_OK, _BAD, _SERVER = 200, 400, 500
_MAX_EVENT = 1024 * 1024


async def stream_over_http(run_dir: Path, model: str, ask: Ask) -> AsyncGenerator[Answer, None]:
    """The parts of an answer as they come; leaving the iteration ends the request.

    RequestError when it is refused, fails, or takes longer than it may.
    """
    url = parse_url(read_env(RunDir(run_dir).resolved_env).get("TRTDIST_HTTP_URL", ""))
    deadline = asyncio.get_running_loop().time() + ask.timeout
    try:
        connection = await Connection.open(url, None)
    except OSError as error:
        raise TrtdistError(f"{url} cannot be reached ({error}): is the run up? see `trtdist status`") from None
    try:
        async for event in _events(connection, _body(model, ask), deadline):
            answer = _answer(event)
            if answer is not None:
                yield answer
    except asyncio.TimeoutError:
        raise RequestError("deadline", f"the answer was not complete within {ask.timeout:g} s") from None
    except (HttpError, OSError) as error:
        raise RequestError("lost", f"{url} broke off: {error}") from None
    finally:
        await connection.close()


def _body(model: str, ask: Ask) -> bytes:
    chosen = ask.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": ask.prompt or list(ask.token_ids),
        "max_tokens": chosen.max_tokens,
        "temperature": chosen.temperature,
        "top_p": chosen.top_p,
        "stream": True,
    }
    body |= {"seed": chosen.seed} if chosen.seed is not None else {}
    body |= {"stop": list(chosen.stop)} if chosen.stop else {}
    return json.dumps(body).encode("ascii")


async def _events(connection: Connection, body: bytes, deadline: float) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream up to its [DONE]; asyncio.TimeoutError at the deadline."""
    now = asyncio.get_running_loop().time
    status = await within(deadline - now(), connection.request("POST", "/v1/completions", body))
    if status != _OK:
        code = "bad_request" if _BAD <= status < _SERVER else "engine"
        raise RequestError(code, f"status {status}: {told_by(_read(await _whole(connection, deadline)))}")
    reader = EventReader(_MAX_EVENT)
    while piece := await within(deadline - now(), connection.read()):
        try:
            events = reader.feed(piece)
        except ValueError:
            raise HttpError(f"it sent an event longer than {_MAX_EVENT} bytes") from None
        for data in events:
            if data == b"[DONE]":
                return
            yield _read(data)
    raise HttpError("the stream ended before the answer did")


async def _whole(connection: Connection, deadline: float) -> bytes:
    """A body that is no stream."""
    body = b""
    while piece := await within(deadline - asyncio.get_running_loop().time(), connection.read()):
        body += piece
        if len(body) > _MAX_EVENT:
            raise HttpError(f"it sent an answer longer than {_MAX_EVENT} bytes")
    return body


def _read(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HttpError(f"it sent what is no JSON object: {data[:80]!r}")
    return found


def _answer(event: dict[str, Any]) -> Answer | None:
    """What an event adds, None for nothing; RequestError for one that tells of an error."""
    if event.get("error"):
        raise RequestError("engine", told_by(event))
    choice = next(iter(event.get("choices") or ()), None)
    usage = event.get("usage") or {}
    if choice is None and not usage:
        return None
    found = choice or {}
    return Answer((), str(found.get("text") or ""), found.get("finish_reason"), usage)
