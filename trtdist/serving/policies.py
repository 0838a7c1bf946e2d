"""Who serves a request: pure functions from the servers that could, and what they do now, to one of them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from trtdist.errors import InputError
from trtdist.serving.instance import Instance

__all__ = [
    "POLICIES",
    "Load",
    "Policy",
    "Prompt",
    "View",
    "block_hashes",
    "held_tokens",
    "kv_prefix",
    "least_loaded",
    "policy_named",
    "prompt_of",
    "round_robin",
    "sticky",
]

# Chosen with `trtdist bench route`: less leaves servers uneven under little load, more gives up held prefixes.
RECENT_WEIGHT = 0.1
# After so long, what a server has computed counts half as recent.
HALF_LIFE_S = 60.0
# Blocks as requester and servers count them, of tokens or of the bytes of a text, which are fewer tokens.
BLOCK_TOKENS, BYTES_PER_TOKEN = 128, 4
# Of a prompt that is longer only the beginning is looked for.
MOST_BLOCKS = 512
_HASH_BYTES = 6
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Load:
    """What an instance works on: the number of requests, and the tokens of their prompts."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Prompt:
    """What is to be computed: the number of tokens, and a hash for each whole block of `block_tokens` of them.

    A block's hash covers everything before it, too, so that equal hashes mean equal prefixes.
    """

    tokens: int = 0
    blocks: tuple[int, ...] = ()
    block_tokens: int = 1


@dataclass(frozen=True)
class View:
    """What a policy may know: how many choices were made before, the load by lease id (hex), and the prompt.

    `held` has the hashes of the blocks whose KV cache each instance holds, `recent` the tokens that each has computed
    of late (older ones count less), both by lease id. `weights` are the shares of work by the server's name, 1 for
    those that are not there.
    """

    turn: int = 0
    loads: Mapping[str, Load] = field(default_factory=dict)
    prompt: Prompt = Prompt()
    held: Mapping[str, Container[int]] = field(default_factory=dict)
    recent: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def weight(self, instance: Instance) -> float:
        """The share of the work that an instance is to get."""
        return self.weights.get(instance.server, 1.0)


# Chooses one of the instances, of which there is at least one, in key order.
Policy = Callable[[Sequence[Instance], View], Instance]


def round_robin(instances: Sequence[Instance], view: View) -> Instance:
    """Each in turn; with weights, as often as they say, and as evenly as that can be."""
    weights = [view.weight(one) for one in instances]
    if len(set(weights)) == 1:
        return instances[view.turn % len(instances)]
    # Multiples of the golden ratio come to lie evenly between 0 and 1, wherever one begins.
    place = view.turn * _GOLDEN % 1.0 * sum(weights)
    for one, weight in zip(instances, weights):
        place -= weight
        if place < 0:
            return one
    return instances[-1]


def least_loaded(instances: Sequence[Instance], view: View) -> Instance:
    """The one with the fewest tokens by its weight, then the fewest requests; in turn among equals."""
    first = view.turn % len(instances)
    in_turn = [*instances[first:], *instances[:first]]
    loads = [view.loads.get(one.lease_hex, Load()) for one in in_turn]

    def work(pair: tuple[Instance, Load]) -> tuple[float, float]:
        weight = view.weight(pair[0])
        return pair[1].tokens / weight, pair[1].requests / weight

    return min(zip(in_turn, loads), key=work)[0]


def kv_prefix(instances: Sequence[Instance], view: View) -> Instance:
    """The one that would have computed the prompt first: least tokens before it and in it that are not held.

    All counts in tokens, so a held prefix draws a request only as far as its server is not behind by more than that
    prefix would cost elsewhere, and a popular one comes to be held by several. What each did of late counts a little:
    without load, the first server to hold a prefix would get all that begins with it. In turn among equals.
    """
    first = view.turn % len(instances)
    in_turn = [*instances[first:], *instances[:first]]
    return min(in_turn, key=lambda one: _tokens_until_computed(one, view))


def block_hashes(token_ids: Sequence[int], block_tokens: int) -> tuple[int, ...]:
    """The hashes of the whole blocks of a prompt, as `Prompt.blocks` has them; the rest is in none."""
    return _chained(array("q", token_ids).tobytes(), 8 * block_tokens)


def prompt_of(text: str, token_ids: Sequence[int]) -> Prompt:
    """What a policy may know of a prompt that nobody has tokenised yet, or of its tokens; `text` counts without them.

    The tokens of a text are estimated. Texts that begin alike have equal hashes in front, whatever the tokenizer.
    """
    if token_ids:
        blocks = block_hashes(token_ids[: MOST_BLOCKS * BLOCK_TOKENS], BLOCK_TOKENS)
        return Prompt(len(token_ids), blocks, BLOCK_TOKENS)
    size = BLOCK_TOKENS * BYTES_PER_TOKEN
    data = text[: MOST_BLOCKS * size].encode("utf-8", "surrogatepass")[: MOST_BLOCKS * size]
    return Prompt(1 + len(text) // BYTES_PER_TOKEN, _chained(data, size), BLOCK_TOKENS)


def sticky(instances: Sequence[Instance], session: str) -> Instance:
    """The same one for a session as long as it is there; when another comes or goes, few sessions move."""
    return max(
        instances, key=lambda one: hashlib.blake2b(f"{one.server} {session}".encode("utf-8", "replace")).digest()
    )


def held_tokens(instance: Instance, view: View) -> int:
    """How many tokens of the prompt, from the first on, an instance holds."""
    held = view.held.get(instance.lease_hex, ())
    hits = 0
    for block in view.prompt.blocks:
        if block not in held:
            break
        hits += 1
    return hits * view.prompt.block_tokens


def _chained(data: bytes, size: int) -> tuple[int, ...]:
    found = []
    before = b""
    for end in range(size, len(data) + 1, size):
        before = hashlib.blake2b(data[end - size : end], digest_size=_HASH_BYTES, key=before).digest()
        found.append(int.from_bytes(before, "big"))
    return tuple(found)


def _tokens_until_computed(instance: Instance, view: View) -> float:
    load = view.loads.get(instance.lease_hex, Load())
    recent = RECENT_WEIGHT * view.recent.get(instance.lease_hex, 0.0)
    behind = (recent + load.tokens) / view.weight(instance)
    return behind + view.prompt.tokens - held_tokens(instance, view)


POLICIES: Mapping[str, Policy] = {"round_robin": round_robin, "least_loaded": least_loaded, "kv_prefix": kv_prefix}


def policy_named(name: str) -> Policy:
    """The policy of that name; InputError for one that is not there."""
    if name not in POLICIES:
        raise InputError(f"router.policy {name} is not there: use {' or '.join(POLICIES)}")
    return POLICIES[name]
