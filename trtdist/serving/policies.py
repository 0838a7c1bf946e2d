"""Who serves a request: pure functions from the servers that could, and what they do now, to one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trtdist.errors import InputError
from trtdist.serving.instance import Instance

__all__ = ["Load", "Policy", "View", "least_loaded", "policy_named", "round_robin"]


@dataclass(frozen=True)
class Load:
    """What an instance works on: the number of requests, and the tokens of their prompts."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class View:
    """What a policy may know: how many choices were made before, and the load by lease id (hex)."""

    turn: int = 0
    loads: Mapping[str, Load] = field(default_factory=dict)


# Chooses one of the instances, of which there is at least one, in key order.
Policy = Callable[[Sequence[Instance], View], Instance]


def round_robin(instances: Sequence[Instance], view: View) -> Instance:
    """Each in turn."""
    return instances[view.turn % len(instances)]


def least_loaded(instances: Sequence[Instance], view: View) -> Instance:
    """The one with the fewest tokens, then the fewest requests; in turn among equals."""
    first = view.turn % len(instances)
    in_turn = [*instances[first:], *instances[:first]]
    loads = [view.loads.get(one.lease_hex, Load()) for one in in_turn]
    return min(zip(in_turn, loads), key=lambda pair: (pair[1].tokens, pair[1].requests))[0]


_POLICIES: dict[str, Policy] = {"round_robin": round_robin, "least_loaded": least_loaded}


def policy_named(name: str) -> Policy:
    """The policy of that name; InputError for one that is not there."""
    try:
        return _POLICIES[name]
    except KeyError:
        raise InputError(f"router.policy {name} is not there yet: use {' or '.join(_POLICIES)}") from None
