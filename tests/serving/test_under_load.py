"""Measuring a run through its own NATS server."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.serving.deployment import deployment, scripted_plan
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.bench.load import Load
from trtdist.bench.record import Slo
from trtdist.bench.result import Point
from trtdist.bench.session import Step, measure
from trtdist.bench.targets import run_target
from trtdist.bench.workload import Request
from trtdist.errors import RunFailedError


@pytest.mark.parametrize(("asked", "says"), [(2, ""), (3, "2 tokens came, 3 were asked for")])
def test_a_run_is_measured_and_missing_tokens_are_noticed(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer, asked: int, says: str
) -> None:
    async def main() -> Point:
        # The scripted engine answers words that it does not know with two tokens.
        async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(1, 1)) as deployed:
            await deployed.all()
            requests = (Request(number, "go on", 2, asked) for number in itertools.count())
            step = Step("concurrency", 4, Load(4, count=20, warm_up=4), requests)
            async with run_target(deployed.config, "router", 60.0) as target:
                return await measure(target, step, Slo(), 1, lambda run: None)

    if says:
        with pytest.raises(RunFailedError, match=f"24 of 24 answers cannot be trusted; 24 times: {says}"):
            asyncio.run(main())
        return
    figures = asyncio.run(main()).figures
    assert (figures.requests, figures.output_tokens, figures.prompt_tokens) == (20, 40, 140)
