"""`python -m trtdist.serving.http_prover RUN_DIR`: proves over HTTP that servers which are not ours answer, and watches
their health until the run ends.

A server is up when its /health says so; until then it may refuse connections or answer with 503. Prompts follow: one to
each server that takes some itself, then through the front door, one after the other and as many as it takes for each
server to take part when the door takes turns. A router answers /health with 200 whatever becomes of its servers, so
each server is asked itself, and one that has not been well for DEAD_S seconds has failed. One that is started again is
proven as at first.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from trtdist.errors import RunFailedError
from trtdist.events import CanaryFailed, CanaryPassed, Ready, Rung, TaskUnwell
from trtdist.plan import Plan, from_json
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env
from trtdist.serving.http1 import Connection, HttpError, Url, parse_url
from trtdist.serving.http_canary import Front
from trtdist.serving.lives import Lives
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
    """Watches the servers of a run and sends prompts; what comes of it goes into the journal.

    `life` says by a name which life a server or program is in, "" for none: what is started again is proven again.
    """

    def __init__(
        self, plan: Plan, urls: Mapping[str, Url], front: Front, journal: Journal, life: Callable[[str], str]
    ) -> None:
        self._plan = plan
        self._urls = urls
        self._front = front
        self._journal = journal
        self._life = life
        # The life in which each server was well, "" for none.
        self._well = dict.fromkeys(urls, "")

    async def watch(self, name: str) -> str:
        """Look at a server for ever; one that was well and is no more has failed, which is told once."""
        clock = asyncio.get_running_loop().time
        pause, well, failed = FIRST_PAUSE_S, clock(), ""
        while True:
            life = self._life(name)
            problem = await health_of(self._urls[name]) if life else "is not there"
            was_well = bool(life) and self._well[name] == life
            if life != self._life(name):
                continue  # it ended while it was asked
            if not problem:
                well = clock()
                self._is_well(name, life)
            elif was_well and life != failed and clock() - well > DEAD_S:
                failed = life
                self._failed_alive(name, life, f"is there, but its engine is dead: since {DEAD_S:g} s it {problem}")
            pause = LOOK_S if was_well else min(2 * pause, LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    def _is_well(self, name: str, life: str) -> None:
        if self._well[name] != life:
            self._well[name] = life
            self._journal.write(Rung(name, "answering", life))

    def _failed_alive(self, name: str, life: str, reason: str) -> None:
        step = next(step.name for step in self._plan.steps if name in step.servers)
        self._journal.write(TaskUnwell(step, f"{name}.0", reason, life))
        self._journal.say(f"{name} {reason}")

    async def prove(self, proven: Mapping[str, str]) -> str:
        """Prompts to all servers, then to those that are started again, and to all where the plan says so; never
        returns.

        `proven` are the lives in which an earlier prover has proven them once all were, empty before: some may have
        left for good since then, and the others must not wait for them.
        """
        lives = (
            {name: proven.get(name, "") for name in (*self._urls, self._door())} if proven else await self._prove_all()
        )
        await asyncio.gather(self._repeat(), *(self._prove_again(name, life) for name, life in lives.items()))
        return ""

    async def _prove_all(self) -> dict[str, str]:
        """Prove all servers and what is before them; returns the life of each."""
        lives = dict(zip(self._urls, await asyncio.gather(*map(self._prove_server, self._urls))))
        door = self._door()
        lives.setdefault(door, self._life(door))
        await self._prove_door()
        for name, life in lives.items():
            self._proven(name, life)
        if not self._journal.write(Ready(self._turns())):
            raise RunFailedError(self._journal.broken)
        return lives

    async def _repeat(self) -> None:
        interval = self._plan.canary.interval
        while interval > 0:
            await asyncio.sleep(interval)
            await self._ask(self._door(), self._front)

    async def _prove_again(self, name: str, proven: str) -> None:
        """Prove a server, or what is before them, whenever it has begun another life."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._life(name) in ("", proven):
                continue
            life = await self._prove_server(name) if name in self._urls else self._life(name)
            await self._prove_door()
            if self._proven(name, life):
                proven = life

    def _proven(self, name: str, life: str) -> bool:
        """Tell that a server has answered, unless that was in a life that is over; whether it is told."""
        return bool(life) and life == self._life(name) and self._journal.write(Rung(name, "canary", life))

    async def _prove_server(self, name: str) -> str:
        """The life in which a server is well and has answered, if it answers others than those before it."""
        server = Front(self._urls[name], "", self._plan.model)
        asked = self._plan.runtime in _TAKE_PROMPTS and name != self._door()

        async def passed() -> bool:
            well = self._well[name] and self._well[name] == self._life(name)
            return bool(well) and (not asked or await self._ask(name, server))

        await until_passed(passed)
        return self._well[name]

    async def _prove_door(self) -> None:
        """As many prompts as reach every server when the door takes turns."""
        for _ in range(self._turns()):
            await until_passed(lambda: self._ask(self._door(), self._front))

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
    """Prove and watch until `stop`; RunFailedError when nothing can be told any more."""
    env = read_env(run.resolved_env)
    urls = urls_of(plan, env)
    front = Front(parse_url(env["TRTDIST_HTTP_URL"]), "", plan.model)
    lives = Lives(run.events, plan)
    lives.read()
    prover = HttpProver(plan, urls, front, journal, lives.of)
    watching = [prover.watch(name) for name in urls]
    await first_of(prover.prove(lives.proven()), asked(stop), lives.follow(), *watching)
    if journal.broken:
        raise RunFailedError(journal.broken)


def _work(run_dir: Path) -> None:
    run = RunDir(run_dir)
    plan = from_json(run.plan.read_text(encoding="utf-8"))
    journal = Journal(run.event_file("canary"))
    run_until_stopped(lambda stop: prove(run, plan, journal, stop))


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:], _work))
