"""The programs of a run as real processes: how they start, what they say, how they end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.serving.deployment import Deployment, Process, deployment, fill_site, scripted_plan
from tests.serving.scripted import greedy, until
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.events import RUNGS, Ready, Rung
from trtdist.plan import Canary, Plan
from trtdist.serving.requester import Ask, Requester, RequestError

WORKER, ROUTER, CANARY = (f"trtdist.serving.{name}" for name in ("worker", "router", "canary"))
PLAN = scripted_plan(1, 1, canary=Canary("count 3", 3, 0.0, 10.0))


def rank(server: str, number: int = 0, **environ: str) -> dict[str, str]:
    """The environment of a rank."""
    return {"TRTDIST_SERVER": server, "TRTDIST_RANK": str(number), **environ}


@contextlib.asynccontextmanager
async def started(
    folder: Path, nats_server: NatsServer, etcd_server: EtcdServer, plan: Plan = PLAN
) -> AsyncIterator[Deployment]:
    """A deployment with its `site/`."""
    async with deployment(folder, nats_server, etcd_server, plan) as deployed:
        fill_site(deployed.run)
        yield deployed


async def up(deployed: Deployment) -> dict[str, Process]:
    """Every program of the run; the canary has passed."""
    names = [server.name for server in deployed.plan.servers]
    programs = {name: deployed.process(WORKER, **rank(name)) for name in names}
    programs["router"] = deployed.process(ROUTER)
    canary = deployed.process(CANARY)
    assert await canary.exit_code() == 0, canary.output
    return programs


def test_run_from_start_to_end(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with started(tmp_path, nats_server, etcd_server) as deployed:
            programs = await up(deployed)
            events = deployed.events()
            assert Ready(1) in events
            for name in ("ctx.0", "gen.0"):
                climbed = [event.rung for event in events if isinstance(event, Rung) and event.name == name]
                assert climbed == list(RUNGS[1:])
                assert "Engine loaded and ready to serve..." in programs[name].output.splitlines()
            climbed = [event.rung for event in events if isinstance(event, Rung) and event.name == "router"]
            # It tells that it is registered when the canary may have found it already.
            assert climbed[0] == "process" and set(climbed[1:]) == {"registered", "answering"}
            async with Requester.open(deployed.config, "a test") as requester:
                texts = [answer.text async for answer in requester.stream(Ask(greedy(), "count 4"))]
            assert "".join(texts) == "0 1 2 3 "
            for program in programs.values():
                program.term()
            for program in programs.values():
                assert await program.exit_code() == 0, program.output
                assert "Traceback" not in program.output
            assert etcd_server.etcdctl("get", "--prefix", deployed.run.run_id) == ""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("module", "environ", "code", "says"),
    [
        (WORKER, rank("ctx.0", SCRIPTED_START="fail"), 1, "Failed to start engine: no weights"),
        (WORKER, rank("ctx.7"), 2, "the plan has ctx.0, gen.0"),
        (WORKER, {"TRTDIST_SERVER": "", "TRTDIST_RANK": ""}, 2, "start workers by the files under scripts/"),
        (WORKER, rank("ctx.0", TRTDIST_DRAIN_SECONDS="soon"), 1, "must be a number of seconds"),
        (WORKER, rank("ctx.0", TRTDIST_DRAIN_SECONDS="nan"), 1, "must be a number of seconds"),
    ],
)
def test_programs_that_cannot_start(
    tmp_path: Path,
    nats_server: NatsServer,
    etcd_server: EtcdServer,
    module: str,
    environ: dict[str, str],
    code: int,
    says: str,
) -> None:
    async def main() -> None:
        async with started(tmp_path, nats_server, etcd_server) as deployed:
            program = deployed.process(module, **environ)
            assert await program.exit_code() == code, program.output
            assert says in program.output and "Traceback" not in program.output

    asyncio.run(main())


def test_engine_that_is_not_there(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with started(tmp_path, nats_server, etcd_server) as deployed:
            engine = deployed.run.site / "trtdist" / "engines" / "scripted.py"
            engine.unlink()
            engine.write_text("import not_installed\n")
            program = deployed.process(WORKER, **rank("ctx.0"))
            assert await program.exit_code() == 4
            assert "the engine scripted cannot be loaded" in program.output and "not_installed" in program.output

    asyncio.run(main())


def test_term_while_the_engine_loads(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with started(tmp_path, nats_server, etcd_server) as deployed:
            program = deployed.process(WORKER, **rank("ctx.0", SCRIPTED_START="wait"))
            await until(lambda: Rung("ctx.0", "process") in deployed.events())
            await until(lambda: catches_term(program))
            program.term()
            assert await program.exit_code() == 0, program.output
            assert Rung("ctx.0", "engine") not in deployed.events()

    asyncio.run(main())


def catches_term(program: Process) -> bool:
    """Whether TERM would not kill the program any more (proc(5), SigCgt and SigIgn)."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigCgt", "SigIgn"))]
    return any(mask & 1 << 14 for mask in masks)


def test_follower_ends_with_its_leader(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with started(tmp_path, nats_server, etcd_server) as deployed:
            ended = tmp_path / "ended"
            program = deployed.process(WORKER, **rank("ctx.0", 1, SCRIPTED_LEADER_ENDED=str(ended)))
            await until(lambda: "rank 1 follows" in program.output)
            program.term()
            program.process.send_signal(2)
            assert catches_term(program) and program.process.poll() is None
            ended.touch()
            assert await program.exit_code() == 0, program.output
            assert deployed.events() == []

    asyncio.run(main())


@pytest.mark.long
def test_killed_server_is_gone_for_the_router(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with started(tmp_path, nats_server, etcd_server) as deployed:
            programs = await up(deployed)
            instance = await deployed.instance("gen.0")
            programs["gen.0"].kill()
            etcd_server.etcdctl("lease", "revoke", instance.lease_hex)  # as the end of its time would
            await deployed.gone("gen.0")
            async with Requester.open(deployed.config, "a test") as requester:
                with pytest.raises(RequestError, match="generation server"):
                    [one async for one in requester.stream(Ask(greedy(), "count 4", timeout=10.0))]
            for name in ("ctx.0", "router"):
                programs[name].term()
                assert await programs[name].exit_code() == 0, programs[name].output

    asyncio.run(main())


@pytest.mark.long
@pytest.mark.parametrize(("victim", "says"), [("nats", "the connection to NATS"), ("etcd", "could not be renewed")])
def test_lost_services_end_everybody(tmp_path: Path, victim: str, says: str) -> None:
    async def main() -> None:
        async with started(tmp_path, nats, etcd) as deployed:
            programs = await up(deployed)
            (nats if victim == "nats" else etcd).kill()
            for program in programs.values():
                await until(lambda one=program: one.process.poll() is not None, 40)
                assert program.process.returncode == 1
                assert says in program.output and "Traceback" not in program.output
            deployed.tasks.clear()

    folder = tmp_path / secrets.token_hex(4)
    with NatsServer(folder / "nats") as nats, EtcdServer(folder / "etcd") as etcd:
        asyncio.run(main())
