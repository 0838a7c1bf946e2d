"""Holds every step of a life against the invariants: what the supervisor may say, must say, and by when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trtdist.events import RUNGS
from trtdist.simulation.certificates import Watched, is_news
from trtdist.simulation.cluster import Cluster
from trtdist.simulation.expected import Ending, Expected
from trtdist.simulation.facts import News, Scene, Violation, check
from trtdist.simulation.survival import Known, Survival
from trtdist.supervisor import handover_messages as handover
from trtdist.supervisor import messages, renewal_messages
from trtdist.supervisor.facts import Outcome

__all__ = ["Judge"]

_CLOSE = 1e-6
# The sweep has its own patience.
_SWEEP = 2.5
_SERVICES_TIER = 2
# What was killed while the run went on has longer to end.
_PATIENCE = 6
_ENDING = (
    messages.StopAsked, messages.TimeLimit, messages.EveryoneTerminated, messages.Broke, messages.Unresolved,
)  # fmt: skip


@dataclass(eq=False)
class _Heir:
    """What the supervisor knows of the run that is to take over: since when it is due, how many were asked for, and
    until when this one may stay once it has taken over."""

    due: float = float("inf")
    attempts: int = 0
    awaited: bool = False
    stay: float = 0.0


class Judge:
    """One life, as seen from outside; raises Violation."""

    def __init__(self, scene: Scene, cluster: Cluster) -> None:
        self._settings = scene.settings
        self._cluster = cluster
        self._known = {step.name: Known(step) for step in scene.plan.steps}
        self._rungs: dict[str, str] = {}
        self._owed: dict[str, None] = {}
        self._survival = Survival(scene, self._known, self._rungs, self._owed)
        self._expected = Expected(scene, self._survival)
        self._stays = scene.plan.canary_stays
        self._services = [known for known in self._known.values() if known.step.kind == "service"]
        self._programs = [known for known in self._known.values() if known.step.kind != "service"]
        self._servers = [server.name for server in scene.plan.servers]
        self._alive = dict.fromkeys(sorted({step.tier for step in scene.plan.steps}), 0)
        self._untold = dict(self._alive)
        self._event: messages.Input = messages.Tick()
        self._fatal = False
        self._answers = 0
        self._ready = False
        self._over_by = float("inf")
        self._ending: Ending | None = None
        self._outcome: Outcome | None = None
        self._swept: tuple[str, ...] | None = None
        self._sweeps = self._finished = 0
        self._heir = _Heir()
        self._certificates = Watched(self._known)

    # What the supervisor hears.

    def heard(self, event: messages.Input, news: News | None, now: float) -> None:
        """The supervisor is about to hear an event."""
        self._event = event
        self._expected.pass_time(now)
        if isinstance(event, _ENDING) and self._ending is None:
            self._owed["no stop was begun"] = None
        self._fatal = news is not None
        hear = _HEARD.get(type(event))
        if hear is not None:
            hear(self, event, now)
        self._survival.heard(event, now)
        self._certificates.heard(event, now)
        if news is not None and self._counts(event):
            self._expected.died(event, news, now)

    def _counts(self, event: messages.Input) -> bool:
        """Whether an end is a death already: that of a service that never was healthy waits for the test of its port,
        and the canary may be done."""
        step = getattr(event, "step", "")
        known = self._known[step]
        if isinstance(event, (messages.PortTested, messages.StartFailed)):
            return True
        if known.step.kind == "service" and not known.healthy:
            return known.fall is not None or known.used > 0
        if known.step.kind == "canary" and getattr(event, "code", None) == 0:
            return isinstance(event, messages.StepEnded) and (self._stays or not self._ready)
        return True

    def _began(self, event: messages.Begin, now: float) -> None:
        self._expected.began(now)
        self._owed["addresses were not looked for"] = None

    def _resolved(self, event: messages.Resolved, now: float) -> None:
        self._answers -= 1
        known = self._known.get(event.service)
        if known is None:
            self._owe_starts(self._services or self._programs)
        elif known.again:
            self._owe_starts([known])

    def _owe_starts(self, steps: list[Known]) -> None:
        if self._ending is None and not self._expected.settling():
            self._owed.update((f"{known.step.name} was not started", None) for known in steps)

    def _unresolved(self, event: messages.Unresolved, now: float) -> None:
        self._answers -= 1

    def _port_tested(self, event: messages.PortTested, now: float) -> None:
        self._answers -= 1
        known = self._known[event.step]
        known.again = not self._fatal
        if known.again and self._ending is None:
            self._owed["addresses were not looked for"] = None

    def _start_failed(self, event: messages.StartFailed, now: float) -> None:
        self._dead(self._known[event.step])

    def _step_ended(self, event: messages.StepEnded, now: float) -> None:
        known = self._known[event.step]
        self._dead(known)
        again = known.fall is not None or known.used > 0
        known.testing = known.step.kind == "service" and not known.healthy and self._ending is None and not again
        if known.testing:
            self._owed[f"the port of {event.step} was not tested"] = None

    def _dead(self, known: Known) -> None:
        self._alive[known.step.tier] -= known.alive
        self._untold[known.step.tier] -= known.alive and not known.told
        known.alive = False
        self._expected.began_to_run(known.step.name)
        if known.healthy:
            self._expected.healthy(known.step.name)

    def _task_began(self, event: messages.TaskBegan, now: float) -> None:
        known = self._known[event.step]
        self._expected.began_to_run(event.step)
        if known.signalled:
            self._owed[f"{event.task} came up in a stop and was not told"] = None

    def _healthy(self, event: messages.Healthy, now: float) -> None:
        self._known[event.step].healthy = self._known[event.step].alive
        self._expected.healthy(event.step)
        if all(known.healthy and known.alive for known in self._services):
            self._owe_starts([known for known in self._programs if not known.starts and known.fall is None])

    def _reached(self, event: messages.Reached, now: float) -> None:
        if RUNGS.index(event.rung) >= RUNGS.index(self._rungs.get(event.name, RUNGS[0])):
            self._rungs[event.name] = event.rung

    def _came_ready(self, event: messages.CameReady, now: float) -> None:
        if self._ending is None and not self._expected.settling():
            self._owed["READY was not said"] = None

    def _signal_came(self, event: messages.SignalCame, now: float) -> None:
        self._expected.signal_came(now)

    def _stop_asked(self, event: messages.StopAsked, now: float) -> None:
        if event.grace is not None and self._ending is not None:
            self._must_be_over(now, event.grace)

    def _time_limit(self, event: messages.TimeLimit, now: float) -> None:
        if self._ending is not None:
            self._must_be_over(now, self._settings.grace)

    def _hand_over_due(self, event: handover.HandOverDue, now: float) -> None:
        if not self._heir.attempts:
            self._heir.due = min(self._heir.due, now)

    def _successor_ready(self, event: handover.SuccessorReady, now: float) -> None:
        self._heir.awaited = False
        self._heir.stay = now + event.patience
        self._owed["clients were not told who has taken over"] = None
        if self._ending is None:
            self._expected.handed_over(min(self._settings.linger, event.patience / 2), now)

    def _successor_lost(self, event: handover.SuccessorLost, now: float) -> None:
        self._heir.awaited = False
        if self._heir.attempts < self._settings.successors:
            self._heir.due = now + self._settings.successor_pause

    def _heard_swept(self, event: messages.Swept, now: float) -> None:
        self._answers -= 1
        self._swept = event.left

    # What the supervisor says.

    def said(self, action: messages.Action, now: float) -> None:
        """The supervisor says something."""
        check(not self._finished, "something was said after the end")
        say = _SAID.get(type(action))
        if say is not None:
            say(self, action, now)
        self._survival.said(action, now)
        self._certificates.said(action, now)

    def _nothing_more(self) -> None:
        check(self._ending is None, "something was begun during a stop")
        check(not self._expected.settling(), "something was started after a death")

    def _resolve(self, action: messages.Resolve, now: float) -> None:
        check(self._ending is None, "something was begun during a stop")
        self._owed.pop("addresses were not looked for", None)
        self._answers += 1

    def _start(self, action: messages.Start, now: float) -> None:
        self._nothing_more()
        known = self._known[action.step]
        check(not known.alive, f"{action.step} was started while it runs")
        service = known.step.kind == "service"
        again = known.fall is not None
        check(service or again or known.starts == 0, f"{action.step} was started again")
        check(not again or self._survival.may_start(known, now), f"{action.step} was started again too early")
        check(again or known.starts < self._settings.port_attempts, f"{action.step} was started too often")
        check(service or all(each.healthy for each in self._services), f"{action.step} was started before services")
        known.starts += 1
        if again:
            self._survival.started(known, now)
        known.alive, known.probed, known.testing = True, False, False
        self._alive[known.step.tier] += 1
        self._untold[known.step.tier] += 1
        self._expected.started(action.step, now, known.used)
        self._owed.pop(f"{action.step} was not started", None)
        if service:
            self._owed[f"{action.step} was not probed"] = None

    def _probe(self, action: messages.Probe, now: float) -> None:
        known = self._known[action.step]
        check(known.alive and not known.probed, f"{action.step} was probed and is not there")
        known.probed = True
        self._owed.pop(f"{action.step} was not probed", None)

    def _test_port(self, action: messages.TestPort, now: float) -> None:
        check(self._known[action.step].testing, f"the port of {action.step} was tested without a reason")
        self._owed.pop(f"the port of {action.step} was not tested", None)
        self._answers += 1

    def _renew(self, action: renewal_messages.Renew, now: float) -> None:
        check(self._ending is None, "something was begun during a stop")

    def _signal(self, action: messages.Signal, now: float) -> None:
        if is_news(action):
            return
        known = self._known[action.step]
        if self._ending is not None or known.leave_by is None:
            self._due_to_stop(action.step, now)
        check(known.alive, f"{action.step} was signalled and is not there")
        check(not known.signalled, f"{action.step} was signalled twice")
        self._untold[known.step.tier] -= not known.told
        known.signalled = True

    def _signal_task(self, action: messages.SignalTask, now: float) -> None:
        event = self._event
        fits = isinstance(event, messages.TaskBegan) and (event.step, event.task) == (action.step, action.task)
        check(fits, f"{action.task} was signalled and did not just come up")
        self._owed.pop(f"{action.task} came up in a stop and was not told", None)

    def _kill(self, action: messages.Kill, now: float) -> None:
        known = self._known[action.step]
        if self._ending is not None or not self._survival.may_kill(known, now):
            self._due_to_stop(action.step, now)
        check(known.alive, f"{action.step} was killed and is not there")
        check(known.killed is None, f"{action.step} was killed twice")
        self._untold[known.step.tier] -= not known.told
        known.killed = now

    def _drained(self, action: messages.Drained, now: float) -> None:
        """It is gone, or nobody waits for it any more."""
        self._dead(self._known[action.step])

    def _due_to_stop(self, step: str, now: float) -> Known:
        known = self._known[step]
        check(self._ending is not None, f"{step} was to stop although nothing ends")
        for tier, alive in self._alive.items():
            if tier < known.step.tier and alive:
                check(not self._standing(tier, now), f"{step} was to stop before a lower tier had ended")
        return known

    def _standing(self, tier: int, now: float) -> list[str]:
        """The steps of a tier that are believed to run and have not been given up."""
        waited = now - self._settings.kill_wait + _CLOSE
        return [
            name
            for name, known in self._known.items()
            if known.step.tier == tier and known.alive and (known.killed is None or known.killed > waited)
        ]

    def _find_killed(self, action: messages.FindKilled, now: float) -> None:
        check(self._ending is None, f"who was killed in {action.step} was asked during a stop")

    def _succeed(self, action: handover.Succeed, now: float) -> None:
        self._nothing_more()
        check(self._ready and not self._heir.awaited, "a run to take over was asked for at the wrong time")
        check(now >= self._heir.due - _CLOSE, "a run to take over was asked for too early")
        self._heir = _Heir(attempts=self._heir.attempts + 1, awaited=True)
        check(self._heir.attempts <= self._settings.successors, "runs to take over are asked for without an end")

    def _hand_over(self, action: handover.HandOver, now: float) -> None:
        check(isinstance(self._event, handover.SuccessorReady), "clients were sent to a run that has not taken over")
        self._owed.pop("clients were not told who has taken over", None)

    def _call_off(self, action: handover.CallOff, now: float) -> None:
        check(self._ending is not None and self._heir.awaited, "a run to take over was called off without a reason")
        self._heir.awaited = False
        self._owed.pop("the run that was to take over is left", None)

    def _announce(self, action: messages.Announce, now: float) -> None:
        if self._ready and self._ending is None and action.state in ("STARTING", "READY"):
            self._survival.condition = (action.state, action.detail)
        elif action.state == "STARTING":
            check(isinstance(self._event, messages.Begin), "STARTING was said late")
        elif action.state == "READY":
            self._announce_ready()
        elif self._ending is None:
            self._stop_begins(action.state, now)

    def _announce_ready(self) -> None:
        check(not self._ready and self._ending is None, "READY was said at the wrong time")
        check(self._cluster.passed, "READY was said before the canary had passed")
        healthy = all(known.healthy or known.fall is not None or known.used for known in self._services)
        check(healthy, "READY was said before all services are healthy")
        check(all(known.starts for known in self._known.values()), "READY was said before everything was started")
        check(not self._expected.settling(), "READY was said after a death")
        self._ready = self._survival.ready = True
        self._owed.pop("READY was not said", None)
        self._expected.ready()

    def _stop_begins(self, state: str, now: float) -> None:
        self._ending = self._expected.ending(self._event, now)
        check(self._ending is not None, f"{state} was said although nothing calls for it")
        assert self._ending is not None
        self._owed.pop("no stop was begun", None)
        self._survival.ending = True
        states = {state for state, _ in self._ending.verdicts}
        shown = {"STOPPING" if each in ("STOPPED", "INTERRUPTED") else each for each in states}
        check(state in shown, f"{state} was said where {' or '.join(sorted(shown))} is right")
        event = self._event
        lasting = isinstance(event, messages.EveryoneTerminated) and event.certain
        if self._heir.awaited and state == "STOPPING" and not lasting:
            self._owed["the run that was to take over is left"] = None
        given = event.grace if isinstance(event, messages.StopAsked) else None
        allowed = max(self._settings.grace, self._settings.failure_grace, self._heir.stay - now)
        self._must_be_over(now, allowed if given is None else given)

    def _must_be_over(self, now: float, grace: float) -> None:
        """The tiers have the grace together, and each what KILL needs; another wish only shortens it."""
        waits = len(self._alive)
        if any(known.alive and known.killed is not None for known in self._known.values()):
            waits += _PATIENCE
        self._over_by = min(self._over_by, now + grace + self._settings.kill_wait * waits + _SWEEP)

    def _conclude(self, action: messages.Conclude, now: float) -> None:
        outcome = action.outcome
        check(self._outcome is None, "there are two verdicts")
        self._outcome = outcome
        ending = self._ending or self._expected.ending(self._event, now)
        check(ending is not None, "there is a verdict although nothing ends")
        assert ending is not None
        told = (outcome.state, outcome.exit_code)
        right = " or ".join(f"{state} with {code}" for state, code in sorted(ending.verdicts))
        check(told in ending.verdicts, f"the verdict is {told[0]} with {told[1]}, right is {right}")
        named = "" if outcome.first is None else outcome.first.name
        if outcome.exit_code == 3 and not ending.causes:
            self._tells_how_far(outcome.reason)
            server = named.rpartition(".")[0]
            check(not named or self._rungs.get(server) != "canary", f"{named} is named, whose server is up")
        elif outcome.state == "FAILED" or named:
            check(named in (ending.causes or {""}), f"{named!r} is named, right is {sorted(ending.causes)}")

    def _tells_how_far(self, reason: str) -> None:
        behind = next((name for name in self._servers if self._rungs.get(name) != "canary"), "")
        far = f"{behind} got as far as '{self._rungs[behind]}'" if behind in self._rungs else f"{behind} never came up"
        check(not behind or far in reason, f"the reason does not say that {far}")

    def _sweep(self, action: messages.Sweep, now: float) -> None:
        self._sweeps += 1
        check(self._sweeps == 1, "there are two sweeps")
        standing = [name for tier in self._alive for name in self._standing(tier, now)]
        check(not standing, f"the sweep came before {', '.join(standing[:3])} had ended or been killed")
        self._answers += 1

    def _finish(self, action: messages.Finish, now: float) -> None:
        self._finished += 1
        check(self._swept is not None, "the end came before the sweep")
        check(self._outcome is not None, "the end came without a verdict")
        assert self._outcome is not None
        check(action.exit_code == self._outcome.exit_code, "the exit code is not that of the verdict")

    # After each event, and at the end.

    def settled(self, deadline: float | None, now: float) -> None:
        """The supervisor has said what it had to say about an event; `deadline` is when it wants to look again."""
        for sentence in self._owed:
            raise Violation(sentence)
        self._expected.pass_time(now)
        if self._finished:
            return
        if self._ending is None:
            check(self._expected.due() >= now - _CLOSE, "a stop is late")
            if not self._expected.settling():
                self._survival.settled(now)
                self._certificates.settled(now)
            wanted = self._ready and not self._expected.settling() and not self._heir.awaited
            check(not wanted or self._heir.due > now, "no run was asked for that takes over")
        else:
            check(now <= self._over_by, "a stop takes longer than it may")
            self._lowest_tier_is_told()
        check(not self._cluster.overdue(), "Slurm's KILL came before the end")
        waits = (
            self._answers
            or self._survival.answers
            or (self._ready and not self._expected.settling() and self._ending is None)
        )
        check(bool(waits) or deadline is not None, "there is a wait without a deadline")
        ticked = isinstance(self._event, messages.Tick) and deadline is not None
        check(not ticked or (deadline or 0.0) > now, "a deadline does not pass")

    def _lowest_tier_is_told(self) -> None:
        """TERM of Slurm's reaches all but the services."""
        by_slurm = self._cluster.ended_by_slurm < float("inf")
        tier = next((tier for tier, alive in self._alive.items() if alive), None)
        if tier is not None and not (by_slurm and tier != _SERVICES_TIER):
            check(not self._untold[tier], "a step was not told to stop when its tier's turn came")

    def over(self) -> None:
        """The supervisor is gone."""
        check(self._finished == 1, "there is no end")
        left = [task.name for task in self._cluster.tasks.values() if task.alive]
        unnamed = sorted(set(left) - set(self._swept or ()))
        check(not unnamed, f"{', '.join(unnamed)} is left and nobody says so")


_HEARD: dict[type, Callable[[Judge, Any, float], None]] = {
    messages.Begin: Judge._began,
    messages.Resolved: Judge._resolved,
    messages.Unresolved: Judge._unresolved,
    messages.PortTested: Judge._port_tested,
    messages.Swept: Judge._heard_swept,
    messages.StartFailed: Judge._start_failed,
    messages.StepEnded: Judge._step_ended,
    messages.TaskBegan: Judge._task_began,
    messages.Healthy: Judge._healthy,
    messages.Reached: Judge._reached,
    messages.CameReady: Judge._came_ready,
    messages.SignalCame: Judge._signal_came,
    messages.StopAsked: Judge._stop_asked,
    messages.TimeLimit: Judge._time_limit,
    handover.HandOverDue: Judge._hand_over_due,
    handover.SuccessorReady: Judge._successor_ready,
    handover.SuccessorLost: Judge._successor_lost,
}

_SAID: dict[type, Callable[[Judge, Any, float], None]] = {
    messages.Resolve: Judge._resolve,
    messages.Start: Judge._start,
    messages.Probe: Judge._probe,
    messages.TestPort: Judge._test_port,
    messages.FindKilled: Judge._find_killed,
    messages.Signal: Judge._signal,
    messages.SignalTask: Judge._signal_task,
    messages.Kill: Judge._kill,
    messages.Drained: Judge._drained,
    messages.Announce: Judge._announce,
    messages.Sweep: Judge._sweep,
    messages.Conclude: Judge._conclude,
    messages.Finish: Judge._finish,
    handover.Succeed: Judge._succeed,
    handover.HandOver: Judge._hand_over,
    handover.CallOff: Judge._call_off,
    renewal_messages.Renew: Judge._renew,
}
