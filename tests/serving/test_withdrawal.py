"""Who is registered in a real etcd, and servers that died are taken off it by whoever saw it."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping

import pytest

from tests.serving.servers import EtcdServer
from trtdist.services.http import ask
from trtdist.services.registered import registered
from trtdist.services.withdrawal import withdraw
from trtdist.serving.etcd import EtcdClient
from trtdist.serving.instance import Instance
from trtdist.serving.slug import CONTEXT, GENERATION


@pytest.mark.parametrize("others", ["", "http://127.0.0.1:9,"])
def test_the_leases_of_the_named_are_revoked_and_no_others(etcd_server: EtcdServer, others: str) -> None:
    env = {"ETCD_ENDPOINTS": f"{others}{etcd_server.endpoint}", "TRTDIST_RUN_ID": "withdrawal-a"}

    async def main() -> None:
        async with EtcdClient((etcd_server.endpoint,)) as client:
            named = [("withdrawal-a", CONTEXT, "ctx.0"), ("withdrawal-a", GENERATION, "gen.0")]
            named += [("withdrawal-b", CONTEXT, "ctx.0")]
            keys = []
            for namespace, component, server in named:
                lease = await client.grant(60)
                instance = Instance.of(namespace, component, "generate", lease, server, "reference")
                assert await client.create(instance.key, json.dumps(instance.to_dict()).encode(), lease)
                keys.append(instance.key)
            assert await registered(env) == {"ctx.0", "gen.0"}
            assert await withdraw(env, ("ctx.0", "ctx.7"))
            assert await registered(env) == {"gen.0"}
            assert [await client.get(key) is not None for key in keys] == [False, True, True]
            assert await withdraw(env, ("ctx.0",))
            for key in keys:
                await client.delete(key)

    asyncio.run(main())


def test_a_lease_that_goes_meanwhile_keeps_no_other(etcd_server: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"ETCD_ENDPOINTS": etcd_server.endpoint, "TRTDIST_RUN_ID": "withdrawal-c"}

    async def twice(url: str, method: str, path: str, tls: ssl.SSLContext | None, asked: Mapping[str, str]) -> object:
        if path == "/v3/lease/revoke":
            await ask(url, method, path, tls, asked)
        return await ask(url, method, path, tls, asked)

    async def main() -> None:
        async with EtcdClient((etcd_server.endpoint,)) as client:
            keys = []
            for server in ("gen.0", "gen.1"):
                lease = await client.grant(60)
                instance = Instance.of("withdrawal-c", GENERATION, "generate", lease, server, "reference")
                assert await client.create(instance.key, json.dumps(instance.to_dict()).encode(), lease)
                keys.append(instance.key)
            monkeypatch.setattr("trtdist.services.withdrawal.ask", twice)
            assert await withdraw(env, ("gen.0", "gen.1"))
            assert [await client.get(key) for key in keys] == [None, None]

    asyncio.run(main())


def test_an_etcd_that_is_away_is_not_waited_for_long() -> None:
    began = time.monotonic()
    env = {"ETCD_ENDPOINTS": "http://127.0.0.1:9", "TRTDIST_RUN_ID": "withdrawal-a"}
    assert not asyncio.run(withdraw(env, ("ctx.0",)))
    assert asyncio.run(registered(env)) is None
    assert time.monotonic() - began < 60
