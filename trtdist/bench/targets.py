"""What load is put on: an OpenAI-compatible endpoint, or a run through its NATS server."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from trtdist.bench.http_client import HttpClient, HttpFailure
from trtdist.bench.record import Reply
from trtdist.bench.sse import MAX_EVENT, OpenAiAnswer, error_sentence
from trtdist.bench.workload import Request
from trtdist.engines.base import Sampling
from trtdist.errors import InputError, TrtdistError
from trtdist.serving.requester import Ask, Requester, RequestError
from trtdist.serving.run_config import RunConfig
from trtdist.serving.sse import EventReader

__all__ = ["Endpoint", "HttpTarget", "RunTarget", "Target", "http_target", "run_target"]

OK = 200
QUESTION_S = 30.0
MAX_BODY = 1024 * 1024


class Target(Protocol):
    """Answers requests; never raises for one that fails."""

    async def ask(self, request: Request) -> Reply:
        """Send a request and see what comes back."""
        ...


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server: its URL with or without `/v1`, and what goes into each request.

    `api` is `chat` or `completions`. An empty `model` is the first that the server lists. `extra` are fields that are
    added to each request. `timeout` is for one answer, in seconds.
    """

    url: str
    api: str = "chat"
    model: str = ""
    api_key: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 600.0


class HttpTarget:
    """Asks an endpoint; made by `http_target`."""

    def __init__(self, client: HttpClient, endpoint: Endpoint, base: str, host: str, model: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._body = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **endpoint.extra}
        path = "chat/completions" if endpoint.api == "chat" else "completions"
        self._head = _head("POST", f"{base}/{path}", host, endpoint.api_key)

    async def ask(self, request: Request) -> Reply:
        """As Target says."""
        answer, events, body = OpenAiAnswer(), EventReader(MAX_EVENT), bytearray()

        def take(data: bytes, now: float) -> None:
            if len(body) < MAX_BODY and not answer.pieces:
                body.extend(data)
            for event in events.feed(data):
                answer.event(event, now)

        message = self._message(request)
        sent = time.perf_counter()
        try:
            status = await self._client.exchange(message, take, self._endpoint.timeout)
            error = answer.error or _problem(status, answer, bytes(body))
        except HttpFailure as failure:
            error = str(failure)
        ended = time.perf_counter()
        return Reply(sent, ended, answer.pieces, None, answer.usage, answer.finish_reason, error)

    def _message(self, request: Request) -> bytes:
        asked: dict[str, Any] = {"max_tokens": request.output_tokens}
        if self._endpoint.api == "chat":
            asked["messages"] = [{"role": "user", "content": request.prompt}]
        else:
            asked["prompt"] = request.prompt
        body = json.dumps({**asked, **self._body}).encode()
        return self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextlib.asynccontextmanager
async def http_target(endpoint: Endpoint) -> AsyncIterator[HttpTarget]:
    """A target for an endpoint; TrtdistError when it cannot be reached or lists no model."""
    parts = urlsplit(endpoint.url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise InputError(f"{endpoint.url} is no URL of an endpoint: write http://HOST:PORT/v1") from None
    if not parts.hostname:
        raise InputError(f"{endpoint.url} names no host: write http://HOST:PORT/v1")
    base = parts.path.rstrip("/") or "/v1"
    client = HttpClient(parts.hostname, port, ssl.create_default_context() if parts.scheme == "https" else None)
    try:
        model = endpoint.model or await _first_model(client, endpoint, base, parts.netloc)
        yield HttpTarget(client, endpoint, base, parts.netloc, model)
    finally:
        client.close()


class RunTarget:
    """Asks a run through NATS, where the tokens of each chunk are told; made by `run_target`."""

    def __init__(self, requester: Requester, component: str, timeout: float) -> None:
        self._requester = requester
        self._component = component
        self._timeout = timeout

    async def ask(self, request: Request) -> Reply:
        """As Target says."""
        sampling = Sampling(request.output_tokens, temperature=0.0)
        asked = Ask(sampling, request.prompt, component=self._component, timeout=self._timeout)
        pieces: list[float] = []
        counted, usage, reason, error = 0, None, "", ""
        clock = time.perf_counter
        sent = clock()
        try:
            async for part in self._requester.stream(asked):
                if part.token_ids:
                    pieces.append(clock())
                    counted += len(part.token_ids)
                if part.finish_reason is not None:
                    reason = part.finish_reason
                    usage = (part.usage.get("prompt_tokens", 0), part.usage.get("completion_tokens", counted))
        except RequestError as failure:
            error = str(failure)
        return Reply(sent, clock(), pieces, counted, usage, reason, error)


@contextlib.asynccontextmanager
async def run_target(config: RunConfig, component: str, timeout: float) -> AsyncIterator[RunTarget]:
    """A target for a run; TrtdistError when it cannot be reached."""
    async with Requester.open(config, "trtdist bench") as requester:
        yield RunTarget(requester, component, timeout)


async def _first_model(client: HttpClient, endpoint: Endpoint, base: str, host: str) -> str:
    body = bytearray()
    question = _head("GET", f"{base}/models", host, endpoint.api_key) + b"\r\n"
    try:
        status = await client.exchange(question, lambda data, now: body.extend(data), QUESTION_S)
    except HttpFailure as failure:
        raise TrtdistError(f"{endpoint.url} does not serve: {failure}") from None
    try:
        model = json.loads(body)["data"][0]["id"] if status == OK else None
    except (ValueError, LookupError, TypeError):
        model = None
    if not isinstance(model, str):
        raise TrtdistError(f"{endpoint.url} lists no model (status {status} for {base}/models): name it with --model")
    return model


def _head(method: str, path: str, host: str, api_key: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {api_key}"] if api_key else []
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _problem(status: int, answer: OpenAiAnswer, body: bytes) -> str:
    if status != OK:
        return f"status {status}: {_told(body)}"
    return "" if answer.done else "the stream ended without [DONE]"


def _told(body: bytes) -> str:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return error_sentence(body[:200].decode("utf-8", "replace"))
    return error_sentence(raw.get("error", raw.get("message", raw)) if isinstance(raw, dict) else raw)
