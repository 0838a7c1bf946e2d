"""The messages between requester, router and workers.

    requester -> router      RouteCall   "who serves this?"; answered by Route or Failure
    requester -> worker      GenerateCall, to the context or the monolithic server; answered by Accepted or Failure
    context   -> generation  the same GenerateCall with what the KV cache needs; answered likewise
    worker    -> requester   Chunk, Heartbeat, Failure: to the requester's inbox, from the server that generates
    requester -> worker      Credit, Cancel: to the control subject of each server that takes part
    worker    -> router      Notice: `started` and `done`, to the router's control subject
    worker    -> routers     Held: blocks of prompts that it holds now, or no more; to a subject of its component

A message is one line of JSON; only a GenerateCall may be followed by bytes, the engine's own state. A stream is one
attempt of one request: chunks are numbered from 0, and a heartbeat says which number comes next, so that a gap or a
silence is noticed. A worker sends chunk N only when a Credit (or the call's window) allows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Union

from trtdist.engines.base import DisaggregatedParams, Sampling
from trtdist.errors import InputError
from trtdist.serving.instance import Instance
from trtdist.serving.wire import Fields, ProtocolError, dumped, encode, quoted, split

__all__ = [
    "CODES",
    "VERSION",
    "Accepted",
    "Cancel",
    "Chunk",
    "Coming",
    "Control",
    "Credit",
    "Failure",
    "GenerateCall",
    "Heartbeat",
    "Held",
    "Notice",
    "Route",
    "RouteCall",
    "StreamMessage",
    "decode_answer",
    "decode_call",
    "decode_control",
    "decode_held",
    "decode_route",
    "decode_route_call",
    "decode_stream",
]

VERSION = 1

# Why a request failed. `unavailable`, `stale` and `overloaded` may go better elsewhere or later.
CODES = (
    "bad_request", "too_large", "unavailable", "overloaded", "stale", "engine", "deadline", "cancelled", "stalled",
    "lost", "internal",
)  # fmt: skip

MAX_ID, MAX_SUBJECT, MAX_SENTENCE = 128, 512, 4096
MAX_TOKENS, MAX_EXCLUDED, MAX_STOPS = 1 << 20, 4096, 64
MAX_WINDOW, MAX_BLOCKS = 1 << 16, 1 << 16
# A chunk in the middle of a stream as it is written below, with a few tokens and text without escapes: what nearly all
# messages are. What does not match goes to the strict reader.
_NUMBER = b"(0|[1-9][0-9]{0,8})"
_MORE = b"((?:,(?:0|[1-9][0-9]{0,8})){0,63})"
_COMMON = re.compile(
    rb'\{"v":%d,"attempt":%b,"seq":%b,"ids":\[%b%b\],"text":"([^"\\\x00-\x1f]{0,16384})"\}'
    % (VERSION, _NUMBER, _NUMBER, _NUMBER, _MORE)
)


@dataclass(frozen=True)
class Failure:
    """A request, or one attempt of it, failed: one of CODES and a sentence; `attempt` and `seq` are its place."""

    code: str
    message: str
    attempt: int = 0
    seq: int = 0

    def encode(self) -> bytes:
        """The message."""
        return encode({**_head(self.attempt), "seq": self.seq, "error": {"code": self.code, "message": self.message}})


@dataclass(frozen=True)
class Accepted:
    """A worker will serve the request; what comes of it goes to the inbox."""

    def encode(self) -> bytes:
        """The message."""
        return encode({"v": VERSION, "accepted": True})


@dataclass(frozen=True)
class RouteCall:
    """Who shall serve a request? `exclude` has the lease ids (hex) of instances not to be chosen.

    `context` and `generation` pin servers by their names in the plan, "" leaves the choice to the policy. `tokens` and
    `blocks` tell of the prompt as `policies.prompt_of` does. Requests of one `session` are to be read by one server.
    `early` asks for the route of a request that is still to come, as a Route says that one may.
    """

    request_id: str
    attempt: int = 0
    exclude: tuple[str, ...] = ()
    context: str = ""
    generation: str = ""
    tokens: int = 0
    blocks: tuple[int, ...] = ()
    session: str = ""
    early: bool = False

    def encode(self) -> bytes:
        """The message."""
        body = {"request_id": self.request_id, "exclude": list(self.exclude), "session": self.session}
        prompt = {"tokens": self.tokens, "blocks": list(self.blocks), "early": self.early}
        return encode({**_head(self.attempt), **body, **prompt, "context": self.context, "generation": self.generation})


@dataclass(frozen=True)
class Route:
    """Who serves an attempt; `context` is None when one server does both. `notify` takes the workers' notices.

    `early` says that the choice looks at neither the prompt nor the load, so that one may ask before a request comes.
    """

    request_id: str
    attempt: int
    context: Instance | None
    generation: Instance
    notify: str
    early: bool = False

    def encode(self) -> bytes:
        """The message."""
        servers = {"context": _instance(self.context), "generation": _instance(self.generation)}
        about = {"notify": self.notify, "early": self.early}
        return encode({**_head(self.attempt), "request_id": self.request_id, **servers, **about})


@dataclass(frozen=True)
class GenerateCall:
    """One attempt of a request, for a worker.

    Chunks go to the subject `inbox`; those numbered below `window` need no credit. `timeout` is what is left of the
    request's time in seconds. `generation` is set for a context server: who goes on. `disaggregated` is set for a
    generation server: where the KV cache lies. `notify` is the router's control subject, "" for nobody.
    """

    request_id: str
    attempt: int
    inbox: str
    window: int
    timeout: float
    sampling: Sampling
    prompt: str = ""
    token_ids: tuple[int, ...] = ()
    generation: Instance | None = None
    disaggregated: DisaggregatedParams | None = field(default=None, repr=False)
    notify: str = ""

    def encode(self) -> bytes:
        """The message; the engine's opaque state is attached as bytes."""
        sampling = {**vars(self.sampling), "stop": list(self.sampling.stop)}
        header: dict[str, Any] = {**_head(self.attempt), "request_id": self.request_id, "inbox": self.inbox}
        header |= {"window": self.window, "timeout": self.timeout, "sampling": sampling, "notify": self.notify}
        header |= {"token_ids": list(self.token_ids)} if self.token_ids else {"prompt": self.prompt}
        header["generation"] = _instance(self.generation)
        if self.disaggregated is None:
            return encode(header)
        kept = self.disaggregated
        where = {"first_token_ids": list(kept.first_token_ids), "context_request_id": kept.context_request_id}
        return encode({**header, "disaggregated": where}, kept.opaque_state)


class Chunk(NamedTuple):
    """New tokens and their text; the last chunk of a stream has a `finish_reason` and the usage.

    A tuple, since it is what is made most often.
    """

    attempt: int
    seq: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None = None
    usage: Mapping[str, Any] = MappingProxyType({})

    def encode(self) -> bytes:
        """The message, as `encode` would write it."""
        end = "}"
        if self.finish_reason is not None:
            end = f',"finish_reason":{quoted(self.finish_reason)},"usage":{dumped(dict(self.usage))}}}'
        ids = ",".join(map(str, self.token_ids))
        start = f'{{"v":{VERSION},"attempt":{self.attempt},"seq":{self.seq},"ids":[{ids}],"text":'
        return f"{start}{quoted(self.text)}{end}".encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Heartbeat:
    """The server with lease `sender` (hex) works on it; the next chunk will be `seq`."""

    attempt: int
    seq: int
    sender: str

    def encode(self) -> bytes:
        """The message."""
        return encode({**_head(self.attempt), "seq": self.seq, "alive": self.sender})


@dataclass(frozen=True)
class Credit:
    """Chunks below number `until` may be sent; also says that the requester is alive."""

    request_id: str
    attempt: int
    until: int

    def encode(self) -> bytes:
        """The message."""
        return encode({**_head(self.attempt), "request_id": self.request_id, "until": self.until})


@dataclass(frozen=True)
class Cancel:
    """This attempt, and every older one, is not wanted any more."""

    request_id: str
    attempt: int
    reason: str

    def encode(self) -> bytes:
        """The message."""
        return encode({**_head(self.attempt), "request_id": self.request_id, "cancel": self.reason})


@dataclass(frozen=True)
class Coming:
    """A context server tells the generation server of a call that it reads the prompt, and will hand the call on within
    `timeout` seconds; 0 says that it will not."""

    request_id: str
    attempt: int
    timeout: float

    def encode(self) -> bytes:
        """The message."""
        return encode({**_head(self.attempt), "request_id": self.request_id, "coming": self.timeout})


@dataclass(frozen=True)
class Notice:
    """A worker tells the router: `event` is `started` or `done`, `server` its lease id (hex)."""

    request_id: str
    attempt: int
    event: str
    server: str
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finish_reason: str = ""

    def encode(self) -> bytes:
        """The message."""
        counts = {"prompt_tokens": self.prompt_tokens, "generated_tokens": self.generated_tokens}
        header = {"request_id": self.request_id, "event": self.event, "server": self.server, **counts}
        return encode({**_head(self.attempt), **header, "finish_reason": self.finish_reason})


@dataclass(frozen=True)
class Held:
    """A worker tells the routers which blocks of prompts it holds now (`stored`), and which no more (`removed`).

    `server` is its lease id (hex); its messages are numbered from 0 without gaps by `seq`.
    """

    server: str
    seq: int
    stored: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """The message."""
        blocks = {"stored": list(self.stored), "removed": list(self.removed)}
        return encode({"v": VERSION, "server": self.server, "seq": self.seq, **blocks})


StreamMessage = Union[Chunk, Heartbeat, Failure]
Control = Union[Credit, Cancel, Coming, Notice]


def decode_call(data: bytes) -> GenerateCall:
    """A GenerateCall as a worker gets it. ProtocolError names what is wrong."""
    fields, state = _read(data)
    sampling = fields.inner("sampling")
    return GenerateCall(
        request_id=fields.text("request_id", most=MAX_ID),
        attempt=fields.integer("attempt"),
        inbox=fields.text("inbox", most=MAX_SUBJECT),
        window=fields.integer("window", least=1, most=MAX_WINDOW),
        timeout=fields.number("timeout"),
        sampling=Sampling(
            max_tokens=sampling.integer("max_tokens", 16, least=1, most=MAX_TOKENS),
            temperature=sampling.number("temperature", 1.0, most=100.0),
            top_p=sampling.number("top_p", 1.0, most=1.0),
            seed=sampling.integer("seed", least=-(2**63), most=2**64) if "seed" in sampling else None,
            stop=sampling.texts("stop", MAX_STOPS),
        ),
        prompt=fields.text("prompt", ""),
        token_ids=fields.integers("token_ids", MAX_TOKENS),
        generation=_read_instance(fields, "generation"),
        disaggregated=_read_disaggregated(fields, state),
        notify=fields.text("notify", "", most=MAX_SUBJECT),
    )


def decode_answer(data: bytes) -> Accepted | Failure:
    """What a worker says to a GenerateCall."""
    fields, _ = _read(data)
    if "error" in fields:
        return _read_failure(fields)
    if fields.raw("accepted") is not True:
        raise ProtocolError("a worker neither accepts nor refuses")
    return Accepted()


def decode_route_call(data: bytes) -> RouteCall:
    """A RouteCall as the router gets it."""
    fields, _ = _read(data)
    return RouteCall(
        request_id=fields.text("request_id", most=MAX_ID),
        attempt=fields.integer("attempt"),
        exclude=fields.texts("exclude", MAX_EXCLUDED, 16),
        context=fields.text("context", "", most=MAX_ID),
        generation=fields.text("generation", "", most=MAX_ID),
        tokens=fields.integer("tokens", 0),
        blocks=fields.integers("blocks", MAX_BLOCKS),
        session=fields.text("session", "", most=MAX_ID),
        early=fields.flag("early"),
    )


def decode_held(data: bytes) -> Held:
    """What a worker tells the routers of its blocks."""
    fields, _ = _read(data)
    return Held(
        server=fields.text("server", most=16),
        seq=fields.integer("seq"),
        stored=fields.integers("stored", MAX_BLOCKS),
        removed=fields.integers("removed", MAX_BLOCKS),
    )


def decode_route(data: bytes) -> Route | Failure:
    """What a router says to a RouteCall."""
    fields, _ = _read(data)
    if "error" in fields:
        return _read_failure(fields)
    generation = _read_instance(fields, "generation")
    if generation is None:
        raise ProtocolError("a route has no generation server")
    return Route(
        request_id=fields.text("request_id", most=MAX_ID),
        attempt=fields.integer("attempt"),
        context=_read_instance(fields, "context"),
        generation=generation,
        notify=fields.text("notify", "", most=MAX_SUBJECT),
        early=fields.flag("early"),
    )


def decode_stream(data: bytes) -> StreamMessage:
    """What a requester finds in its inbox."""
    common = _COMMON.fullmatch(data)
    if common is None:
        return _strict_stream(_read(data)[0])
    attempt, seq, first, more, text = common.groups()
    ids = (int(first), *map(int, more[1:].split(b","))) if more else (int(first),)
    try:
        return Chunk(int(attempt), int(seq), ids, text.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        return _strict_stream(_read(data)[0])


def _strict_stream(fields: Fields) -> StreamMessage:
    if "error" in fields:
        return _read_failure(fields)
    attempt, seq = fields.integer("attempt"), fields.integer("seq")
    if "alive" in fields:
        return Heartbeat(attempt, seq, fields.text("alive", most=16))
    reason = fields.text("finish_reason", most=MAX_ID) if "finish_reason" in fields else None
    ids = fields.integers("ids", MAX_TOKENS)
    return Chunk(attempt, seq, ids, fields.text("text"), reason, fields.mapping("usage"))


def decode_control(data: bytes) -> Control:
    """What arrives on a control subject."""
    fields, _ = _read(data)
    request_id, attempt = fields.text("request_id", most=MAX_ID), fields.integer("attempt")
    if "cancel" in fields:
        return Cancel(request_id, attempt, fields.text("cancel", most=MAX_SENTENCE))
    if "coming" in fields:
        return Coming(request_id, attempt, fields.number("coming"))
    if "event" in fields:
        return Notice(
            request_id,
            attempt,
            fields.text("event", most=16),
            fields.text("server", most=16),
            fields.integer("prompt_tokens", 0),
            fields.integer("generated_tokens", 0),
            fields.text("finish_reason", "", most=MAX_ID),
        )
    return Credit(request_id, attempt, fields.integer("until"))


def _head(attempt: int) -> dict[str, Any]:
    return {"v": VERSION, "attempt": attempt}


def _read(data: bytes) -> tuple[Fields, bytes]:
    fields, attachment = split(data)
    version = fields.raw("v")
    if version != VERSION:
        shown = version if isinstance(version, int) and abs(version) < 2**53 else "none"
        raise ProtocolError(f"protocol version {shown} is not {VERSION}: both sides need the same trtdist")
    return fields, attachment


def _read_failure(fields: Fields) -> Failure:
    error = fields.inner("error")
    message = error.text("message", most=MAX_SENTENCE)
    return Failure(error.text("code", most=MAX_ID), message, fields.integer("attempt", 0), fields.integer("seq", 0))


def _read_instance(fields: Fields, name: str) -> Instance | None:
    raw = fields.raw(name)
    if raw is None:
        return None
    try:
        return Instance.from_dict(raw)
    except InputError as error:
        raise ProtocolError(f"{name}: {error}") from None


def _read_disaggregated(fields: Fields, state: bytes) -> DisaggregatedParams | None:
    if "disaggregated" not in fields:
        return None
    where = fields.inner("disaggregated")
    first = where.integers("first_token_ids", MAX_TOKENS)
    return DisaggregatedParams(first, where.integer("context_request_id", most=2**63), state)


def _instance(instance: Instance | None) -> dict[str, Any] | None:
    return None if instance is None else instance.to_dict()
