"""Names of instances, held against those of Triton Distributed and the blake3 package."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from trtdist.errors import InputError
from trtdist.serving import slug

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}", fullmatch=True)
ENDPOINTS = st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True)
LEASES = st.integers(1, 2**63 - 1)


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        ("backend", "triton_init_backend_720278f8"),
        ("tensorrt-llm", "triton_init_tensorrt_llm_a1d4d092"),
        ("tensorrt-llm-ctx-0", "triton_init_tensorrt_llm_ctx_0_d5fe4497"),
        ("tensorrt-llm-ctx-1", "triton_init_tensorrt_llm_ctx_1_bd3607c8"),
        ("tensorrt-llm-gen-2", "triton_init_tensorrt_llm_gen_2_1d1c825c"),
        ("tensorrt-llm-ctx", "triton_init_tensorrt_llm_ctx_03a59431"),
        ("tensorrt-llm-gen", "triton_init_tensorrt_llm_gen_225e6d2e"),
        ("router", "triton_init_router_75e03fb1"),
    ],
)
def test_slug_is_the_seeds(component: str, expected: str) -> None:
    assert slug.service_slug("triton-init", component) == expected


@given(st.binary(max_size=1024))
def test_blake3_equals_the_package(data: bytes) -> None:
    assert slug.blake3_hex(data) == blake3(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 1023, 1024])
def test_blake3_at_block_edges(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    assert slug.blake3_hex(data) == blake3(data).hexdigest()


def test_blake3_refuses_a_second_chunk() -> None:
    with pytest.raises(ValueError, match="1024"):
        slug.blake3_hex(bytes(1025))


@given(NAMES, NAMES, ENDPOINTS, LEASES)
def test_key_and_subject_read_back(namespace: str, component: str, endpoint: str, lease: int) -> None:
    key = slug.instance_key(namespace, component, endpoint, lease)
    assert slug.parse_key(key) == (namespace, component, endpoint, lease)
    assert key.startswith(slug.instance_prefix(namespace, component, endpoint))
    assert key.startswith(slug.instance_prefix(namespace, component))
    subject = slug.instance_subject(namespace, component, endpoint, lease)
    assert subject == f"{slug.service_slug(namespace, component)}.{endpoint}-{lease:x}"


@given(st.text(max_size=60))
def test_parsers_take_only_what_builders_write(text: str) -> None:
    try:
        parsed = slug.parse_key(text)
    except InputError:
        return
    assert slug.instance_key(*parsed) == text


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ns/components/router/generate",
        "ns/components/router/generate:",
        "ns/components/router/generate:0",
        "ns/components/router/generate:00ab",
        "ns/components/router/generate:AB",
        "ns/components/router/generate:ffffffffffffffff",
        "/ns/components/router/generate:ab",
        "ns/parts/router/generate:ab",
        "ns/components/router/a.b:ab",
        "ns/components/router/generate:ab\n",
    ],
)
def test_foreign_keys_are_refused(key: str) -> None:
    with pytest.raises(InputError):
        slug.parse_key(key)


@pytest.mark.parametrize("name", ["", "a/b", "a b", ".hidden", "a*", "a>", "ä", "x" * 300])
def test_names_that_break_keys_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="namespace"):
        slug.instance_prefix(name)
