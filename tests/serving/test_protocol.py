"""Every message decodes to itself, and whatever else arrives is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.engines.base import DisaggregatedParams, Sampling
from trtdist.serving import protocol
from trtdist.serving.discovery import Instance
from trtdist.serving.slug import CONTEXT, GENERATION, MONOLITHIC
from trtdist.serving.wire import Fields, ProtocolError

DECODERS: tuple[Callable[[bytes], object], ...] = (
    protocol.decode_answer,
    protocol.decode_call,
    protocol.decode_control,
    protocol.decode_route,
    protocol.decode_route_call,
    protocol.decode_stream,
)

SOME = settings(max_examples=40, deadline=None)
NUMBERS = st.integers(0, 2**53)
# Any text, halves of surrogate pairs included: an argument that is no UTF-8 has them.
TEXTS = st.text(st.characters())
IDS = st.text(max_size=128)
HEX = st.from_regex(r"[1-9a-f][0-9a-f]{0,15}", fullmatch=True)
TOKENS = st.lists(st.integers(0, 2**53 - 1), max_size=20).map(tuple)
INSTANCES = st.builds(
    Instance.of,
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True),
    st.sampled_from([CONTEXT, GENERATION, MONOLITHIC]),
    st.just("generate"),
    st.integers(1, 2**63 - 1),
    TEXTS,
    TEXTS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SAMPLINGS = st.builds(
    Sampling,
    st.integers(1, 1 << 20),
    st.floats(0, 100),
    st.floats(0, 1),
    st.none() | st.integers(-(2**63), 2**64),
    st.lists(TEXTS, max_size=4).map(tuple),
)
STATES = st.builds(DisaggregatedParams, TOKENS, st.integers(0, 2**63), st.binary())
INPUTS = st.fixed_dictionaries({"prompt": TEXTS}) | st.fixed_dictionaries({"token_ids": TOKENS.filter(bool)})
CALLS = st.builds(
    lambda given_input, **rest: protocol.GenerateCall(**given_input, **rest),
    INPUTS,
    request_id=IDS,
    attempt=NUMBERS,
    inbox=st.text(max_size=512),
    window=st.integers(1, 1 << 16),
    timeout=st.floats(0, 1e9),
    sampling=SAMPLINGS,
    generation=st.none() | INSTANCES,
    disaggregated=st.none() | STATES,
    notify=st.text(max_size=512),
)
CHUNKS = st.tuples(NUMBERS, NUMBERS, TOKENS, TEXTS).map(lambda fields: protocol.Chunk(*fields)) | st.builds(
    protocol.Chunk, NUMBERS, NUMBERS, TOKENS, TEXTS, IDS, st.dictionaries(TEXTS, JSON, max_size=3)
)
FAILURES = st.builds(protocol.Failure, st.sampled_from(protocol.CODES), st.text(max_size=4096), NUMBERS, NUMBERS)
NOTICES = st.builds(
    protocol.Notice, IDS, NUMBERS, st.sampled_from(["started", "done"]), HEX, NUMBERS, NUMBERS, st.text(max_size=128)
)
MESSAGES: dict[str, tuple[st.SearchStrategy[Any], Callable[[bytes], object]]] = {
    "accepted": (st.builds(protocol.Accepted), protocol.decode_answer),
    "refused": (FAILURES, protocol.decode_answer),
    "call": (CALLS, protocol.decode_call),
    "route call": (
        st.builds(protocol.RouteCall, IDS, NUMBERS, st.lists(HEX, max_size=4).map(tuple), IDS, IDS),
        protocol.decode_route_call,
    ),
    "route": (
        st.builds(protocol.Route, IDS, NUMBERS, st.none() | INSTANCES, INSTANCES, st.text(max_size=512)),
        protocol.decode_route,
    ),
    "no route": (FAILURES, protocol.decode_route),
    "chunk": (CHUNKS, protocol.decode_stream),
    "heartbeat": (st.builds(protocol.Heartbeat, NUMBERS, NUMBERS, HEX), protocol.decode_stream),
    "failure": (FAILURES, protocol.decode_stream),
    "credit": (st.builds(protocol.Credit, IDS, NUMBERS, NUMBERS), protocol.decode_control),
    "coming": (st.builds(protocol.Coming, IDS, NUMBERS, st.floats(0, 1e9)), protocol.decode_control),
    "cancel": (st.builds(protocol.Cancel, IDS, NUMBERS, st.text(max_size=4096)), protocol.decode_control),
    "notice": (NOTICES, protocol.decode_control),
}


@pytest.mark.parametrize("kind", MESSAGES)
@SOME
@given(data=st.data())
def test_a_message_decodes_to_itself(kind: str, data: st.DataObject) -> None:
    strategy, decode = MESSAGES[kind]
    message = data.draw(strategy)
    assert decode(message.encode()) == message


def refused_or_read(data: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(data)
        except ProtocolError as error:
            assert str(error) and "\n" not in str(error)


@SOME
@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    refused_or_read(data)


@SOME
@given(st.data())
def test_a_message_with_one_wrong_field_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(MESSAGES)))
    message = data.draw(MESSAGES[kind][0])
    header, newline, attachment = message.encode().partition(b"\n")
    raw = json.loads(header.decode("utf-8", "surrogatepass"))
    name = data.draw(st.sampled_from(sorted(raw)))
    raw[name] = data.draw(JSON)
    refused_or_read(json.dumps(raw).encode() + newline + attachment)


@SOME
@given(st.data(), st.integers(0, 400))
def test_a_cut_message_is_read_or_refused(data: st.DataObject, length: int) -> None:
    kind = data.draw(st.sampled_from(sorted(MESSAGES)))
    refused_or_read(data.draw(MESSAGES[kind][0]).encode()[:length])


@pytest.mark.parametrize(
    "data",
    [
        b'{"v":' + b"1" * 5000 + b"}",
        b'{"v":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"v":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"v":1,"attempt":0,"seq":0,"ids":[1,true],"text":""}',
        b'{"v":1,"attempt":NaN,"seq":Infinity}',
        b"\xff\xfe",
        b"",
    ],
    ids=["long number", "deep", "less deep", "bool", "nan", "no utf-8", "empty"],
)
def test_nonsense_is_refused(data: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(ProtocolError):
            decode(data)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "NaN", "-1", "1e10", "true", '"1"', "null"])
def test_what_is_no_time_is_refused(number: str) -> None:
    text = f'{{"v":1,"attempt":0,"request_id":"r","inbox":"i","window":1,"timeout":{number},"sampling":{{}}}}'
    with pytest.raises(ProtocolError, match="timeout must be a number"):
        protocol.decode_call(text.encode())


def test_limits_are_written_out() -> None:
    with pytest.raises(ProtocolError, match=r"to 1,000,000,000$"):
        Fields({"timeout": 1e10}).number("timeout")
    with pytest.raises(ProtocolError, match=r"from 1 to 65,536$"):
        Fields({"window": 1 << 20}).integer("window", least=1, most=1 << 16)


def test_another_version_is_named() -> None:
    with pytest.raises(ProtocolError, match="protocol version 2 is not 1: both sides need the same trtdist"):
        protocol.decode_stream(b'{"v":2}')


@given(
    st.lists(st.integers(0, 10**9), max_size=70),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.integers(0, 10**9),
)
def test_the_quick_reader_of_chunks_agrees_with_the_strict_one(ids: list[int], text: str, seq: int) -> None:
    data = protocol.Chunk(0, seq, tuple(ids), text).encode()
    assert protocol.decode_stream(data) == protocol._strict_stream(protocol._read(data)[0])
