"""A server with a scripted engine, and callers that behave badly; real NATS and etcd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.engines.topologies import disaggregated
from tests.serving.deployment import Caller, Deployment, Running, deployment, scripted_plan
from tests.serving.scripted import until
from tests.serving.scripted_engine import ScriptedEngine
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.engines.base import DisaggregatedParams
from trtdist.engines.reference.engine import ReferenceEngine
from trtdist.errors import RunFailedError
from trtdist.events import EngineSilent, EventWriter, Rung
from trtdist.plan import Plan, to_json
from trtdist.serving import calls, job, member, nats_connection, worker
from trtdist.serving.instance import Instance
from trtdist.serving.nats_connection import NatsError
from trtdist.serving.on_the_way import OnTheWay
from trtdist.serving.outbox import OUTPUTS_IN_A_ROW
from trtdist.serving.protocol import (
    Accepted,
    Cancel,
    Coming,
    Credit,
    Failure,
    Notice,
    decode_control,
)
from trtdist.serving.slug import GENERATION, service_slug
from trtdist.serving.waiting import within
from trtdist.topology.model import TimeoutsSection


@dataclass
class Scene:
    """One server that works, and a caller."""

    deployed: Deployment
    running: Running
    instance: Instance
    caller: Caller

    async def control(self, message: Credit | Cancel | Coming) -> None:
        """Send a control message to the server."""
        await self.deployed.nats.publish(self.instance.control_subject, message.encode())


Play = Callable[..., "contextlib.AbstractAsyncContextManager[Scene]"]

MONOLITHIC, SPLIT = scripted_plan(0, 1), scripted_plan(1, 1)


@pytest.fixture
def play(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> Play:
    @contextlib.asynccontextmanager
    async def scene(plan: Plan, name: str, **settings: float) -> AsyncIterator[Scene]:
        async with deployment(tmp_path, nats_server, etcd_server, plan) as deployed:
            running, instance = await deployed.worker(name, **settings)
            yield Scene(deployed, running, instance, await Caller.at(deployed.nats))

    return scene


def test_a_server_tells_that_its_engine_keeps_requests_waiting(play: Play) -> None:
    async def main() -> None:
        async with play(replace(MONOLITHIC, stall=0.4), "srv.0") as scene:
            assert await scene.caller.call(scene.instance, "count 3") == Accepted()
            await scene.caller.finished()
            assert await scene.caller.call(scene.instance, "wait") == Accepted()
            told = lambda: [each for each in scene.deployed.events() if isinstance(each, EngineSilent)]  # noqa: E731
            await until(lambda: bool(told()), 30)
            assert told()[0] == EngineSilent("srv.0", scene.instance.key, 1, 0.4)

    asyncio.run(main())


def test_answer_comes_in_order_with_its_usage(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            assert await scene.caller.call(scene.instance, "count 100") == Accepted()
            last = await scene.caller.finished()
            assert last.finish_reason == "length"
            assert [number for chunk in scene.caller.chunks for number in chunk.token_ids] == list(range(100))
            assert last.usage == {"completion_tokens": 100, "prompt_tokens": 7}
            assert "".join(chunk.text for chunk in scene.caller.chunks).startswith("0 1 2 3 ")
            assert scene.deployed.events() == [Rung("srv.0", "registered", scene.instance.key)]

    asyncio.run(main())


def test_no_chunk_without_credit(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "BEAT_S", 0.1)

    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            caller, engine = scene.caller, scene.running.engine
            await caller.call(scene.instance, "count 1000000", request_id="r", window=10)
            await until(lambda: any(beat.seq == 10 for beat in caller.beats))
            assert [chunk.seq for chunk in caller.chunks] == list(range(10))
            assert {beat.sender for beat in caller.beats} == {scene.instance.lease_hex}
            sent = sum(len(chunk.token_ids) for chunk in caller.chunks)
            await until(lambda: engine.produced > sent)
            assert engine.produced <= sent + OUTPUTS_IN_A_ROW
            await scene.control(Credit("r", 0, 25))
            await until(lambda: len(caller.chunks) == 25)
            await scene.control(Credit("r", 1, 1000))
            await scene.control(Credit("other", 0, 1000))
            await scene.control(Credit("r", 0, 20))
            beats = len(caller.beats)
            await until(lambda: len(caller.beats) > beats + 1)
            assert len(caller.chunks) == 25
            await scene.control(Cancel("r", 0, "enough"))
            assert (await caller.failed()).seq == 25

    asyncio.run(main())


def test_cancel_reaches_the_engine(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            await scene.caller.call(scene.instance, "wait", request_id="r")
            await until(lambda: scene.running.engine.produced == 1)
            await scene.control(Cancel("r", 0, "not wanted"))
            assert (await scene.caller.failed()).code == "cancelled"
            await until(lambda: scene.running.engine.ended == ["r.0"])
            again = await scene.caller.call(scene.instance, "count 1", request_id="r")
            assert isinstance(again, Failure) and again.code == "stale"

    asyncio.run(main())


def test_cancel_that_overtakes_its_request(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            await (await Caller.at(scene.deployed.nats)).call(scene.instance, "wait", request_id="open")
            for name in ("r", "open"):
                await scene.control(Cancel(name, 0, "too late"))
            # What was sent before this one has been heard then.
            await until(lambda: scene.running.engine.ended == ["open.0"])
            early = await scene.caller.call(scene.instance, "count 1", request_id="r")
            assert isinstance(early, Failure) and early.code == "stale"
            assert await scene.caller.call(scene.instance, "count 1", request_id="r", attempt=1) == Accepted()
            await scene.caller.finished()

    asyncio.run(main())


def test_newer_attempt_takes_the_place_of_an_older(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            second = await Caller.at(scene.deployed.nats)
            await scene.caller.call(scene.instance, "wait", request_id="r", attempt=1)
            await second.call(scene.instance, "count 3", request_id="r", attempt=2)
            await second.finished()
            assert (await scene.caller.failed()).code == "stale"
            await until(lambda: set(scene.running.engine.ended) == {"r.1", "r.2"})
            for attempt in (0, 1, 2):
                late = await scene.caller.call(scene.instance, "count 1", request_id="r", attempt=attempt)
                assert isinstance(late, Failure) and (late.code, late.attempt) == ("stale", attempt)

    asyncio.run(main())


def test_deadline_ends_the_work(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            await scene.caller.call(scene.instance, "wait", timeout=1.5)
            failure = await scene.caller.failed()
            assert (failure.code, failure.seq) == ("deadline", 1) and "1.5 s" in failure.message
            await until(lambda: len(scene.running.engine.ended) == 1)
            none_left = await scene.caller.call(scene.instance, "wait", timeout=0)
            assert isinstance(none_left, Failure) and none_left.code == "deadline"

    asyncio.run(main())


def test_silent_requester_is_given_up(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SILENCE_S", 1.0)
    monkeypatch.setattr(job, "BEAT_S", 0.1)

    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            await scene.caller.call(scene.instance, "count 1000000", request_id="r", window=5)
            for _ in range(14):
                beats = len(scene.caller.beats)
                await scene.control(Credit("r", 0, 5))
                await until(lambda before=beats: len(scene.caller.beats) > before)
            assert not scene.caller.failures
            failure = await scene.caller.failed()
            assert (failure.code, failure.seq) == ("stalled", 5)
            await until(lambda: len(scene.running.engine.ended) == 1)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("prompt", "code", "says"),
    [
        ("fail", "engine", "this engine fails"),
        ("refuse", "bad_request", "this engine takes no such thing"),
        ("end", "engine", "without saying why"),
        ("crash", "internal", "a defect"),
        ("count 1 9000000", "too_large", "larger than NATS takes"),
    ],
)
def test_failing_request_fails_alone(
    play: Play, prompt: str, code: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            other = await Caller.at(scene.deployed.nats)
            await other.call(scene.instance, "wait")
            await scene.caller.call(scene.instance, prompt)
            failure = await scene.caller.failed()
            assert failure.code == code and says in failure.message
            assert not other.failures and len(scene.running.engine.ended) == 1
            await scene.caller.call(scene.instance, "count 3")
            await until(lambda: any(chunk.finish_reason for chunk in scene.caller.chunks))

    asyncio.run(main())
    assert ("Traceback" in capfd.readouterr().err) == (prompt == "crash")


@pytest.mark.parametrize(
    ("plan", "server", "fields", "says"),
    [
        (MONOLITHIC, "srv.0", {"prompt": ""}, "prompt or token_ids"),
        (MONOLITHIC, "srv.0", {"inbox": "a b"}, "without wildcards"),
        (MONOLITHIC, "srv.0", {"notify": "a.>"}, "without wildcards"),
        (MONOLITHIC, "srv.0", {"disaggregated": DisaggregatedParams((1,), 1, b"")}, "only a generation server"),
        (SPLIT, "ctx.0", {}, "which server generates"),
        (SPLIT, "gen.0", {}, "KV cache of a context server"),
    ],
)
def test_calls_that_make_no_sense(play: Play, plan: Plan, server: str, fields: dict[str, Any], says: str) -> None:
    async def main() -> None:
        async with play(plan, server) as scene:
            refusal = await scene.caller.call(scene.instance, **{"prompt": "count 1", **fields})
            assert isinstance(refusal, Failure) and refusal.code == "bad_request" and says in refusal.message
            assert scene.running.engine.requests == []

    asyncio.run(main())


def test_garbage_is_refused_and_forgotten(play: Play, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            nats, instance = scene.deployed.nats, scene.instance
            for garbage in (b"", b"\xff\x00", b"[]", b'{"v":9}', b'{"v":1,"attempt":-1}', b"{" * 100_000):
                assert b"bad_request" in (await nats.request(instance.subject, garbage, 60)).data
                await nats.publish(instance.control_subject, garbage)
            await scene.caller.call(instance, "count 1")
            await scene.caller.finished()

    asyncio.run(main())
    assert "Traceback" not in capfd.readouterr().err


def test_more_requests_than_slots(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls.Calls.__init__, "__defaults__", (2,))

    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            for name in "ab":
                assert await scene.caller.call(scene.instance, "wait", request_id=name) == Accepted()
            refusal = await scene.caller.call(scene.instance, "wait", request_id="c")
            assert isinstance(refusal, Failure) and refusal.code == "overloaded"
            assert await scene.caller.call(scene.instance, "wait", request_id="a", attempt=1) == Accepted()
            await scene.control(Cancel("b", 0, "room"))
            await until(lambda: "b.0" in scene.running.engine.ended)
            assert await scene.caller.call(scene.instance, "count 1", request_id="d") == Accepted()

    asyncio.run(main())


def test_nats_tools_see_the_service(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            await scene.caller.call(scene.instance, "wait")
            nats, lease = scene.deployed.nats, scene.instance.lease_hex
            slug = service_slug(scene.instance.namespace, "tensorrt-llm")
            ping, info, stats = [
                json.loads((await nats.request(f"$SRV.{verb}.{slug}", b"", 60)).data)
                for verb in ("PING", "INFO", "STATS")
            ]
            assert (ping["name"], ping["version"], ping["metadata"]["server"]) == (slug, "0.0.1", "srv.0")
            endpoint = info["endpoints"][0]
            assert endpoint["name"] == f"{slug}-generate-{lease}" and endpoint["queue_group"] == "q"
            assert endpoint["subject"] == scene.instance.subject == f"{slug}.generate-{lease}"
            counted = stats["endpoints"][0]
            assert (counted["name"], counted["num_requests"]) == (endpoint["name"], 1)
            assert counted["data"] == {"request_active_slots": 1, "request_total_slots": calls.MAX_REQUESTS}

    asyncio.run(main())


def test_router_is_told_of_begin_and_end(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            notices: list[Any] = []

            async def take(message: Any) -> None:
                notices.append(decode_control(message.data))

            await scene.deployed.nats.subscribe("notices", cb=take)
            await scene.caller.call(scene.instance, "count 5", request_id="r", notify="notices")
            await until(lambda: len(notices) == 2)
            lease = scene.instance.lease_hex
            assert notices == [
                Notice("r", 0, "started", lease, prompt_tokens=2),
                Notice("r", 0, "done", lease, prompt_tokens=7, generated_tokens=5, finish_reason="length"),
            ]

    asyncio.run(main())


def test_lost_lease_ends_the_service(play: Play, etcd_server: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdist.serving.registration.Registration.__init__.__defaults__", (2,), raising=False)

    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            await scene.caller.call(scene.instance, "wait")
            etcd_server.etcdctl("lease", "revoke", scene.instance.lease_hex)
            failure = await scene.caller.failed()
            assert failure.code == "lost" and "lease" in failure.message
            with pytest.raises(RunFailedError, match=r"srv\.0 stops serving: lease .* is lost"):
                await scene.running.end()
            assert len(scene.running.engine.ended) == 1

    asyncio.run(main())


def test_dead_engine_ends_the_service(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            await scene.caller.call(scene.instance, "die")
            assert (await scene.caller.failed()).code == "lost"
            await scene.deployed.gone("srv.0")
            with pytest.raises(RunFailedError, match="the engine has died"):
                await scene.running.end()

    asyncio.run(main())


async def refusal(caller: Caller, instance: Instance, **fields: Any) -> Failure:
    """What a server answers that takes no more requests: it refuses a moment after it has left etcd."""
    for _ in range(500):
        told = await caller.call(instance, "count 1", **fields)
        if isinstance(told, Failure):
            return told
        await asyncio.sleep(0.01)
    raise AssertionError("it still takes requests")


def test_stopping_finishes_what_is_open(play: Play, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0", drain=600.0) as scene:
            await scene.caller.call(scene.instance, "count 1000", request_id="r", window=5)
            await until(lambda: len(scene.caller.chunks) == 5)
            scene.running.stop.set()
            await scene.deployed.gone("srv.0")
            late = await refusal(await Caller.at(scene.deployed.nats), scene.instance)
            assert late.code == "unavailable" and "stopping" in late.message
            await scene.control(Credit("r", 0, 100))
            await scene.caller.finished()
            await scene.running.end()
            assert etcd_server.etcdctl("get", "--prefix", scene.instance.namespace) == ""

    asyncio.run(main())


def test_stopping_waits_for_what_a_context_server_will_hand_on(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Coming] = []
    add = OnTheWay.add

    def heard(on_the_way: OnTheWay, coming: Coming) -> None:
        add(on_the_way, coming)
        told.append(coming)

    async def main() -> None:
        async with play(SPLIT, "gen.0", drain=600.0) as scene:
            for name, attempt in (("called off", 0), ("r", 0), ("r", 1)):
                await scene.control(Coming(name, attempt, 600.0))
            await scene.control(Coming("out of time", 0, 0.05))
            await until(lambda: len(told) == 4)
            scene.running.stop.set()
            await scene.deployed.gone("gen.0")
            kept = DisaggregatedParams((0,), 1, b"kv")
            late = await refusal(await Caller.at(scene.deployed.nats), scene.instance, disaggregated=kept)
            assert late.code == "unavailable"
            await scene.caller.call(scene.instance, "count 5", request_id="r", attempt=1, disaggregated=kept)
            await scene.caller.finished()
            assert not scene.running.task.done()
            await scene.control(Coming("called off", 0, 0.0))
            await scene.running.end()

    monkeypatch.setattr(OnTheWay, "add", heard)
    asyncio.run(main())


def test_what_is_on_its_way_is_refused_once_what_is_open_was_failed() -> None:
    async def main() -> None:
        on_the_way = OnTheWay()
        on_the_way.add(Coming("r", 1, 600.0))
        assert on_the_way.has("r", 1) and not on_the_way.has("r", 2)
        on_the_way.clear()
        assert not on_the_way and not on_the_way.has("r", 0)

    asyncio.run(main())


def test_stopping_fails_what_takes_longer_than_it_may(play: Play) -> None:
    async def main() -> None:
        async with play(MONOLITHIC, "srv.0", drain=0.3) as scene:
            await scene.caller.call(scene.instance, "wait")
            scene.running.stop.set()
            assert (await scene.caller.failed()).code == "unavailable"
            await scene.running.end()

    asyncio.run(main())


def test_servers_wait_for_each_other_longer_than_all_may_drain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRTDIST_DRAIN_SECONDS", "25")
    for launch, wait in (("per_server", worker.patience(25)), ("mpi_world", worker.WORLD_S)):
        made = disaggregated(launch)
        engine = worker.load_engine(made, made.servers[0], 0, tmp_path)
        assert isinstance(engine, ReferenceEngine) and engine._config.patience == wait > 25


def test_a_server_that_fails_does_not_wait_for_its_world(
    play: Play, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fails(*given: object) -> None:
        raise NatsError("NATS is away: is it running?")

    class Together(ScriptedEngine):
        async def stop(self) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        async with play(MONOLITHIC, "srv.0") as scene:
            config, events = scene.deployed.config, EventWriter(scene.deployed.run.event_file("other"))
            config.run.plan.write_text(to_json(replace(MONOLITHIC, launch="mpi_world")))
            work = worker.lead(config, MONOLITHIC.server("srv.0"), Together(), events, asyncio.Event())
            with pytest.raises(NatsError, match="NATS is away"):
                await within(60, work)

    monkeypatch.setattr(worker, "serve", fails)
    monkeypatch.setattr(worker.faulthandler, "dump_traceback_later", lambda *given, **named: None)
    asyncio.run(main())
    assert "the engine did not stop within 0.5 s" in capfd.readouterr().err


def test_by_default_all_is_over_before_the_supervisor_kills() -> None:
    last = worker.DRAIN_S + calls.FAIL_S + worker.patience(worker.DRAIN_S) + 2 * worker.STOP_S
    assert last < TimeoutsSection().stop


def test_nats_that_hangs_while_it_begins_to_serve_is_named(
    tmp_path: Path, etcd_server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "CONFIRM_S", 1.0)
    monkeypatch.setattr(nats_connection, "FLUSH_S", 0.2)

    async def serve() -> None:
        async with (
            deployment(tmp_path, frozen, etcd_server, MONOLITHIC) as deployed,
            member.Member(deployed.config, member.Identity(GENERATION, "srv.0")) as joined,
        ):
            frozen.send(signal.SIGSTOP)
            with pytest.raises(NatsError, match=rf"NATS at {frozen.url} does not confirm .*: is it running\?"):
                await joined.serve(answer, lambda control: None, dict)

    async def answer(data: bytes) -> bytes:
        return data

    with NatsServer(tmp_path / "nats") as frozen:
        asyncio.run(serve())
