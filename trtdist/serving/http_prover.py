"""`python -m trtdist.serving.http_prover RUN_DIR`: proves over HTTP that servers which are not ours answer, and watches
their health until the run ends.

A server is up when its /health says so; until then it may refuse connections or answer with 503. Prompts follow: one to
each server that takes some itself, then through the front door, one after the other and as many as it takes for each
server to take part when the door takes turns. A router answers /health with 200 whatever becomes of its servers, so
each server is asked itself, and one that has not been well for DEAD_S seconds has failed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from trtdist.errors import RunFailedError
from trtdist.events import CanaryFailed, CanaryPassed, Ready, Rung, TaskUnwell
from trtdist.plan import Plan, from_json
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env
from trtdist.serving.http1 import Connection, HttpError, Url, parse_url
from trtdist.serving.http_canary import Front
from trtdist.serving.program import asked, run_program, run_until_stopped
from trtdist.serving.waiting import first_of, until_passed, within
from trtdist.supervisor.journal import Journal
from trtdist.supervisor.server_ports import door_of

__all__ = ["DEAD_S", "HttpProver", "health_of", "prove", "urls_of"]

DEAD_S, LOOK_S, ANSWER_S = 10.0, 2.0, 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
_LIMIT = 64 * 1024
# A worker of Dynamo answers its front end alone.
_TAKE_PROMPTS = ("trtllm-serve",)


def urls_of(plan: Plan, env: Mapping[str, str]) -> dict[str, Url]:
    """Where each server is asked how it is, by its name; `env` is resolved.env."""
    listed = (pair.partition("=") for pair in env["TRTDIST_ENDPOINTS"].split())
    found = {name: parse_url(f"http://{address}") for name, _, address in listed}
    door = door_of(plan)
    return {**found, door: parse_url(env["TRTDIST_HTTP_URL"])} if door else found


async def health_of(url: Url) -> str:
    """What is wrong with the server at a URL, "" when it says that nothing is."""
    try:
        reply = await within(ANSWER_S, _get(url, "/health"))
    except asyncio.TimeoutError:
        return f"gives no answer within {ANSWER_S:g} s"
    except (HttpError, OSError) as error:
        return f"cannot be reached ({error})"
    return "" if reply == 200 else f"answers with status {reply}"


async def _get(url: Url, path: str) -> int:
    connection = await Connection.open(url, None)
    try:
        return (await connection.exchange("GET", path, b"", _LIMIT)).status
    finally:
        await connection.close()


class HttpProver:
    """Watches the servers of a run and sends prompts; what comes of it goes into the journal."""

    def __init__(self, plan: Plan, urls: Mapping[str, Url], front: Front, journal: Journal) -> None:
        self._plan = plan
        self._urls = urls
        self._front = front
        self._journal = journal
        self._up = {name: asyncio.Event() for name in urls}

    async def watch(self, name: str) -> str:
        """Returns when a server that was up has failed; says how."""
        clock = asyncio.get_running_loop().time
        pause, well = FIRST_PAUSE_S, clock()
        while True:
            problem = await health_of(self._urls[name])
            if not problem:
                well = clock()
                self._is_up(name)
            elif self._up[name].is_set() and clock() - well > DEAD_S:
                step = next(step.name for step in self._plan.steps if name in step.servers)
                reason = f"is there, but its engine is dead: since {DEAD_S:g} s it {problem}"
                self._journal.write(TaskUnwell(step, f"{name}.0", reason))
                return f"{name} {reason}"
            pause = LOOK_S if self._up[name].is_set() else min(2 * pause, LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    def _is_up(self, name: str) -> None:
        if not self._up[name].is_set():
            self._up[name].set()
            self._journal.write(Rung(name, "answering"))

    async def prove(self) -> str:
        """Prompts to all servers, then for ever where the plan says so; never returns."""
        await asyncio.gather(*(self._prove_server(name) for name in self._urls))
        door = self._door()
        for _ in range(self._turns()):
            await until_passed(lambda: self._ask(door, self._front))
        for name in self._urls:
            self._journal.write(Rung(name, "canary"))
        if door not in self._urls:
            self._journal.write(Rung(door, "canary"))
        self._journal.write(Ready(self._turns()))
        while self._plan.canary.interval > 0:
            await asyncio.sleep(self._plan.canary.interval)
            await self._ask(door, self._front)
        await asyncio.Event().wait()
        return ""

    async def _prove_server(self, name: str) -> None:
        await self._up[name].wait()
        if self._plan.runtime in _TAKE_PROMPTS and name != self._door():
            server = Front(self._urls[name], "", self._plan.model)
            await until_passed(lambda: self._ask(name, server))

    def _door(self) -> str:
        """The name of the step or server that users ask."""
        return door_of(self._plan) or next(step.name for step in self._plan.steps if step.kind in ("router", "front"))

    def _turns(self) -> int:
        """How many prompts reach every server when the door goes round each role."""
        roles = [server.role for server in self._plan.servers]
        return max(roles.count(role) for role in roles)

    async def _ask(self, name: str, front: Front) -> bool:
        canary, clock = self._plan.canary, asyncio.get_running_loop().time
        begun = clock()
        try:
            text = await within(canary.timeout, front.ask(canary))
        except (HttpError, OSError, asyncio.TimeoutError) as error:
            return self._failed(name, str(error) or f"no answer within {canary.timeout:g} s")
        if not text:
            return self._failed(name, "the answer is empty")
        self._journal.write(CanaryPassed("", name, text, clock() - begun))
        return True

    def _failed(self, name: str, reason: str) -> bool:
        self._journal.write(CanaryFailed("", name, reason))
        self._journal.say(f"canary to {name} failed: {reason}")
        return False


async def prove(run: RunDir, plan: Plan, journal: Journal, stop: asyncio.Event) -> None:
    """Prove and watch until `stop`; RunFailedError says which server has failed."""
    env = read_env(run.resolved_env)
    urls = urls_of(plan, env)
    prover = HttpProver(plan, urls, Front(parse_url(env["TRTDIST_HTTP_URL"]), "", plan.model), journal)
    reason = await first_of(prover.prove(), asked(stop), *(prover.watch(name) for name in urls))
    if reason or journal.broken:
        raise RunFailedError(reason or journal.broken)


def _work(run_dir: Path) -> None:
    run = RunDir(run_dir)
    plan = from_json(run.plan.read_text(encoding="utf-8"))
    journal = Journal(run.event_file("canary"))
    run_until_stopped(lambda stop: prove(run, plan, journal, stop))


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:], _work))
