"""Routing without I/O: from a request and the instances that are there to who serves it."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.serving.discovery import Change, Instance, Snapshot
from trtdist.serving.loads import LoadBook
from trtdist.serving.policies import Policy, View
from trtdist.serving.protocol import Failure, Notice, Route, RouteCall
from trtdist.serving.slug import component_of_role

__all__ = ["Desk"]


class Desk:
    """Decides who serves; `roles` are those of the deployment, `notify` takes the workers' notices."""

    def __init__(self, roles: Sequence[str], policy: Policy, notify: str) -> None:
        self._roles = tuple(roles)
        self._policy = policy
        self._notify = notify
        self._turns = dict.fromkeys(roles, 0)
        self._book = LoadBook()

    def decide(self, call: RouteCall, snapshot: Snapshot, now: float) -> Route | Failure:
        """One server for each role, or what is missing; a pinned server is not replaced by another."""
        pins = {"context": call.context, "generation": call.generation, "monolithic": call.generation}
        found: dict[str, Instance] = {}
        if call.context and "context" not in self._roles:
            reason = f"there is no context server {call.context}: this deployment has none"
            return Failure("unavailable", reason, call.attempt)
        for role in self._roles:
            candidates = _candidates(role, pins[role], call.exclude, snapshot)
            if not candidates:
                return Failure("unavailable", _missing(role, pins[role], call, snapshot), call.attempt)
            found[role] = self._choose(role, candidates, now)
        for instance in found.values():
            self._book.chosen(instance.lease_hex, call.request_id, call.attempt, now)
        generation = found.get("generation") or found["monolithic"]
        return Route(call.request_id, call.attempt, found.get("context"), generation, self._notify)

    def note(self, notice: Notice, now: float) -> None:
        """Take down what a worker tells."""
        self._book.note(notice, now)

    def changed(self, change: Change) -> None:
        """Forget what servers did that are gone."""
        if change.vanished:
            self._book.keep({one.lease_hex for one in change.snapshot.instances})

    def _choose(self, role: str, candidates: Sequence[Instance], now: float) -> Instance:
        if len(candidates) == 1:
            return candidates[0]
        view = View(self._turns[role], self._book.loads(now))
        self._turns[role] += 1
        return self._policy(candidates, view)


def _candidates(role: str, pin: str, exclude: Sequence[str], snapshot: Snapshot) -> tuple[Instance, ...]:
    there = snapshot.of(component_of_role(role))
    return tuple(one for one in there if one.lease_hex not in exclude and pin in ("", one.server))


def _missing(role: str, pin: str, call: RouteCall, snapshot: Snapshot) -> str:
    what = f"{role} server {pin}" if pin else f"{role} server"
    there = [one for one in snapshot.of(component_of_role(role)) if pin in ("", one.server)]
    stale = f" ({snapshot.stale})" if snapshot.stale else ""
    if there:
        return f"no other {what} is registered than those that were excluded{stale}"
    return f"no {what} is registered{stale}"
