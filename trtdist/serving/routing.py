"""Routing without I/O: from a request and the instances that are there to who serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trtdist.serving.discovery import Change, Instance, Snapshot
from trtdist.serving.held import HeldBook
from trtdist.serving.loads import LoadBook, Recent
from trtdist.serving.policies import BLOCK_TOKENS, Policy, Prompt, View, held_tokens, round_robin, sticky
from trtdist.serving.protocol import Failure, Held, Notice, Route, RouteCall
from trtdist.serving.slug import component_of_role

__all__ = ["Desk"]


class Desk:
    """Decides who serves; `roles` are those of the deployment, `notify` takes the workers' notices.

    `weights` are shares of the work by name of server. Prompts of fewer than `direct_below` tokens go to a generation
    server at once, unless a context server is pinned.
    """

    def __init__(
        self,
        roles: Sequence[str],
        policy: Policy,
        notify: str,
        weights: Mapping[str, float] | None = None,
        direct_below: int = 0,
    ) -> None:
        self._weights = weights or {}
        self._direct_below = direct_below
        self._roles = tuple(roles)
        self._policy = policy
        self._early = policy is round_robin and not direct_below
        self._notify = notify
        self._turns = dict.fromkeys(roles, 0)
        self._book = LoadBook()
        self._recent = Recent()
        self._held = HeldBook()

    def decide(self, call: RouteCall, snapshot: Snapshot, now: float) -> Route | Failure:
        """One server for each role, or what is missing; a pinned server is not replaced by another."""
        pins = {"context": call.context, "generation": call.generation, "monolithic": call.generation}
        found: dict[str, tuple[Instance, int]] = {}
        if call.context and "context" not in self._roles:
            reason = f"there is no context server {call.context}: this deployment has none"
            return Failure("unavailable", reason, call.attempt)
        direct = "context" in self._roles and not call.context and 0 < call.tokens < self._direct_below
        for role in ("generation",) if direct else self._roles:
            candidates = _candidates(role, pins[role], call.exclude, snapshot)
            if not candidates:
                return Failure("unavailable", _missing(role, pins[role], call, snapshot), call.attempt)
            reads = direct or role != "generation"
            found[role] = self._choose(role, candidates, call if reads else RouteCall(call.request_id), now)
        # The request that uses an early route has another name, and its servers tell of it.
        for instance, tokens in () if call.early else found.values():
            self._book.chosen(instance.lease_hex, call.request_id, call.attempt, now, tokens)
            self._recent.add(instance.lease_hex, tokens)
        generation, _ = found.get("generation") or found["monolithic"]
        context, _ = found.get("context", (None, 0))
        return Route(call.request_id, call.attempt, context, generation, self._notify, self._early)

    def note(self, notice: Notice, now: float) -> None:
        """Take down what a worker tells."""
        self._book.note(notice, now)

    def held(self, told: Held) -> None:
        """Take down what a worker holds."""
        self._held.take(told)

    def stats(self, now: float) -> dict[str, int]:
        """How many parts of requests servers work on, and how many blocks they hold, as far as they have told."""
        requests = sum(load.requests for load in self._book.loads(now).values())
        return {"requests": requests, "held_blocks": sum(len(blocks) for blocks in self._held.blocks.values())}

    def changed(self, change: Change) -> None:
        """Forget what servers did that are gone."""
        if change.vanished:
            there = {one.lease_hex for one in change.snapshot.instances}
            for book in (self._book, self._recent, self._held):
                book.keep(there)

    def _choose(self, role: str, candidates: Sequence[Instance], call: RouteCall, now: float) -> tuple[Instance, int]:
        """The server for a role, and how many tokens of the call's prompt it has to compute."""
        prompt = Prompt(call.tokens, call.blocks, BLOCK_TOKENS)
        known = (self._held.blocks, self._recent.tokens(now), self._weights)
        view = View(self._turns[role], self._book.loads(now), prompt, *known)
        if len(candidates) == 1:
            chosen = candidates[0]
        elif call.session:
            chosen = sticky(candidates, call.session)
        else:
            self._turns[role] += 1
            chosen = self._policy(candidates, view)
        return chosen, max(0, prompt.tokens - held_tokens(chosen, view))


def _candidates(role: str, pin: str, exclude: Sequence[str], snapshot: Snapshot) -> tuple[Instance, ...]:
    there = snapshot.of(component_of_role(role))
    return tuple(one for one in there if one.lease_hex not in exclude and (one.server == pin if pin else one.proven))


def _missing(role: str, pin: str, call: RouteCall, snapshot: Snapshot) -> str:
    what = f"{role} server {pin}" if pin else f"{role} server"
    there = [one for one in snapshot.of(component_of_role(role)) if (one.server == pin if pin else one.proven)]
    stale = f" ({snapshot.stale})" if snapshot.stale else ""
    if there:
        return f"no other {what} is registered than those that were excluded{stale}"
    return f"no {what} is registered{stale}"
