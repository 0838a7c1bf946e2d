"""Names of instances in etcd and NATS: the layout of Triton Distributed, which became NVIDIA's Dynamo.

Its tools, and eyes that are used to it, still work.

key      {namespace}/components/{component}/{endpoint}:{lease in hex}
subject  {slug}.{endpoint}-{lease in hex}
slug     "{namespace}|{component}" in lower case, other characters than [a-z0-9_] as "_", then "_" and the last
         eight hex digits of the BLAKE3 hash of the original text, leading "_" stripped
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Sequence

from trtdist.errors import InputError

__all__ = [
    "CONTEXT",
    "CONTROL",
    "ENDPOINT",
    "GENERATION",
    "MONOLITHIC",
    "ROUTER",
    "blake3_hex",
    "check_name",
    "component_of_role",
    "control_subject",
    "held_subject",
    "instance_key",
    "instance_prefix",
    "instance_subject",
    "lease_hex",
    "newcomers_key",
    "parse_key",
    "parse_lease",
    "service_slug",
]

MONOLITHIC = "tensorrt-llm"
CONTEXT = "tensorrt-llm-ctx"
GENERATION = "tensorrt-llm-gen"
ROUTER = "router"
ENDPOINT = "generate"
CONTROL = "control"

_COMPONENTS = {"monolithic": MONOLITHIC, "context": CONTEXT, "generation": GENERATION}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_ENDPOINT_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_LEASE = re.compile(r"[1-9a-f][0-9a-f]{0,15}")
_MAX_LEASE = 2**63 - 1

_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)
_CHUNK_START, _CHUNK_END, _ROOT = 1, 2, 8
_CHUNK_BYTES, _BLOCK_BYTES, _ROUNDS = 1024, 64, 7
_WORD = 0xFFFFFFFF


def component_of_role(role: str) -> str:
    """The component under which servers of a plan's role (`context`, ...) register."""
    return _COMPONENTS[role]


def _rotate(value: int, by: int) -> int:
    return ((value >> by) | (value << (32 - by))) & _WORD


def _mix(state: list[int], where: tuple[int, int, int, int], x: int, y: int) -> None:
    a, b, c, d = where
    for word, first, second in ((x, 16, 12), (y, 8, 7)):
        state[a] = (state[a] + state[b] + word) & _WORD
        state[d] = _rotate(state[d] ^ state[a], first)
        state[c] = (state[c] + state[d]) & _WORD
        state[b] = _rotate(state[b] ^ state[c], second)


def _compress(chaining: Sequence[int], block: bytes, flags: int) -> list[int]:
    words = list(struct.unpack("<16I", block.ljust(_BLOCK_BYTES, b"\0")))
    state = [*chaining, *_IV[:4], 0, 0, len(block), flags]
    for _ in range(_ROUNDS):
        for index, where in enumerate(_COLUMNS_AND_DIAGONALS):
            _mix(state, where, words[2 * index], words[2 * index + 1])
        words = [words[index] for index in _PERMUTATION]
    return [state[index] ^ state[index + 8] for index in range(8)]


def blake3_hex(data: bytes) -> str:
    """The BLAKE3 hash of at most 1024 bytes (one chunk), 64 hex digits; ValueError when there are more.

    Section 2 of https://github.com/BLAKE3-team/BLAKE3-specs; names are short, so the tree over chunks is left out.
    """
    if len(data) > _CHUNK_BYTES:
        raise ValueError(f"only {_CHUNK_BYTES} bytes can be hashed, not {len(data)}")
    blocks = [data[at : at + _BLOCK_BYTES] for at in range(0, len(data), _BLOCK_BYTES)] or [b""]
    chaining: Sequence[int] = _IV
    for index, block in enumerate(blocks):
        flags = _CHUNK_START if index == 0 else 0
        if index == len(blocks) - 1:
            flags |= _CHUNK_END | _ROOT
        chaining = _compress(chaining, block, flags)
    return struct.pack("<8I", *chaining).hex()


def check_name(name: str, what: str) -> str:
    """The name itself when it can be part of a key; InputError says what is wrong otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{what} {name!r} cannot name an instance: use letters, digits, '_', '.' and '-', at most 255")
    return name


def _check_endpoint(endpoint: str) -> str:
    if not _ENDPOINT_NAME.fullmatch(endpoint):
        raise InputError(f"endpoint {endpoint!r} cannot be part of a subject: use letters, digits, '_' and '-'")
    return endpoint


def lease_hex(lease_id: int) -> str:
    """A lease id as keys and subjects have it: lower-case hex without padding."""
    if not 0 < lease_id <= _MAX_LEASE:
        raise InputError(f"{lease_id} is not the id of an etcd lease")
    return f"{lease_id:x}"


def parse_lease(text: str) -> int:
    """The lease id of `lease_hex`; InputError for anything else, also for padding and upper case."""
    if not _LEASE.fullmatch(text) or int(text, 16) > _MAX_LEASE:
        raise InputError(f"{text!r} is not the id of an etcd lease in hex")
    return int(text, 16)


@functools.lru_cache(maxsize=64)
def service_slug(namespace: str, component: str) -> str:
    """The name of a component on NATS, unique for each namespace."""
    text = f"{namespace}|{component}"
    readable = re.sub(r"[^a-z0-9_]", "_", text.lower())
    return f"{readable}_{blake3_hex(text.encode())[-8:]}".lstrip("_")


def instance_prefix(namespace: str, component: str = "", endpoint: str = "") -> str:
    """The start of the keys of a namespace, of one component, or of one endpoint of it."""
    prefix = f"{check_name(namespace, 'namespace')}/components/"
    if component:
        prefix += f"{check_name(component, 'component')}/"
    if component and endpoint:
        prefix += f"{_check_endpoint(endpoint)}:"
    return prefix


def instance_key(namespace: str, component: str, endpoint: str, lease_id: int) -> str:
    """The etcd key of one instance."""
    if not component or not endpoint:
        raise InputError("an instance has a component and an endpoint")
    return instance_prefix(namespace, component, endpoint) + lease_hex(lease_id)


def parse_key(key: str) -> tuple[str, str, str, int]:
    """Namespace, component, endpoint and lease id of an instance key; InputError when it is none."""
    parts = key.split("/")
    endpoint, colon, lease = parts[-1].rpartition(":")
    if len(parts) != 4 or parts[1] != "components" or not colon:
        raise InputError(f"{key!r} is not the key of an instance")
    check_name(parts[0], "namespace")
    check_name(parts[2], "component")
    return parts[0], parts[2], _check_endpoint(endpoint), parse_lease(lease)


def instance_subject(namespace: str, component: str, endpoint: str, lease_id: int) -> str:
    """The NATS subject of one instance."""
    return f"{service_slug(namespace, component)}.{_check_endpoint(endpoint)}-{lease_hex(lease_id)}"


def control_subject(namespace: str, component: str, lease_id: int) -> str:
    """Where an instance takes credits and cancellations."""
    return instance_subject(namespace, component, CONTROL, lease_id)


def newcomers_key(namespace: str) -> str:
    """The key that is there once new servers of a run have to prove themselves."""
    return f"{check_name(namespace, 'namespace')}/newcomers"


def held_subject(namespace: str, component: str) -> str:
    """Where the instances of a component tell routers which blocks of prompts they hold."""
    return f"{service_slug(namespace, component)}.held"
