"""Lives one scene: the supervisor's state machine as it is, the simulated cluster, and the judge of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from trtdist.simulation.cluster import Cluster
from trtdist.simulation.facts import Fault, News, Scene, Violation
from trtdist.simulation.faults import inject
from trtdist.simulation.judge import Judge
from trtdist.supervisor import machine, messages
from trtdist.supervisor.state import OVER, State, initial

__all__ = ["Decide", "Life", "live"]

Decide = Callable[[State, messages.Input, float], "tuple[State, list[messages.Action]]"]

# What a state machine that is wrong may raise.
_RAISED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Life:
    """What became of a scene.

    `state` is that of the verdict ("" without one), `broken` the invariant that does not hold ("" when all do).
    `seconds` are of virtual time, `cost` are those that the decisions took by the clock that was given.
    """

    seed: int
    state: str
    reason: str
    broken: str
    events: int
    seconds: float
    cost: float
    was_ready: bool


def live(
    scene: Scene,
    decide: Decide = machine.advance,
    clock: Callable[[], float] = lambda: 0.0,
    note: Callable[[float, str, object], None] | None = None,
) -> Life:
    """Live a scene to its end, or to the first invariant that does not hold.

    `note` is told, with the virtual time, of everything that is heard ("<-"), said ("->") and done to the cluster
    ("!!").
    """
    life = _Living(scene, decide, clock, note)
    broken = ""
    try:
        life.through()
    except Violation as violation:
        broken = str(violation)
    except _RAISED as error:
        broken = f"the state machine raised {error!r}"
    return life.told(broken)


class _Living:
    def __init__(
        self,
        scene: Scene,
        decide: Decide,
        clock: Callable[[], float],
        note: Callable[[float, str, object], None] | None,
    ) -> None:
        self._scene = scene
        self._decide = decide
        self._clock = clock
        self._note = note
        self._cluster = Cluster(scene)
        self._judge = Judge(scene, self._cluster)
        self._state = initial(scene.plan, scene.settings)
        self._deadline: float | None = None
        self._events = 0
        self._cost = 0.0
        self._was_ready = False
        self._outcome = ("", "")

    def through(self) -> None:
        """Go through events and deadlines, whichever comes first, until it is over."""
        line = self._cluster.line
        for fault in self._scene.faults:
            line.after(fault.at, partial(self._inject, fault))
        last = messages.StopAsked(False, None, "everything has an end")
        line.after(self._scene.until, partial(self._cluster.hear, last))
        self._feed(messages.Begin(), None)
        while self._state.phase != OVER:
            if self._deadline is not None and self._deadline <= line.next():
                line.now = max(line.now, self._deadline)
                self._feed(messages.Tick(), None)
            elif line.next() == float("inf"):
                raise Violation("nothing happens any more, and it is not over")
            else:
                line.step()
            while self._cluster.inbox and self._state.phase != OVER:
                self._feed(*self._cluster.inbox.popleft())
        self._judge.over()

    def _inject(self, fault: Fault) -> None:
        if self._note is not None:
            self._note(self._cluster.line.now, "!!", fault)
        inject(self._cluster, fault)

    def _feed(self, event: messages.Input, news: News | None) -> None:
        now = self._cluster.line.now
        self._events += 1
        if self._note is not None:
            self._note(now, "<-", event)
        self._judge.heard(event, news, now)
        begun = self._clock()
        self._state, actions = self._decide(self._state, event, now)
        self._deadline = machine.next_deadline(self._state)
        self._cost += self._clock() - begun
        for action in actions:
            if self._note is not None:
                self._note(now, "->", action)
            self._judge.said(action, now)
            self._cluster.perform(action)
            if isinstance(action, messages.Conclude):
                self._outcome = (action.outcome.state, action.outcome.reason)
            elif action == messages.Announce("READY", ""):
                self._was_ready = True
        self._judge.settled(self._deadline, now)

    def told(self, broken: str) -> Life:
        """What became of it."""
        seconds = self._cluster.line.now
        return Life(self._scene.seed, *self._outcome, broken, self._events, seconds, self._cost, self._was_ready)
