"""A supervisor inside a job of Slurm's: what TERM means there, when the time is up, how other nodes are cleaned.

Standard library, Python 3.9.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace

from trtdist.errors import TrtdistError
from trtdist.events import Event, HandOverPlanned
from trtdist.plan import Step, from_json
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env_or_nothing, write_env
from trtdist.slurm import argv, hostlist, parse, states
from trtdist.slurm.runner import ask
from trtdist.supervisor import messages, resumption
from trtdist.supervisor.handover_messages import HandOverDue, SuccessorReady
from trtdist.supervisor.job_nodes import look_again, told
from trtdist.supervisor.remains import local_folder
from trtdist.supervisor.spare_nodes import moved, placed
from trtdist.supervisor.succession import Succession

__all__ = ["InJob", "why_ended"]

# The verdict of a job that was ended is due within a second.
_HURRY = 0.7
# What an end that nobody explained meant for the next job may be asked for longer.
_EXPLAINING, _AGAIN = 10.0, 0.5
_LOOK_EVERY = 30.0
_CLEANING = 10.0
# The folder above goes with the last run of this user.
_REMOVE = 'rm -rf -- "$1" && { rmdir -- "${1%/*}" 2>/dev/null || :; }'


class InJob:
    """The job `job`; `warning` is how many seconds before its time limit the run is stopped, `lead` the same for when
    another one is asked for that takes over, 0 for never. `say` takes sentences, `tell` events."""

    def __init__(
        self,
        run: RunDir,
        job: str,
        warning: float,
        say: Callable[[str], None],
        lead: float = 0.0,
        tell: Callable[[Event], object] = lambda event: None,
    ) -> None:
        self._run = run
        self._job = job
        self._warning = warning
        self._lead = lead
        self._end = float("inf")
        self._say = say
        self._tell = tell
        self._told_due = 0.0
        self._unexplained = False
        self._succession = Succession(run, say)

    async def meaning(self, name: str) -> messages.Input:
        """TERM means the end of the job, unless the job still runs: then it was for the supervisor alone."""
        if name == "SIGUSR1":
            return messages.TimeLimit(f"job {self._job} is near its time limit")
        if name == "SIGINT":
            return messages.StopAsked(True, None, f"interrupted ({name})")
        # Both questions together: deaths are held for no longer than `Settings.doubt`.
        until = time.monotonic() + _HURRY
        try:
            shown = parse.fields(await ask(argv.scontrol_show("job", self._job), _HURRY))
            if states.phase(shown.get("JobState", "")) == states.LIVE and not _preempted(shown):
                return messages.StopAsked(True, None, f"interrupted ({name})")
            down = await self._nodes_down(shown, until - time.monotonic())
        except TrtdistError as error:
            self._say(str(error))
            self._unexplained = True
            return messages.EveryoneTerminated(f"job {self._job} was ended, and Slurm did not say why in time")
        return why_ended(self._job, shown, down, resumption.attempt(os.environ))

    async def _nodes_down(self, shown: Mapping[str, str], seconds: float) -> list[str]:
        """The nodes of the job that Slurm knows to be down, each with why, as far as it says so in time."""
        try:
            names = hostlist.expand(self._nodes_of_run() or shown.get("NodeList", ""))
        except hostlist.HostListError:
            return []
        # A node that does not answer for a moment is not why a job was ended.
        down = await _down_of(names, seconds)
        return [f"{node} ({why})" if why else node for node, why in down.items()]

    def _nodes_of_run(self) -> str:
        """The nodes as resolved, since Slurm takes those that are done off the list of a job that ends."""
        return ",".join(_resolved(self._run, "TRTDIST_NODES").split())

    async def news(self) -> AsyncIterator[messages.Input]:
        """That the time limit is near; it is looked up again and again, since it can be changed."""
        while True:
            pause = _LOOK_EVERY
            try:
                found = parse.jobs(await ask(argv.squeue_jobs((self._job,))))
            except TrtdistError as error:
                self._say(str(error))
                found = []
            end = found[0].end if found else None
            if end is not None:
                self._end = end
                left = end - self._warning - time.time()
                if left <= 0:
                    yield messages.TimeLimit(f"job {self._job} reaches its time limit in {end - time.time():.0f} s")
                    return
                early = end - self._lead - time.time() if self._lead else float("inf")
                if early <= 0:
                    yield HandOverDue()
                elif self._lead:
                    self._plan(end - self._lead)
                pause = min(pause, left, early if early > 0 else left)
            await asyncio.sleep(pause)

    def _plan(self, due: float) -> None:
        """Tell when the next run is asked for, whenever that changes."""
        if due != self._told_due:
            self._told_due = due
            self._tell(HandOverPlanned(due))

    async def succeed(self) -> AsyncIterator[messages.Input]:
        """Have Slurm start another job of the same files, and follow it."""
        async for event in self._succession.begin():
            if isinstance(event, SuccessorReady):
                event = replace(event, patience=max(0.0, self._end - self._warning - time.time()))
            yield event

    async def call_off(self) -> None:
        """Take it from the queue, or have it stopped; not when Slurm says after all that nobody wanted this end, or
        nothing at all."""
        if self._unexplained:
            why = await self._explained()
            if why is None or why.certain:
                said = "Slurm does not say why this job was ended" if why is None else why.reason
                self._say(f"{said}: the run that is to take over is left to come up")
                return
        await self._succession.call_off()

    async def settled(self) -> None:
        """Return when nothing is being submitted."""
        await self._succession.settled()

    async def _explained(self) -> messages.EveryoneTerminated | None:
        """Why Slurm ends the job, asked again and again for as long as there may be before it kills this process."""
        until = time.monotonic() + _EXPLAINING
        while time.monotonic() < until:
            try:
                shown = parse.fields(await ask(argv.scontrol_show("job", self._job), until - time.monotonic()))
                return why_ended(self._job, shown, await self._nodes_down(shown, _HURRY))
            except TrtdistError:
                await asyncio.sleep(_AGAIN)
        return None

    async def place(self, step: Step) -> str:
        """Ask Slurm which nodes of the step are down or lost, and have spares take their numbers in resolved.env."""
        names = _resolved(self._run, "TRTDIST_NODES").split()
        listed, lost = await asyncio.gather(_states_of(names, _HURRY), self._lost(names))
        # A node that was down for a moment is none of the job any more, though it be up again.
        away = [node for node, state in listed if states.node_is_away(state)]
        down = list(dict.fromkeys([*away, *lost]))
        after, changed = await self._moved(step, down)
        if not changed:
            places = dict(enumerate(after.get("TRTDIST_NODES", "").split()))
            stays = ", ".join(places[number] for number in step.nodes if places.get(number) in down)
            return f"{step.name} stays where {stays} is down: there is no spare node that can be used" if stays else ""
        try:
            write_env(self._run.resolved_env, after)
        except OSError as error:
            return f"cannot write {self._run.resolved_env}: {error.strerror}"
        why = await _down_of([old for old, _ in changed], _HURRY)
        state = dict(listed)
        return "; ".join(
            f"{step.name} moves from {old}, which {self._gone(old, why.get(old), state.get(old, ''))}, to {new}"
            for old, new in changed
        )

    def _gone(self, node: str, why: str | None, state: str) -> str:
        """The end of the sentence "from node1, which ..."; `why` is None where Slurm did not say in time that the node
        is down."""
        if why is not None:
            return f"is down ({why})" if why else "is down"
        return states.how_away(state) if states.node_is_away(state) else f"job {self._job} has lost"

    async def _moved(self, step: Step, down: Collection[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """As `spare_nodes.moved`, with spares that can be used, each made ready.

        Nothing is awaited after resolved.env was read, since another step may be placed meanwhile.
        """
        used = placed(from_json(self._run.plan.read_text(encoding="utf-8")))
        looked_at: dict[str, list[str]] = {}
        while True:
            env = read_env_or_nothing(self._run.resolved_env)
            if not env.get("TRTDIST_NODES") or not down:
                return env, []
            unusable = [node for node, problems in looked_at.items() if problems]
            after, changed = moved(env, step.nodes, used, [*down, *unusable])
            new = [node for _, node in changed if node not in looked_at]
            if not new:
                return after, changed
            given = read_env_or_nothing(self._run.given_env)
            found = await look_again(self._run, new, given, local_folder(self._run))
            for problem in told(found):
                self._say(problem)
            looked_at.update(found)

    async def clean(self) -> tuple[str, ...]:
        """Remove the local folder, with a step of its own, on every node that the job still has."""
        folder = local_folder(self._run)
        script = self._run.scripts / "each-node.srun.sh"
        # Where something was wrong with a node nothing is resolved, and the look at the nodes has made the folder.
        nodes = len(_resolved(self._run, "TRTDIST_NODES").split()) or int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        if nodes < 2 or not script.is_file():
            return ()
        had = _nodes_given()
        lost = await self._lost(had)
        left = [f"{folder} on {node}, which job {self._job} has lost" for node in lost]
        environ = {**os.environ, "TRTDIST_JOB_NODELIST": hostlist.fold(node for node in had if node not in lost)}
        try:
            await ask(["bash", str(script), "bash", "-c", _REMOVE, "bash", str(folder)], _CLEANING, environ)
        except TrtdistError as error:
            self._say(str(error))
            left.insert(0, f"{folder} on the nodes of job {self._job}")
        return tuple(left)

    async def _lost(self, had: list[str]) -> list[str]:
        """Which of the nodes that the job had it has no more, as far as Slurm says so in time."""
        try:
            shown = parse.fields(await ask(argv.scontrol_show("job", self._job), _HURRY))
            has = hostlist.expand(shown.get("NodeList", ""))
        except (TrtdistError, hostlist.HostListError):
            return []
        # Of a job that ends, those that are done are taken off the list.
        return [node for node in had if node not in has] if shown.get("JobState") == "RUNNING" else []


async def _down_of(nodes: list[str], seconds: float) -> dict[str, str]:
    """Those of the nodes that are down, each with why; nothing when Slurm does not answer in time."""
    if not nodes:
        return {}
    try:
        shown = parse.nodes(await ask(argv.scontrol_show("node", ",".join(nodes)), max(0.0, seconds)))
    except TrtdistError:
        return {}
    return {node.name: states.why_down(node) for node in shown if states.node_is_down(node.state)}


async def _states_of(nodes: list[str], seconds: float) -> list[tuple[str, str]]:
    """What Slurm says of nodes; nothing when it does not answer in time."""
    try:
        return parse.node_states(await ask(argv.sinfo_nodes(nodes), max(0.0, seconds)))
    except TrtdistError:
        return []


def why_ended(job: str, shown: Mapping[str, str], down: list[str], attempt: int = 0) -> messages.EveryoneTerminated:
    """Why Slurm ends a job, from `scontrol show job`, the nodes that are down, and how often it was queued again before
    this `attempt`.

    While processes are left the state is COMPLETING, whatever led to it. A job that is queued again has no time of
    preemption, only one restart more (Slurm 22.05).
    """
    state, reason = shown.get("JobState", ""), shown.get("Reason", "")
    if _preempted(shown):
        return messages.EveryoneTerminated(f"job {job} was preempted by another job", certain=True)
    if down or state == "NODE_FAIL" or reason == "NodeDown":
        return messages.EveryoneTerminated(f"job {job} lost {', '.join(down) or 'a node'}", "FAILED", 1, certain=True)
    if state == "TIMEOUT" or reason == "TimeLimit":
        return messages.EveryoneTerminated(f"job {job} reached its time limit", "TIMEOUT", 1, certain=True)
    restarts = shown.get("Restarts", "")
    if restarts.isdigit() and int(restarts) > attempt:
        reason = f"job {job} was queued again: another job preempted it, or somebody asked for it (scontrol requeue)"
        return messages.EveryoneTerminated(reason, certain=True)
    return messages.EveryoneTerminated(f"job {job} was cancelled (scancel)")


def _preempted(shown: Mapping[str, str]) -> bool:
    return shown.get("JobState") == "PREEMPTED" or shown.get("PreemptTime", "None") not in ("None", "Unknown", "N/A")


def _nodes_given() -> list[str]:
    """The nodes that the job had when it began."""
    try:
        return hostlist.expand(os.environ.get("TRTDIST_JOB_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", ""))
    except hostlist.HostListError:
        return []


def _resolved(run: RunDir, name: str) -> str:
    """A value of resolved.env; "" before it is written."""
    return read_env_or_nothing(run.resolved_env).get(name, "")
