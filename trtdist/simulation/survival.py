"""What a run must do about deaths that it may survive, and about servers that are asked to leave: kept apart from the
supervisor's own rules, to judge them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trtdist.plan import Step
from trtdist.simulation.facts import News, Scene, check
from trtdist.supervisor import messages

__all__ = ["Fall", "Known", "Survival", "causes_among", "only_followers"]

# Processes are looked at ten times a second, and clocks differ by a few milliseconds.
_RESOLUTION = 0.12
_CLOSE = 1e-6
_NEVER = float("inf")
_LONGEST_PAUSE = 300.0
# What is killed while the run goes on has so many times `kill_wait` to end.
_PATIENCE = 6.0
_NAMED = 4


def causes_among(news: list[News]) -> frozenset[str]:
    """Who may be called the first of these deaths."""
    if not news:
        return frozenset()
    earliest = min(each.at for each in news)
    near = [each for each in news if each.at <= earliest + _RESOLUTION]
    told = {each.fault for each in news if each.itself}
    return frozenset(each.name for each in near if each.itself or each.fault not in told)


def only_followers(told: Sequence[tuple[messages.Input | None, News]], kind: str) -> bool:
    """Whether the first of the deaths of a step of that kind is a rank's that TERM ended, and no other rank of its step
    ended by itself."""
    first, news = min(told, key=lambda each: each[1].at)
    if not isinstance(first, messages.TaskEnded) or kind != "workers" or not _by_term(first):
        return False
    ranks = [event for event, _ in told if isinstance(event, (messages.TaskEnded, messages.TaskGone))]
    same = [event for event in ranks if event.step == news.step]
    return all(isinstance(event, messages.TaskEnded) and (_by_term(event) or event.code == 0) for event in same)


def _by_term(event: messages.TaskEnded) -> bool:
    return event.signal == 15 or event.code == 143


@dataclass(eq=False)
class Fall:
    """The deaths of a step that may be survived, which settle `until` then; `again` is when it may start once more.

    `decided` says that what comes of them was told, `withdrawn` that nobody finds its servers any more, `placing` that
    other nodes are looked for. `waits` says that nothing but the services is waited for.
    """

    until: float
    told: list[tuple[messages.Input | None, News]] = field(default_factory=list)
    decided: bool = False
    again: float = _NEVER
    withdrawn: bool = False
    placing: bool = False
    waits: bool = False

    @property
    def news(self) -> list[News]:
        """What its deaths truly tell."""
        return [news for _, news in self.told]


@dataclass(eq=False)
class Known:
    """What the supervisor was told of a step, and what it said to it.

    `used` are the restarts in a row, of which `causes` may be called the first death; `back` is since when it serves
    again, `back_by` when it must. `leave_by` is set once it was asked to leave, `left` once that was told.
    """

    step: Step
    starts: int = 0
    alive: bool = False
    probed: bool = False
    healthy: bool = False
    testing: bool = False
    again: bool = False
    signalled: bool = False
    killed: float | None = None
    fall: Fall | None = None
    used: int = 0
    causes: frozenset[str] = frozenset()
    back: float | None = None
    back_by: float = _NEVER
    leave_by: float | None = None
    left: bool = False
    shown: set[str] = field(default_factory=set)

    @property
    def told(self) -> bool:
        """Whether it was told to end, or killed."""
        return self.signalled or self.killed is not None

    @property
    def coming_back(self) -> bool:
        """Whether it was started again and has not shown that it serves."""
        return self.alive and self.used > 0 and self.back is None and self.fall is None

    @property
    def serves(self) -> bool:
        """Whether it does what it is there for."""
        return self.alive and self.fall is None and not self.coming_back

    @property
    def going(self) -> bool:
        """Whether it is gone, or on its way out for good."""
        gone = self.fall is not None and self.fall.decided and self.fall.again == _NEVER
        return gone or self.leave_by is not None


class Survival:
    """Falls, restarts and departures of one life. `owed` are sentences of what the supervisor has to say at once."""

    def __init__(self, scene: Scene, known: Mapping[str, Known], rungs: dict[str, str], owed: dict[str, None]) -> None:
        self._settings = scene.settings
        self._known = known
        self._rungs = rungs
        self._owed = owed
        self._roles = {server.name: server.role for server in scene.plan.servers}
        used = 1 + max(node for step in scene.plan.steps for node in step.nodes)
        self._spares = scene.plan.allocation.nodes > used
        self._services = [each for each in known.values() if each.step.kind == "service"]
        self._step_of = {name: each.step.name for each in known.values() for name in each.step.servers}
        self._apart: dict[str, Known] = {}
        self._doubt = 0.0
        self._request = ""
        self.ready = self.ending = False
        self.condition = ("READY", "")
        self.answers = 0

    # Deaths.

    def takes(self, step: str, settling: bool) -> bool:
        """Whether a death of this step does not count for the run, or not yet."""
        known = self._known[step]
        if known.leave_by is not None or known.fall is not None:
            return not self.ending
        survivable = not settling and not self.ending
        return survivable and (known.step.restarts > 0 or (self.ready and not known.step.critical))

    def fell(self, event: messages.Input | None, news: News, now: float) -> None:
        """A death came to light that this takes; None for the event when no message told it."""
        known = self._known[news.step]
        if known.leave_by is not None:
            return
        if known.fall is not None:
            if not known.fall.decided:
                followed = only_followers(known.fall.told, known.step.kind)
                known.fall.told.append((event, news))
                if followed and not only_followers(known.fall.told, known.step.kind):
                    known.fall.until = min(known.fall.until, now + self._settings.settle)
            return
        if known.back is not None and now - known.back >= self._settings.forgive:
            known.used = 0
        service = known.step.kind == "service"
        told = [(event, news)]
        follows = only_followers(told, known.step.kind)
        settle = self._settings.peer_settle if follows else self._settings.settle
        known.fall = Fall(now + settle, told, withdrawn=service)
        known.back, known.back_by = None, _NEVER
        self._apart[news.step] = known
        self._forget(known)
        if not service:
            self._owed[f"{news.step} was not withdrawn"] = None

    def _forget(self, known: Known) -> None:
        known.shown.clear()
        for name in (known.step.name, *known.step.servers):
            self._rungs.pop(name, None)

    def pass_time(self, now: float) -> None:
        """What was started again and is not back in time has died once more."""
        for name, known in self._apart.items():
            if known.coming_back and known.leave_by is None and now >= known.back_by:
                self.fell(None, News(f"{name} did not come back", name, name, now, True), now)

    def _decision(self, fall: Fall) -> float:
        return max(fall.until, self._doubt)

    def due(self) -> float:
        """When the run must fail of a fall."""
        return min((at for at, _ in self._fatal()), default=_NEVER)

    def fatal(self, now: float) -> frozenset[str] | None:
        """Who may be called the cause of a failure that is due; None when none is."""
        found = [causes for at, causes in self._fatal() if now >= at - _CLOSE]
        return frozenset().union(*found) if found else None

    def _fatal(self) -> Iterator[tuple[float, frozenset[str]]]:
        for known in self._apart.values():
            fall = known.fall
            if fall is None:
                continue
            causes = causes_among(fall.news)
            if not fall.decided and known.used >= known.step.restarts and not self._may_go(known):
                yield self._decision(fall), known.causes if known.used else causes
            elif known.alive and known.killed is not None:
                yield known.killed + _PATIENCE * self._settings.kill_wait, causes

    def _may_go(self, known: Known) -> bool:
        """Whether the run can go on without a step."""
        others = [other for other in self._known.values() if other is not known and not other.going]
        there = {self._roles[name] for other in others for name in other.step.servers}
        needed = {self._roles[name] for name in known.step.servers}
        return self.ready and not known.step.critical and needed <= there

    # What else the supervisor hears.

    def heard(self, event: messages.Input, now: float) -> None:
        """The supervisor is about to hear an event."""
        if isinstance(event, messages.SignalCame):
            self._doubt = now + self._settings.doubt
        elif isinstance(event, messages.Withdrawn):
            self._answered(event.step, "withdrawn")
        elif isinstance(event, messages.Placed):
            self._answered(event.step, "waits")
        elif isinstance(event, messages.DrainAsked):
            self._asked_to_leave(event, now)
        elif isinstance(event, messages.StepEnded):
            self._ended(self._known[event.step])
        elif isinstance(event, (messages.Healthy, messages.TaskBegan)):
            kind = "service" if isinstance(event, messages.Healthy) else "canary"
            self._shows(event.step, event.step, kind, now)
        elif isinstance(event, messages.Reached):
            self._reached(event, now)

    def _answered(self, step: str, what: str) -> None:
        self.answers -= 1
        fall = self._known[step].fall
        if fall is not None and (what == "withdrawn" or fall.placing):
            setattr(fall, what, True)

    def _ended(self, known: Known) -> None:
        if known.leave_by is not None and not known.left and not self.ending:
            self._owed[f"it was not told that {known.step.name} has left"] = None

    def _reached(self, event: messages.Reached, now: float) -> None:
        step = self._step_of.get(event.name, event.name)
        kind = self._known[step].step.kind
        enough = ("canary",) if kind == "workers" else ("registered", "answering", "canary")
        if event.rung in enough:
            self._shows(step, event.name, kind, now)

    def _shows(self, step: str, name: str, kind: str, now: float) -> None:
        known = self._known[step]
        if not known.coming_back or known.step.kind != kind:
            return
        known.shown.add(name)
        if known.shown >= set(known.step.servers or (step,)):
            known.back, known.back_by = now, _NEVER

    def _asked_to_leave(self, event: messages.DrainAsked, now: float) -> None:
        known = self._known.get(self._step_of.get(event.server, ""))
        self._request = event.request
        if known is None or self.ending or not self._may_leave(known):
            self._owed[f"{event.server} may not leave, which was not told"] = None
            return
        grace = self._settings.grace if event.grace is None else event.grace
        if known.leave_by is None:
            self._owed[f"{known.step.name} was not asked to leave"] = None
        known.leave_by = min(_NEVER if known.leave_by is None else known.leave_by, now + grace)
        known.back_by = _NEVER
        self._apart[known.step.name] = known

    def _may_leave(self, known: Known) -> bool:
        there = known.alive and known.fall is None and len(known.step.servers) == 1
        role = self._roles[known.step.servers[0]]
        stay = [
            other
            for other in self._known.values()
            if other is not known and other.alive and other.fall is None and other.leave_by is None
        ]
        others = any(self._roles[name] == role for other in stay for name in other.step.servers)
        return self.ready and there and not known.left and others

    # What the supervisor says.

    def may_start(self, known: Known, now: float) -> bool:
        """Whether a step may be started once more."""
        fall = known.fall
        return fall is not None and (fall.waits or (self._free(known, fall, now) and not self._moves(known)))

    def _free(self, known: Known, fall: Fall, now: float) -> bool:
        """Whether nothing of a step is left, and it has waited long enough."""
        return not known.alive and fall.withdrawn and now >= max(fall.again, self._doubt) - _CLOSE

    def _moves(self, known: Known) -> bool:
        return self._spares and known.step.kind == "workers"

    def started(self, known: Known, now: float) -> None:
        """A step was started once more."""
        service = known.step.kind == "service"
        known.fall, known.killed, known.healthy = None, None, False
        known.back_by = now + (self._settings.service_timeout if service else self._settings.ready_timeout)
        self._forget(known)

    def may_kill(self, known: Known, now: float) -> bool:
        """Whether a step may be killed while the run goes on."""
        if known.fall is not None:
            return known.fall.decided
        return known.leave_by is not None and now >= known.leave_by - _CLOSE

    def said(self, action: messages.Action, now: float) -> None:
        """The supervisor says something."""
        if isinstance(action, messages.Withdraw):
            self.answers += 1
            check(
                self._owed.pop(f"{action.step} was not withdrawn", "") is None, f"{action.step} was withdrawn in vain"
            )
        elif isinstance(action, messages.Place):
            self._place(action)
        elif isinstance(action, messages.Restarting):
            self._restarting(action, now)
        elif isinstance(action, messages.WrittenOff):
            known = self._known[action.step]
            check(self._may_go(known), f"{action.step} is needed, and the run goes on without it")
            self._decide(known, now)
        elif isinstance(action, messages.Drained):
            self._has_left(self._known[action.step], now)
        elif isinstance(action, messages.Refuse):
            server = next((owed for owed in self._owed if owed.endswith("may not leave, which was not told")), "")
            check(bool(server) and action.request == self._request, f"{action.reason!r} was said without a reason")
            self._owed.pop(server)
        elif isinstance(action, (messages.Signal, messages.Kill)):
            self._owed.pop(f"{action.step} was not asked to leave", None)
            self._owed.pop(f"{action.step} was not killed", None)

    def _place(self, action: messages.Place) -> None:
        known = self._known[action.step]
        fall = known.fall
        check(fall is not None and not fall.placing, f"nodes were looked for in vain for {action.step}")
        assert fall is not None
        fall.placing = True
        self.answers += 1

    def _restarting(self, action: messages.Restarting, now: float) -> None:
        known = self._known[action.step]
        step = known.step
        check(known.used < step.restarts, f"{action.step} is started again more often than it may")
        pause = min(_LONGEST_PAUSE, step.backoff * 2 ** (known.used - 1)) if known.used else 0.0
        told = (action.attempt, action.most, action.pause)
        check(
            told == (known.used + 1, step.restarts, pause), f"{action.step} is started again otherwise than it should"
        )
        fall = self._decide(known, now)
        known.causes = known.causes if known.used else causes_among(fall.news)
        known.used += 1
        fall.again = now + pause

    def _decide(self, known: Known, now: float) -> Fall:
        name, fall = known.step.name, known.fall
        due = fall is not None and not fall.decided and now >= self._decision(fall) - _CLOSE
        check(due, f"what comes of the death of {name} was told at the wrong time")
        assert fall is not None
        fall.decided = True
        if known.alive:
            self._owed[f"{name} was not killed"] = None
        return fall

    def _has_left(self, known: Known, now: float) -> None:
        name = known.step.name
        owed = self._owed.pop(f"it was not told that {name} has left", "")
        lost = known.killed is not None and now >= known.killed + _PATIENCE * self._settings.kill_wait - _CLOSE
        check(owed is None or (lost and not known.left), f"{name} is said to have left and has not")
        known.left = True

    # After each event.

    def settled(self, now: float) -> None:
        """The supervisor has said what it had to say about an event, in a run that neither ends nor settles."""
        services = all(each.healthy and each.alive for each in self._services)
        for name, known in self._apart.items():
            if known.fall is not None:
                self._fall_settled(known, known.fall, services, now)
            if known.leave_by is not None and known.alive and not known.left:
                late = _NEVER if known.killed is None else known.killed + _PATIENCE * self._settings.kill_wait
                check(known.killed is not None or now < known.leave_by + _CLOSE, f"{name} had to leave by now")
                check(now < late + _CLOSE, f"{name} does not end, and nobody says so")
        if self.ready:
            self._condition_is_told()

    def _fall_settled(self, known: Known, fall: Fall, services: bool, now: float) -> None:
        name, service = known.step.name, known.step.kind == "service"
        check(fall.decided or now < self._decision(fall) + _CLOSE, f"nothing came of the death of {name}")
        if self._free(known, fall, now - 2 * _CLOSE):
            check(fall.placing or not self._moves(known), f"nobody looked for nodes for {name}")
            fall.waits = fall.waits or not self._moves(known)
        check(not fall.waits or not (service or services), f"{name} was not started again")

    def _condition_is_told(self) -> None:
        missing = [name for name, known in sorted(self._apart.items(), key=_number) if _missing(known)]
        state, detail = self.condition
        answers = not missing or self._answers()
        check(state == ("READY" if answers else "STARTING"), f"the run is said to be {state}, and is not")
        _, _, words = detail.partition(": ")
        named = [word.split()[0] for word in words.split(", ") if word]
        right = missing[:_NAMED] + (["and"] if len(missing) > _NAMED else [])
        check(named == right, f"{named} are said to be missing, right is {right}")

    def _answers(self) -> bool:
        """Whether the services, the router and a server of each role are there."""
        needed = [known for known in self._known.values() if known.step.kind in ("service", "router")]
        serving = [known for known in self._known.values() if known.serves and known.leave_by is None]
        there = {self._roles[name] for known in serving for name in known.step.servers}
        return all(known.serves for known in needed) and there == set(self._roles.values())


def _number(each: tuple[str, Known]) -> int:
    return each[1].step.number


def _missing(known: Known) -> bool:
    if known.step.kind == "canary":
        return False
    return known.leave_by is not None or not known.serves
