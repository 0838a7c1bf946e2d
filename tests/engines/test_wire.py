"""What ranks send each other, as bytes."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.engines.base import EngineError
from trtdist.engines.reference import messages
from trtdist.engines.reference.handle import NOWHERE, Handle
from trtdist.engines.reference.shape import HEADS
from trtdist.engines.reference.wire import decode, encode

NUMBERS = st.integers(0, 2**63 - 1)
TOKENS = st.lists(st.integers(0, 300), max_size=200).map(tuple)
DIGESTS = st.text("0123456789abcdef", min_size=32, max_size=32)
ADDRESSES = st.tuples(st.text(min_size=1, max_size=20), st.integers(1, 65535))
PLACES = st.integers(0, 1000) | ADDRESSES | st.just(NOWHERE)
HANDLES = st.builds(
    Handle,
    number=NUMBERS,
    server=st.text(min_size=1, max_size=20),
    tokens=st.integers(1, 1000),
    places=st.lists(ADDRESSES, min_size=2, max_size=2).map(tuple),
    digests=st.lists(DIGESTS, min_size=HEADS, max_size=HEADS).map(tuple),
    prompt=DIGESTS,
    logits=DIGESTS,
)
ACTIONS = st.one_of(
    st.builds(messages.Forward, NUMBERS, TOKENS, st.booleans()),
    st.builds(messages.Reuse, NUMBERS, TOKENS),
    st.builds(messages.Remember, NUMBERS, TOKENS),
    st.builds(messages.Keep, NUMBERS, NUMBERS),
    st.builds(messages.Fetch, NUMBERS, HANDLES),
    st.builds(messages.Drop, NUMBERS),
    st.builds(messages.Release, NUMBERS),
)
MESSAGES = st.one_of(
    st.builds(messages.Round, st.lists(ACTIONS, max_size=4).map(tuple)),
    st.just(messages.Stop()),
    st.builds(messages.Ready, NUMBERS, PLACES),
    st.builds(messages.Kept, NUMBERS, NUMBERS, st.dictionaries(st.integers(0, 7), DIGESTS)),
    st.builds(messages.Fetched, NUMBERS, NUMBERS, NUMBERS),
    st.builds(messages.Refused, NUMBERS, NUMBERS, st.text()),
    st.builds(messages.Failed, NUMBERS, st.text()),
    st.builds(messages.Ask, NUMBERS, st.text(), TOKENS, NUMBERS, NUMBERS),
    st.builds(messages.Answer, NUMBERS, st.dictionaries(st.integers(0, 7), st.binary()), st.text()),
)


def framed(line: object) -> bytes:
    data = json.dumps(line).encode()
    return len(data).to_bytes(4, "big") + data


@given(MESSAGES)
def test_a_message_arrives_as_it_was_sent(message: messages.Message) -> None:
    assert decode(encode(message)) == message


@given(MESSAGES, st.data())
def test_a_message_that_was_cut_is_refused(message: messages.Message, data: st.DataObject) -> None:
    whole = encode(message)
    with pytest.raises(EngineError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EngineError):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(messages.Stop()),
        framed(["Stop", 1]),
        framed(["Drop"]),
        framed(["Drop", True]),
        framed(["Drop", -1]),
        framed(["Kept", 0, 1, ["x"]]),
        framed(["Ready", 0, ["host", 0]]),
        framed(["Fetch", 1, "{}"]),
        framed(["Handle", 1]),
        framed("Stop"),
        framed(["Answer", 1, {"0": 4}, ""]) + b"abc",
        framed(["Answer", 1, {"0": 4}, ""]) + b"abcde",
        (200_000).to_bytes(4, "big") + b"[" * 200_000,
    ],
)
def test_what_no_rank_sends_is_refused(data: bytes) -> None:
    with pytest.raises(EngineError):
        decode(data)
