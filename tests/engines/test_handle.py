"""What travels from a context server to a generation server is read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.engines.base import EngineError
from trtdist.engines.reference.handle import Handle, parse

DIGEST = "0123456789abcdef" * 2
HANDLE = Handle(7, "ctx.0", 12, (("127.0.0.1", 4321), ("::1", 1)), (DIGEST,) * 8, DIGEST, DIGEST)


@pytest.mark.parametrize("handle", [HANDLE, Handle(2**63 - 1, "ctx.0", 1, (0, 1, 2, 3), (DIGEST,) * 8, DIGEST, DIGEST)])
def test_it_arrives_as_it_left(handle: Handle) -> None:
    assert parse(handle.encode()) == handle


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("number", -1),
        ("number", "7"),
        ("number", True),
        ("server", ""),
        ("tokens", 0),
        ("tokens", 10**9),
        ("places", []),
        ("places", [1, 2, 3]),
        ("places", [["127.0.0.1", 70000]]),
        ("places", [1, ["127.0.0.1", 7]]),
        ("places", {"0": 1}),
        ("digests", [DIGEST] * 7),
        ("digests", [DIGEST.upper()] * 8),
        ("prompt", "abc"),
        ("logits", None),
        ("more", 1),
    ],
)
def test_damage_is_refused(name: str, value: Any) -> None:
    raw = {**json.loads(HANDLE.encode()), name: value}
    with pytest.raises(EngineError):
        parse(json.dumps(raw).encode())


@given(st.binary(max_size=200) | st.just(b"[" * 16000) | st.just(b"x" * 20000))
def test_anything_else_is_refused(state: bytes) -> None:
    with pytest.raises(EngineError):
        parse(state)
