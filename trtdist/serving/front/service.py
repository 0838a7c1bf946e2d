"""What each path does: from a request to asks of the run, and from its streams to an answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from trtdist.serving.attempt import AtOnce, RequestError
from trtdist.serving.discovery import Snapshot
from trtdist.serving.front.answers import DONE, Choice, Events, Whole, error_event
from trtdist.serving.front.calls import Call, parse_body, read_chat, read_completion
from trtdist.serving.front.chat import Template
from trtdist.serving.front.connection import Reply
from trtdist.serving.front.errors import ApiError, invalid, of_request
from trtdist.serving.front.metrics import Metrics
from trtdist.serving.front.parser import Request
from trtdist.serving.protocol import Chunk
from trtdist.serving.requester import Ask, Requester
from trtdist.serving.slug import ROUTER, component_of_role
from trtdist.serving.waiting import end_task

__all__ = ["Exchange", "Service", "Settings"]

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_NAME = re.compile(r"[0-9A-Za-z._:-]{1,128}")
_CLIENT_GONE = 499
# _Answers of one request that may wait for the client; more stay with the servers.
_WAITING = 8
_OPEN_PATHS = ("/live", "/health")
_MODELS = "/v1/models"
_MODEL = f"{_MODELS}/"

_Handler = Callable[["Exchange"], Awaitable[None]]


@dataclass(frozen=True)
class Settings:
    """What a front end serves: `roles` of the plan that must be there, `keys` as SHA-256 digests, none for no keys.

    `requests` is how many one process answers at once, `prompt` the longest prompt in characters, `timeout` how long
    a request may take in seconds.
    """

    model: str
    created: int
    roles: tuple[str, ...]
    template: Template
    keys: frozenset[bytes] = frozenset()
    requests: int = 4096
    prompt: int = 4 * 1024 * 1024
    timeout: float = 600.0


@dataclass
class Exchange:
    """One request and its answer; `name` is the request's id."""

    request: Request
    reply: Reply
    name: str

    @property
    def session(self) -> str:
        """What the client calls the session that the request belongs to, "" for none."""
        given = self.request.headers.get("x-session-id", "")
        if given and not _NAME.fullmatch(given):
            raise invalid("x-session-id must have at most 128 letters, digits and ._:-", code="bad_request")
        return given

    def send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """The whole answer."""
        self.reply.send(status, body, kind, {"x-request-id": self.name})


class Service:
    """_Answers requests for one run through one requester."""

    def __init__(self, requester: Requester, settings: Settings, metrics: Metrics) -> None:
        self._requester = requester
        self._settings = settings
        self._metrics = metrics
        self._active = 0
        self._routes: dict[str, tuple[str, str, _Handler]] = {
            "/v1/chat/completions": ("POST", "chat", self._chat),
            "/v1/completions": ("POST", "completions", self._completion),
            _MODELS: ("GET", "models", self._models),
            "/health": ("GET", "other", self._health),
            "/live": ("GET", "other", self._live),
            "/metrics": ("GET", "other", self._scrape),
        }

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request, whatever it is."""
        given = request.headers.get("x-request-id", "")
        exchange = Exchange(request, reply, given if _NAME.fullmatch(given) else secrets.token_hex(16))
        route = _route(request.path)
        endpoint = self._routes[route][1] if route in self._routes else "other"
        status = 0
        try:
            await self._dispatch(exchange, route)
            status = reply.status
        except ApiError as error:
            status = error.status
            if not reply.begun:
                headers = {**error.headers, "x-request-id": exchange.name}
                reply.send(error.status, error.body, headers=headers)
        finally:
            self._metrics.answered(endpoint, _CLIENT_GONE if reply.lost else status or 500)

    async def _dispatch(self, exchange: Exchange, route: str) -> None:
        request = exchange.request
        path = request.path
        if route not in self._routes:
            raise ApiError(404, f"there is no {path[:256]} here", code="not_found")
        method, _, handler = self._routes[route]
        if request.method != method and (method, request.method) != ("GET", "HEAD"):
            raise ApiError(405, f"{path[:256]} takes {method} only", headers={"Allow": method})
        if path not in _OPEN_PATHS:
            self._authenticate(request)
        if method == "POST":
            self._require_json(request)
        await handler(exchange)

    def _authenticate(self, request: Request) -> None:
        keys = self._settings.keys
        if not keys:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or hashlib.sha256(key.strip().encode("latin-1")).digest() not in keys:
            what = "the API key is wrong" if scheme else "an API key is needed: send it as `Authorization: Bearer KEY`"
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, what, "authentication_error", code="invalid_api_key", headers=headers)

    def _require_json(self, request: Request) -> None:
        """A page of somebody else's can have a browser post to this machine, but not with this type."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "the body must be JSON: send `Content-Type: application/json`")

    async def _live(self, exchange: Exchange) -> None:
        exchange.send(200, b'{"status": "live"}')

    async def _health(self, exchange: Exchange) -> None:
        missing = _missing(self._settings.roles, self._requester.snapshot)
        if missing:
            raise ApiError(503, f"nobody is there as {' and '.join(missing)}", "server_error", code="unavailable")
        exchange.send(200, b'{"status": "healthy"}')

    async def _scrape(self, exchange: Exchange) -> None:
        exchange.send(200, self._metrics.text().encode("ascii"), _TEXT)

    async def _models(self, exchange: Exchange) -> None:
        asked = unquote(exchange.request.path[len(_MODEL) :])
        if asked:
            self._require_model(asked)
        body = _model_json(self._settings.model, self._settings.created)
        exchange.send(200, body if asked else b'{"object": "list", "data": [' + body + b"]}")

    def _require_model(self, name: str) -> None:
        if name != self._settings.model:
            message = f"the model {name[:256]!r} is not served here, {self._settings.model!r} is"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def _chat(self, exchange: Exchange) -> None:
        call = read_chat(parse_body(exchange.request.body))
        self._require_model(call.model)
        assert call.messages is not None
        await self._generate(exchange, replace(call, prompts=(self._settings.template(call.messages),)))

    async def _completion(self, exchange: Exchange) -> None:
        call = read_completion(parse_body(exchange.request.body))
        self._require_model(call.model)
        await self._generate(exchange, call)

    async def _generate(self, exchange: Exchange, call: Call) -> None:
        settings = self._settings
        if any(len(prompt) > settings.prompt for prompt in call.prompts):
            raise ApiError(413, f"a prompt is longer than {settings.prompt} characters", code="too_large")
        choices = len(call.prompts) * call.n
        if self._active + choices > settings.requests:
            message = f"{self._active} requests are being answered, and {settings.requests} can be: try again later"
            raise ApiError(429, message, "rate_limit_error", code="overloaded")
        self._active += choices
        self._metrics.add("in_flight", choices)
        try:
            await self._answer(exchange, call)
        finally:
            self._active -= choices
            self._metrics.add("in_flight", -choices)

    async def _answer(self, exchange: Exchange, call: Call) -> None:
        chat = call.messages is not None
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        asks = _asks(call, name, exchange.session, self._settings.timeout)
        begun = time.monotonic()
        choices = [Choice() for _ in asks]
        made = (chat, name, self._settings.model, int(time.time()))
        events = Events(*made, call.include_usage)
        at_once = _at_once(exchange.reply, events, choices) if call.stream else None
        answers = _together(
            self._requester, asks, lambda: self._metrics.took("first", time.monotonic() - begun), at_once
        )
        try:
            if call.stream:
                await _stream(exchange, answers, events, choices, len(call.prompts))
            else:
                async for index, chunks in answers:
                    choices[index].take(chunks)
                exchange.send(200, Whole(*made).body(choices, len(call.prompts)))
        except RequestError as error:
            raise of_request(error) from None
        finally:
            await answers.aclose()
        self._count(choices, call.n, begun)

    def _count(self, choices: Sequence[Choice], n: int, begun: float) -> None:
        self._metrics.took("whole", time.monotonic() - begun)
        self._metrics.add("prompt_tokens", sum(choice.prompt_tokens for choice in choices[::n]))
        self._metrics.add("completion_tokens", sum(choice.completion_tokens for choice in choices))


# The number of a choice, and what came for it.
_Answers = AsyncGenerator["tuple[int, list[Chunk]]", None]


async def _stream(
    exchange: Exchange, answers: _Answers, events: Events, choices: Sequence[Choice], prompts: int
) -> None:
    """The status is known with the first chunk: until then an error is an error of its own."""
    reply = exchange.reply
    try:
        async for index, chunks in answers:
            if not reply.begun:
                reply.begin({"x-request-id": exchange.name})
            text = events.text(index, chunks, choices[index])
            if text:
                reply.write(text.encode("ascii"))
            if reply.blocked:
                await reply.drained()
            if reply.lost:
                return
    except RequestError as error:
        if reply.begun:
            reply.end(error_event(of_request(error).body).encode("ascii"))
        raise
    reply.end((events.usage(choices, prompts) + DONE).encode("ascii"))


def _at_once(reply: Reply, events: Events, choices: Sequence[Choice]) -> AtOnce | None:
    """Writes chunks as they arrive, where one answer is streamed and its client keeps up with it."""
    if len(choices) > 1:
        return None

    def write(chunks: Sequence[Chunk]) -> bool:
        if not reply.flowing:
            return False
        text = events.text(0, chunks, choices[0])
        if text:
            reply.write(text.encode("ascii"))
        return True

    return write


def _asks(call: Call, name: str, session: str, timeout: float) -> list[Ask]:
    """One for each answer; with a seed, each of the answers to a prompt has a seed of its own."""
    asks: list[Ask] = []
    for prompt in call.prompts:
        for number in range(call.n):
            seed = call.sampling.seed
            sampling = call.sampling if seed is None else replace(call.sampling, seed=seed + number)
            text, ids = (prompt, ()) if isinstance(prompt, str) else ("", prompt)
            own = f"{name}-{len(asks)}"
            asks.append(Ask(sampling, text, ids, timeout=timeout, request_id=own, session=session))
    return asks


async def _together(
    requester: Requester, asks: Sequence[Ask], begun: Callable[[], None] | None, at_once: AtOnce | None
) -> _Answers:
    """The streams of several asks as they come; the first error ends all. `begun` is called before the first of it.

    `at_once` is for a single one, as `Requester.batches` says.
    """
    if len(asks) == 1:
        batches = requester.batches(asks[0], at_once)
        try:
            async for chunks in batches:
                if begun is not None:
                    begun()
                    begun = None
                yield 0, chunks
        finally:
            await batches.aclose()
        return
    queue: asyncio.Queue[tuple[int, list[Chunk] | RequestError | None]] = asyncio.Queue(_WAITING)
    tasks = [asyncio.ensure_future(_pump(requester, number, ask, queue)) for number, ask in enumerate(asks)]
    left = len(tasks)
    try:
        while left:
            index, found = await queue.get()
            if isinstance(found, RequestError):
                raise found
            if found is None:
                left -= 1
                continue
            if begun is not None:
                begun()
                begun = None
            yield index, found
    finally:
        for task in tasks:
            await end_task(task)


async def _pump(
    requester: Requester, number: int, ask: Ask, queue: asyncio.Queue[tuple[int, list[Chunk] | RequestError | None]]
) -> None:
    batches = requester.batches(ask)
    try:
        async for chunks in batches:
            await queue.put((number, chunks))
        await queue.put((number, None))
    except RequestError as error:
        await queue.put((number, error))
    finally:
        with contextlib.suppress(RequestError):
            await batches.aclose()


def _route(path: str) -> str:
    """The path without the name of a model, which may be a path itself."""
    return _MODELS if path.startswith(_MODEL) else path


def _missing(roles: Sequence[str], snapshot: Snapshot) -> list[str]:
    """The roles that nobody has, the router among them."""
    wanted = {"router": ROUTER, **{role: component_of_role(role) for role in roles}}
    return [name if name == "router" else f"{name} server" for name, found in wanted.items() if not snapshot.of(found)]


def _model_json(model: str, created: int) -> bytes:
    return json.dumps({"id": model, "object": "model", "created": created, "owned_by": "trtdist"}).encode("ascii")
