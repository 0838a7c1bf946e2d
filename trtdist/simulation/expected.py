"""How a life must end, by what the supervisor was told so far: kept apart from its own rules, to judge them.

Deaths that come to light within the settle time of the first one compete; whoever died first is the cause, and what
merely followed is none where the supervisor was told in time what it followed. Times that are closer to each other
than the supervisor can tell may be taken either way.
"""

from __future__ import annotations

from dataclasses import dataclass

from trtdist.simulation.facts import TERM, News, Scene
from trtdist.simulation.survival import Survival, causes_among, only_followers
from trtdist.supervisor import messages

__all__ = ["Ending", "Expected"]

# Processes are looked at ten times a second, and clocks differ by a few milliseconds.
_RESOLUTION = 0.12
_CLOSE = 1e-6
_FAILED = ("FAILED", 1)
_LEFT = ("STOPPED", 0)


@dataclass(frozen=True)
class Ending:
    """The verdicts (state and exit code) that are right, and who may be called the first cause: nobody if empty."""

    verdicts: frozenset[tuple[str, int]]
    causes: frozenset[str] = frozenset()


class Expected:
    """What the supervisor was told, and what it must make of it."""

    def __init__(self, scene: Scene, survival: Survival) -> None:
        self._survival = survival
        self._numbers = {step.name: step.number for step in scene.plan.steps}
        self._settings = scene.settings
        self._kinds = {step.name: step.kind for step in scene.plan.steps}
        self._news: list[tuple[messages.Input | None, News]] = []
        self._first: tuple[messages.Input | None, float] = (None, float("inf"))
        self._settled = float("inf")
        self._doubt = 0.0
        self._ready_by = float("inf")
        self._begin_by: dict[str, float] = {}
        self._healthy_by: dict[str, float] = {}
        self._first_start: dict[str, float] = {}
        self._leave_at = float("inf")
        self._handed_over = False

    # What happened.

    def began(self, now: float) -> None:
        """The supervisor was started."""
        self._ready_by = now + self._settings.ready_timeout

    def ready(self) -> None:
        """The run became ready."""
        self._ready_by = float("inf")

    def started(self, step: str, now: float, restarts: int) -> None:
        """A step was started."""
        self._begin_by[step] = now + self._settings.start_timeout
        if self._kinds[step] == "service" and not restarts:
            first = self._first_start.setdefault(step, now)
            self._healthy_by[step] = first + self._settings.service_timeout

    def began_to_run(self, step: str) -> None:
        """A task of a step runs, or the step ended."""
        self._begin_by.pop(step, None)

    def healthy(self, step: str) -> None:
        """A service is healthy, or will never be."""
        self._healthy_by.pop(step, None)

    def handed_over(self, linger: float, now: float) -> None:
        """Another run has taken over."""
        self._handed_over = True
        self._leave_at = now + linger

    def signal_came(self, now: float) -> None:
        """Whether what dies now dies of a signal to everything is told within a while."""
        self._doubt = now + self._settings.doubt
        if self._settled < float("inf"):
            self._settled = max(self._settled, self._doubt)

    def died(self, event: messages.Input | None, news: News, now: float) -> None:
        """A death came to light; None for the event when no message told it."""
        # What never was healthy and met no taken port has something wrong about it.
        final = isinstance(event, messages.PortTested)
        if not final and self._survival.takes(news.step, self.settling()):
            self._survival.fell(event, news, now)
            self.began_to_run(news.step)
            self.healthy(news.step)
            return
        followed = self._only_followers()
        self._news.append((event, news))
        if news.at < self._first[1]:
            self._first = (event, news.at)
        if self._settled == float("inf"):
            self._settled = max(now + self._settings.settle, self._doubt)
        if self._only_followers():
            self._settled = max(self._settled, now + self._settings.peer_settle)
        elif followed:
            self._settled = min(self._settled, max(now + self._settings.settle, self._doubt))

    def _only_followers(self) -> bool:
        """Whether all that is known is that ranks have lost a neighbour."""
        first = self._first[0]
        return isinstance(first, messages.TaskEnded) and only_followers(self._news, self._kinds[first.step])

    # What must come of it.

    def settling(self) -> bool:
        """Whether deaths are being collected."""
        return self._settled < float("inf")

    def due(self) -> float:
        """When a stop must have begun by itself."""
        if self.settling():
            return min(self._settled, self._survival.due())
        return min(self._survival.due(), self._ready_by, *self._healthy_by.values(), self._leave_at)

    def pass_time(self, now: float) -> None:
        """A step of which no task ever ran counts as dead from its start."""
        self._survival.pass_time(now)
        while self._begin_by and not self.settling():
            step, by = next(iter(self._begin_by.items()))
            if now < by:
                return
            started = by - self._settings.start_timeout
            all_late = [name for name, limit in self._begin_by.items() if limit <= by + _CLOSE]
            for late in sorted(all_late, key=self._numbers.__getitem__):
                if self.settling() and self._survival.takes(late, False):
                    continue
                del self._begin_by[late]
                self.died(None, News(f"{step} and others never began", late, late, started, True), now)

    def ending(self, event: messages.Input, now: float) -> Ending | None:
        """How a stop that begins now ends; None when nothing calls for one."""
        if isinstance(event, messages.EveryoneTerminated):
            return self._by_slurm(event)
        if isinstance(event, (messages.Broke, messages.Unresolved)):
            return Ending(frozenset({_FAILED}), self.causes())
        if isinstance(event, (messages.StopAsked, messages.TimeLimit)):
            if self._news:
                return Ending(frozenset({_FAILED}), self.causes())
            followed = self._handed_over and isinstance(event, messages.TimeLimit)
            return Ending(frozenset({_LEFT if followed else _asked(event)}))
        fatal = self._survival.fatal(now)
        if fatal is not None:
            return Ending(frozenset({_FAILED}), fatal | self.causes())
        if self.settling():
            return Ending(frozenset({_FAILED}), self.causes()) if now >= self._settled - _CLOSE else None
        late = frozenset(name for name, limit in self._healthy_by.items() if now >= limit - _CLOSE)
        if late or now >= self._ready_by - _CLOSE:
            return Ending(frozenset({("TIMEOUT", 3)}), late)
        return Ending(frozenset({_LEFT})) if now >= self._leave_at - _CLOSE else None

    def causes(self) -> frozenset[str]:
        """Who may be called the first cause by now."""
        return causes_among([news for _, news in self._news])

    def _by_slurm(self, event: messages.EveryoneTerminated) -> Ending:
        """What died of Slurm's own TERM is no cause, and what died as if of it need not be taken for one."""
        told = (event.state, event.exit_code)
        real = [news for _, news in self._news if news.fault != TERM]
        if event.certain or not real:
            return Ending(frozenset({told}))
        first, how = min(((news, how) for how, news in self._news), key=lambda each: each[0].at)
        alone = all(news.at > first.at + _RESOLUTION for _, news in self._news if news is not first)
        plain = isinstance(how, messages.TaskEnded) and self._kinds[first.step] == "workers"
        if plain and isinstance(how, messages.TaskEnded):
            plain = how.signal != 15 and how.code not in (0, 143)
        verdicts = {_FAILED} if plain and alone and first.itself else {_FAILED, told}
        return Ending(frozenset(verdicts), causes_among(real))


def _asked(event: messages.StopAsked | messages.TimeLimit) -> tuple[str, int]:
    if isinstance(event, messages.TimeLimit):
        return ("TIMEOUT", 1)
    return ("INTERRUPTED", 130) if event.interrupt else ("STOPPED", 0)
