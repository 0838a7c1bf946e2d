"""The comparison of ways from an engine to a client, on a small share of its requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert [row["way"] for row in found["paced"]] == [row["way"] for row in found["many"]] == ["http", "http-2"]
    # The kernel draws lots which of two processes gets a connection, and each chunk came with its time.
    assert found["many"][1]["smaller_share"] > 0.2
    assert all(0 < row["delay_p50_ms"] < row["delay_p99_ms"] for row in found["paced"])
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["front-cpu.svg", "router-cpu.svg", "tokens.svg", "ttft.svg"]
