"""The certificates of a run are renewed long before they are over, and NATS, which reads them when it starts, is told.
Pure. Standard library, Python 3.9.

etcd reads its own for each connection, and so do clients. Connections that are there stay.
"""

from __future__ import annotations

import signal
from dataclasses import replace

from trtdist.supervisor.messages import Action, Signal
from trtdist.supervisor.renewal_messages import LookedAt, Renew
from trtdist.supervisor.state import HEALTHY, READY, STARTING, Renewing, State

__all__ = ["RULES", "begun", "deadlines", "looked"]

Change = tuple[State, list[Action]]

_READS_ONCE = "nats"


def begun(state: State, now: float) -> State:
    """They are to be looked at from now on."""
    return replace(state, renewing=Renewing(look_at=now))


def looked(state: State, event: LookedAt, now: float) -> Change:
    """They are good for a while."""
    stale = state.renewing.stale or event.renewed
    return replace(state, renewing=Renewing(now + event.again_in, stale)), []


def deadlines(state: State) -> list[float | None]:
    """When they must be looked at, unless the run ends."""
    return [state.renewing.look_at if state.phase in (STARTING, READY) else None]


def _look(state: State, now: float) -> Change | None:
    look_at = state.renewing.look_at
    if state.phase not in (STARTING, READY) or look_at is None or now < look_at:
        return None
    return replace(state, renewing=replace(state.renewing, look_at=None)), [Renew()]


def _tell(state: State, now: float) -> Change | None:
    """A server that is not healthy yet may not know the signal, which would end it; one that comes back has read them
    anew and is told once too often."""
    step = state.steps.get(_READS_ONCE)
    if state.phase not in (STARTING, READY) or not state.renewing.stale or step is None or step.phase != HEALTHY:
        return None
    state = replace(state, renewing=replace(state.renewing, stale=False))
    return state, [Signal(_READS_ONCE, int(signal.SIGHUP))]


RULES = (_look, _tell)
