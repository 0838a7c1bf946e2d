"""`python -m trtdist.serving.worker RUN_DIR`: one rank of a server of the run's plan.

$TRTDIST_SERVER and $TRTDIST_RANK say which. Rank 0 leads: it loads the engine, registers and serves; the other ranks
follow it in the engine. TERM ends a leader once open requests are finished, at most $TRTDIST_DRAIN_SECONDS (2) later,
or what its supervisor grants; followers end with their leader, and servers of one MPI world with each other.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import cast

from trtdist.engines.base import Engine, EngineConfig, EngineError
from trtdist.errors import InputError, MissingError, RunFailedError, TrtdistError
from trtdist.events import EngineSilent, EventWriter, Rung
from trtdist.plan import Plan, Server
from trtdist.rundir import RunDir
from trtdist.serving.background import Background
from trtdist.serving.calls import Calls
from trtdist.serving.held import HeldPublisher
from trtdist.serving.kept import KeptCaches
from trtdist.serving.member import Identity, Member
from trtdist.serving.phases import Station
from trtdist.serving.program import asked, run_program, run_until_stopped
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import component_of_role
from trtdist.serving.waiting import first_of, within

__all__ = ["DRAIN_S", "granted", "lead", "load_engine", "patience", "serve"]

DRAIN_S, MOST_DRAIN_S = 2.0, 86_400.0
# What a server needs beside its drain to fail what is still open and to leave.
LEAVE_S = 3.0
# What the servers of one MPI world wait for each other at most; who supervises them ends them before.
WORLD_S = 3600.0
# An engine that cannot stop must not hide that its server has ended.
STOP_S = 0.5


def load_engine(plan: Plan, server: Server, rank: int, run_dir: Path) -> Engine:
    """The engine that the plan names, for one rank; MissingError when it cannot be had here."""
    try:
        module = importlib.import_module(f"trtdist.engines.{plan.engine}")
        wait = patience(_drain_seconds())
        if plan.launch == "mpi_world":
            # How long others of the world may finish their requests is known only when they are told to end.
            wait = max(wait, WORLD_S)
        return cast(Engine, module.create(EngineConfig(plan, server, rank, run_dir, wait)))
    except ImportError as error:
        raise MissingError(
            f"the engine {plan.engine} cannot be loaded with {sys.executable}: {error}; install what is missing"
        ) from None


def patience(drain: float) -> float:
    """How many seconds a server that has ended waits for those of its MPI world, which were told to end with it."""
    return drain + LEAVE_S


async def serve(
    config: RunConfig, server: Server, engine: Engine, events: EventWriter, stop: asyncio.Event, drain: float = DRAIN_S
) -> None:
    """Serve with a loaded engine until `stop`; RunFailedError says why it had to end before."""
    background = Background()
    async with Member(config, Identity(component_of_role(server.role), server.name, engine.name)) as member:
        kept = KeptCaches(engine.release, background)
        held = HeldPublisher(member.nats.publish, member.instance, lambda: engine.reuse_tokens)
        reads = server.role != "generation" or config.plan().router_direct_below > 0
        station = Station(server.role, member.instance, engine, member.nats, kept, held, reads)
        calls = Calls(station, background)
        await member.serve(calls.answer, calls.control, calls.stats)
        events.write(Rung(server.name, "registered", member.instance.key))
        silence = _tell_silence(station, server.name, config.plan().stall, events)
        reason = await member.must_leave(asked(stop), engine.died(), silence)
        await member.withdraw()
        calls.close(reason or f"{server.name} is stopping")
        await (calls.fail("lost", reason) if reason else calls.drain(granted(config, drain)))
    if reason:
        raise RunFailedError(f"{server.name} stops serving: {reason}")


async def _tell_silence(station: Station, name: str, seconds: float, events: EventWriter) -> str:
    """Tell whenever the engine has let requests wait that long (0: never); what comes of it is the supervisor's
    decision."""
    while seconds > 0:
        await station.pulse.silence(seconds)
        waiting = station.pulse.waiting
        events.write(EngineSilent(name, station.instance.key, waiting, seconds))
        print(f"the engine has given nothing for {seconds:g} s, and requests wait for it: {waiting}", flush=True)
    await asyncio.Event().wait()
    return ""


async def lead(config: RunConfig, server: Server, engine: Engine, events: EventWriter, stop: asyncio.Event) -> None:
    """Load the engine and serve with it; it has stopped at the end."""
    limit = STOP_S + (WORLD_S if config.plan().launch == "mpi_world" else patience(_drain_seconds()))
    try:
        await first_of(engine.start(), _until(stop))
        if stop.is_set():
            return
        events.write(Rung(server.name, "engine", engine.version))
        print("Engine loaded and ready to serve...", flush=True)
        await serve(config, server, engine, events, stop, _drain_seconds())
    except EngineError as error:
        raise RunFailedError(f"Failed to start engine: {error}") from None
    except TrtdistError:
        # The other servers of its world do not end with it, and would be waited for.
        limit = STOP_S
        raise
    finally:
        faulthandler.dump_traceback_later(limit + STOP_S, exit=True)
        await _stop(engine, limit)


def granted(config: RunConfig, drain: float) -> float:
    """How long open requests may take to end: what the supervisor grants less what leaving takes, else `drain`."""
    path = config.run.patience(os.environ.get("TRTDIST_STEP", ""))
    try:
        seconds = min(MOST_DRAIN_S, float(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return drain
    return max(0.0, seconds - min(LEAVE_S, seconds / 3))


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _stop(engine: Engine, seconds: float) -> None:
    try:
        await within(seconds, engine.stop())
    except asyncio.TimeoutError:
        print(f"the engine did not stop within {seconds:g} s", file=sys.stderr, flush=True)


def _work(run_dir: Path) -> None:
    name, rank = _place()
    if rank:
        _follow(run_dir, name, rank)
        return
    events = EventWriter(RunDir(run_dir).event_file(f"server.{name}"))
    events.write(Rung(name, "process"))
    config = RunConfig.load(run_dir)
    plan = config.plan()
    server = _server(plan, name)
    engine = load_engine(plan, server, rank, run_dir)
    run_until_stopped(lambda stop: lead(config, server, engine, events, stop))


def _follow(run_dir: Path, name: str, rank: int) -> None:
    plan = RunConfig.load(run_dir).plan()
    engine = load_engine(plan, _server(plan, name), rank, run_dir)
    # TERM reaches all ranks at once, and the leader still needs this one to finish what is open.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        engine.follow()
    except EngineError as error:
        raise RunFailedError(f"{name}.{rank} cannot go on: {error}") from None


def _place() -> tuple[str, int]:
    name, rank = os.environ.get("TRTDIST_SERVER", ""), os.environ.get("TRTDIST_RANK", "")
    if not name or not rank.isdigit():
        raise InputError("$TRTDIST_SERVER and $TRTDIST_RANK are not set: start workers by the files under scripts/")
    return name, int(rank)


def _server(plan: Plan, name: str) -> Server:
    try:
        return plan.server(name)
    except KeyError:
        names = ", ".join(server.name for server in plan.servers)
        raise InputError(f"$TRTDIST_SERVER is {name!r}, and the plan has {names}") from None


def _drain_seconds() -> float:
    text = os.environ.get("TRTDIST_DRAIN_SECONDS", "")
    try:
        seconds = float(text) if text else DRAIN_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_DRAIN_S:
        raise TrtdistError(f"$TRTDIST_DRAIN_SECONDS is {text!r}: it must be a number of seconds, at most a day's")
    return seconds


def _leave(code: int) -> None:
    """End with an exit code: at once after a failure, since what an engine left running may hold up an orderly end."""
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _leave(run_program(sys.argv[1:], _work))
