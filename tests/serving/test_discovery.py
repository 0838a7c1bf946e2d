"""Registration and watching on a real etcd, also one that dies, is frozen, or forgets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.servers import EtcdServer
from trtdist.errors import InputError, NotReadyError
from trtdist.serving.discovery import Change, Instance, Registration, RegistrationError, Snapshot, Watcher
from trtdist.serving.etcd import EtcdClient, EtcdUnavailableError
from trtdist.serving.slug import CONTEXT, GENERATION, instance_prefix
from trtdist.serving.waiting import within

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True)


def count(number: int) -> Callable[[Snapshot], bool]:
    return lambda snapshot: len(snapshot.instances) == number and not snapshot.stale


@contextlib.asynccontextmanager
async def registered(client: EtcdClient, namespace: str, server: str, ttl: int = 10) -> AsyncIterator[Instance]:
    component = CONTEXT if server.startswith("ctx") else GENERATION
    async with Registration(client, ttl) as registration:
        instance = Instance.of(namespace, component, "generate", registration.lease_id, server, "reference")
        await registration.publish(instance)
        yield instance


@given(NAMES, NAMES, st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), st.integers(1, 2**63 - 1), st.text())
def test_instances_read_back(namespace: str, component: str, endpoint: str, lease: int, server: str) -> None:
    instance = Instance.of(namespace, component, endpoint, lease, server, "reference")
    assert Instance.from_dict(json.loads(json.dumps(instance.to_dict()))) == instance


@pytest.mark.parametrize(
    "change",
    [
        {"transport": None},
        {"transport": {"nats_tcp": "elsewhere.generate-1"}},
        {"lease_id": "7"},
        {"lease_id": True},
        {"lease_id": -1},
        {"namespace": 5},
        {"namespace": "a/b"},
        {"server": []},
    ],
)
def test_contradicting_instances_are_refused(change: dict[str, object]) -> None:
    raw = Instance.of("ns", CONTEXT, "generate", 7, "ctx.0").to_dict()
    with pytest.raises(InputError):
        Instance.from_dict({**raw, **change})


def test_key_value_and_lease_are_the_seeds(etcd_server: EtcdServer, namespace: str) -> None:
    async def main() -> None:
        async with EtcdClient([etcd_server.endpoint]) as client, registered(client, namespace, "gen.0") as instance:
            key, value = etcd_server.etcdctl("get", "--prefix", namespace).split("\n", 1)
            assert key == f"{namespace}/components/tensorrt-llm-gen/generate:{instance.lease_id:x}"
            raw = json.loads(value)
            assert raw["transport"] == {"nats_tcp": instance.subject} and raw["lease_id"] == instance.lease_id
            assert (raw["server"], raw["engine"], raw["namespace"]) == ("gen.0", "reference", namespace)
            lease = etcd_server.etcdctl("lease", "timetolive", instance.lease_hex, "--keys")
            assert "granted with TTL(10s)" in lease and key in lease
        assert etcd_server.etcdctl("get", "--prefix", namespace) == ""

    asyncio.run(main())


def test_watcher_sees_who_comes_and_goes(etcd_server: EtcdServer, namespace: str) -> None:
    told: list[Change] = []

    async def main() -> None:
        async with EtcdClient([etcd_server.endpoint]) as client:
            prefix = instance_prefix(namespace)
            async with Watcher(client, prefix) as watcher, registered(client, namespace, "ctx.0") as ctx:
                with watcher.calling(told.append):
                    await watcher.wait_for(count(1), 60, "one")
                    async with registered(client, namespace, "gen.0") as gen:
                        both = await watcher.wait_for(count(2), 60, "two")
                        assert both.of(GENERATION) == (gen,) and both.server("ctx.0") == ctx
                        assert both.lease(gen.lease_id) == gen and both.server("gen.9") is None
                        etcd_server.etcdctl("put", f"{prefix}nonsense", "x")
                        odd = await watcher.wait_for(lambda seen: bool(seen.rejected), 60, "the odd key")
                        assert "nonsense" in odd.rejected[0] and odd.instances == both.instances
                    left = await watcher.wait_for(count(1), 60, "one again")
                    assert left.instances == (ctx,)
            assert [one.server for change in told for one in change.vanished] == ["gen.0"]

    asyncio.run(main())


def test_changes_are_merged_for_a_slow_taker(etcd_server: EtcdServer, namespace: str) -> None:
    async def main() -> None:
        async with EtcdClient([etcd_server.endpoint]) as client, Watcher(client, instance_prefix(namespace)) as watcher:
            changes = watcher.changes()
            assert (await changes.__anext__()) == Snapshot()
            async with registered(client, namespace, "ctx.0"), registered(client, namespace, "gen.0"):
                await watcher.wait_for(count(2), 60, "two")
                assert len((await within(60, changes.__anext__())).instances) == 2
            await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())


def test_waiting_in_vain_says_who_is_there(etcd_server: EtcdServer, namespace: str) -> None:
    async def main() -> None:
        async with (
            EtcdClient([etcd_server.endpoint]) as client,
            registered(client, namespace, "ctx.0"),
            Watcher(client, instance_prefix(namespace)) as watcher,
        ):
            with pytest.raises(NotReadyError, match=r"gen\.0 did not happen within 0\.1 s.*ctx\.0"):
                await watcher.wait_for(lambda seen: seen.server("gen.0") is not None, 0.1, "gen.0")

    asyncio.run(main())


def test_watcher_survives_a_restart_without_an_empty_list(tmp_path: Path) -> None:
    sizes: list[int] = []

    async def main() -> None:
        pool = asyncio.get_running_loop()
        async with (
            EtcdClient([server.endpoint]) as client,
            registered(client, "ns", "ctx.0"),
            Watcher(client, instance_prefix("ns")) as watcher,
        ):
            with watcher.calling(lambda change: sizes.append(len(change.snapshot.instances))):
                server.kill()
                await watcher.wait_for(lambda seen: bool(seen.stale), 60, "staleness")
                assert len(watcher.snapshot.instances) == 1
                await pool.run_in_executor(None, server.start)
                await watcher.wait_for(count(1), 60, "recovery")
                async with registered(client, "ns", "gen.0"):
                    await watcher.wait_for(count(2), 60, "a new one")

    with EtcdServer(tmp_path) as server:
        asyncio.run(main())
    assert min(sizes) == 1


def test_frozen_etcd_makes_the_view_stale_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdist.serving.watcher.PROBE_WITHIN_S", 0.2)

    async def main() -> None:
        async with (
            EtcdClient([server.endpoint]) as client,
            Watcher(client, instance_prefix("ns"), probe_every=0.1) as watcher,
        ):
            server.send(signal.SIGSTOP)
            stale = await watcher.wait_for(lambda seen: bool(seen.stale), 60, "staleness")
            assert "did not answer" in stale.stale
            server.send(signal.SIGCONT)
            await watcher.wait_for(count(0), 60, "recovery")

    with EtcdServer(tmp_path) as server:
        asyncio.run(main())


def test_watch_that_went_deaf_is_replaced(etcd_server: EtcdServer, namespace: str) -> None:
    async def main() -> None:
        async with (
            EtcdClient([etcd_server.endpoint]) as client,
            Watcher(client, instance_prefix(namespace), probe_every=0.05) as watcher,
        ):
            watcher._entries.clear()
            async with registered(client, namespace, "ctx.0"):
                await watcher.wait_for(count(1), 60, "one")
                watcher._entries.clear()
                await watcher.wait_for(count(0), 60, "the loss")
                await watcher.wait_for(count(1), 60, "the repair")

    asyncio.run(main())


def test_revoked_lease_is_noticed(etcd_server: EtcdServer, namespace: str) -> None:
    async def main() -> None:
        async with EtcdClient([etcd_server.endpoint]) as client, Registration(client, ttl=1) as registration:
            etcd_server.etcdctl("lease", "revoke", f"{registration.lease_id:x}")
            reason = await within(60, registration.lost())
            assert f"{registration.lease_id:x}" in reason
            instance = Instance.of(namespace, CONTEXT, "generate", registration.lease_id, "ctx.0")
            with pytest.raises(RegistrationError, match="gone"):
                await registration.publish(instance)

    asyncio.run(main())


def test_lease_counts_as_lost_when_etcd_stays_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with EtcdClient([server.endpoint]) as client, Registration(client, ttl=1) as registration:
            server.kill()
            assert "could not be renewed" in await within(60, registration.lost())

    with EtcdServer(tmp_path) as server:
        asyncio.run(main())


def test_lease_is_renewed_and_withdrawing_keeps_it(etcd_server: EtcdServer, namespace: str) -> None:
    async def main() -> None:
        async with EtcdClient([etcd_server.endpoint]) as client, Registration(client, ttl=3) as registration:
            instance = Instance.of(namespace, CONTEXT, "generate", registration.lease_id, "ctx.0")
            await registration.publish(instance)
            with pytest.raises(RegistrationError, match="already"):
                await registration.publish(instance)
            with pytest.raises(asyncio.TimeoutError):
                await within(4.2, registration.lost())
            assert await client.get(instance.key) is not None
            await registration.withdraw()
            assert await client.get(instance.key) is None
            assert await client.time_to_live(registration.lease_id) >= 0

    asyncio.run(main())


PROGRAM = """
import asyncio, sys
from trtdist.serving.discovery import Instance, Registration
from trtdist.serving.etcd import EtcdClient

async def main():
    async with EtcdClient([sys.argv[1]]) as client, Registration(client, ttl=2) as registration:
        await registration.publish(Instance.of(sys.argv[2], "router", "generate", registration.lease_id, "router"))
        print("registered", flush=True)
        print(await registration.lost(), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def registered_process(etcd_server: EtcdServer, namespace: str) -> AsyncIterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", PROGRAM, etcd_server.endpoint, namespace]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "registered\n"
        yield process  # type: ignore[misc]
        process.kill()


def test_killed_process_vanishes(
    etcd_server: EtcdServer, namespace: str, registered_process: subprocess.Popen[str]
) -> None:
    async def main() -> None:
        async with EtcdClient([etcd_server.endpoint]) as client, Watcher(client, instance_prefix(namespace)) as watcher:
            assert len(watcher.snapshot.of("router")) == 1
            registered_process.kill()
            await watcher.wait_for(count(0), 60, "the end of the dead")

    asyncio.run(main())


def test_process_that_stood_still_learns_that_it_lost_its_lease(
    etcd_server: EtcdServer, namespace: str, registered_process: subprocess.Popen[str]
) -> None:
    async def main() -> None:
        async with EtcdClient([etcd_server.endpoint]) as client, Watcher(client, instance_prefix(namespace)) as watcher:
            registered_process.send_signal(signal.SIGSTOP)
            await watcher.wait_for(count(0), 60, "the end of the frozen")
            registered_process.send_signal(signal.SIGCONT)

    asyncio.run(main())
    assert registered_process.stdout is not None
    assert "lost" in registered_process.stdout.readline()
    assert registered_process.wait(60) == 0


def test_no_etcd_is_told_on_entering(tmp_path: Path) -> None:
    async def main() -> None:
        async with EtcdClient(["http://127.0.0.1:9"], seconds=0.2) as client:
            with pytest.raises(EtcdUnavailableError, match="is it running"):
                async with Registration(client):
                    raise AssertionError("there is no lease")
            with pytest.raises(EtcdUnavailableError, match="is it running"):
                async with Watcher(client, "x/"):
                    raise AssertionError("there is nothing to watch")

    asyncio.run(main())
