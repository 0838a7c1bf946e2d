"""The certificates of a simulated run: how long they last, and whether the supervisor looks after them."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from random import Random

from trtdist.simulation.facts import check
from trtdist.simulation.survival import Known
from trtdist.supervisor import messages
from trtdist.supervisor.renewal_messages import LookedAt, Renew

__all__ = ["Certificates", "Watched", "is_news"]

_CLOSE = 1e-6


def is_news(action: messages.Signal) -> bool:
    """Whether a signal tells NATS to read its certificates again, and ends nothing."""
    return action.number == signal.SIGHUP


class Certificates:
    """Renewed now and then, in a while, each time for another while."""

    def __init__(self, seed: int) -> None:
        self._random = Random(2 * seed)

    def answer(self) -> tuple[float, LookedAt]:
        """What comes of a look at them, and after how many seconds."""
        found = LookedAt(self._random.uniform(1.0, 120.0), self._random.random() < 0.5)
        return self._random.uniform(0.0, 1.0), found


class Watched:
    """What the supervisor owes the certificates; `known` are the steps of the life."""

    def __init__(self, known: Mapping[str, Known]) -> None:
        self._nats = known.get("nats")
        self._due = float("inf")
        self._stale = False

    def heard(self, event: messages.Input, now: float) -> None:
        """The supervisor is about to hear an event."""
        if isinstance(event, messages.Resolved) and not event.service:
            self._due = now
        elif isinstance(event, LookedAt):
            self._due = now + event.again_in
            self._stale = self._stale or event.renewed

    def said(self, action: messages.Action, now: float) -> None:
        """The supervisor says something."""
        if isinstance(action, Renew):
            check(now >= self._due - _CLOSE, "the certificates were looked at too early")
            self._due = float("inf")
        elif isinstance(action, messages.Signal) and is_news(action):
            check(self._stale and self._served(), f"{action.step} was told of certificates at the wrong time")
            self._stale = False

    def settled(self, now: float) -> None:
        """The supervisor has said what it had to say, in a run that goes on."""
        check(self._due > now, "the certificates were not looked at")
        check(not (self._stale and self._served()), "NATS was not told that its certificates are renewed")

    def _served(self) -> bool:
        return self._nats is not None and self._nats.alive and self._nats.healthy
