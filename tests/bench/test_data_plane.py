"""The comparison of ways from an engine to a client, on a small share of its requests."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import data_plane
from benchmarks.plane.services import Services, services
from trtdist.rundir import RunDir

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "data_plane.py"


@pytest.mark.long
def test_the_ways_can_be_compared_and_the_router_touches_no_token(tmp_path: Path) -> None:
    ways = ("--ways", "nats,nats-direct,relay,raw-nats,raw-nats-clear,http,http-2,bare-http")
    written = ("--json", str(tmp_path / "found.json"), "--plots", str(tmp_path / "plots"))
    command = [sys.executable, str(PROGRAM), "--rounds", "1", "--share", "0.25", *written, *ways]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["loads"]) == 8 * 3
    cpu = {(row["way"], row["output_tokens"]): row.get("router_us_per_request", 0.0) for row in found["lengths"]}
    # 128 times the tokens: a relay's work grows with them, that of a router which only decides does not.
    assert cpu["relay", 2048] > 3 * cpu["relay", 16]
    assert cpu["nats", 2048] < 2 * cpu["nats", 16]
    assert [row["way"] for row in found["paced"]] == ["http", "http-2"]
    # As many streams in sum, and as many for each process.
    many = {(row["way"], row["streams"]): row for row in found["many"]}
    assert sorted(many) == [("http", 128), ("http", 256), ("http-2", 256)]
    assert "2 processes over one, 256 streams in sum" in done.stdout
    assert "2 processes over one, 128 streams for each process" in done.stdout
    # The kernel draws lots which of two processes gets a connection, and each chunk came with its time.
    assert many["http-2", 256]["smaller_share"] > 0.2
    assert all(0 < row["delay_p50_ms"] < row["delay_p99_ms"] for row in found["paced"])
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["front-cpu.svg", "router-cpu.svg", "tokens.svg", "ttft.svg"]


def test_a_way_that_asks_nobody_has_nobody_started(tmp_path: Path) -> None:
    nothing: Any = None
    with contextlib.ExitStack() as stack:
        at = Services(RunDir(tmp_path / "plane-services"), {}, nothing)
        assert [way.name for way in data_plane.ways(stack, at, ["bare-http"], tmp_path)] == ["bare-http"]
        assert [path.name for path in tmp_path.iterdir()] == ["bare.log"]


@pytest.mark.long
def test_a_raw_publisher_has_no_other_server_and_no_worker_started(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(services(tmp_path))
        (way,) = data_plane.ways(stack, at, ["raw-nats"], tmp_path)
        assert sorted(way.programs) == ["nats", "worker"]
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["etcd.log", "nats.log", "raw-nats.log"]
    assert not (tmp_path / "clear").exists()


def test_a_way_that_is_not_there_is_told() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="there is no way 'htpp', there are nats, "):
        data_plane._names("http,htpp")
