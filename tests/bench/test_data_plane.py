"""The comparison of ways from an engine to a client, on a small share of its requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "data_plane.py"


@pytest.mark.long
def test_the_ways_can_be_compared_and_the_router_touches_no_token() -> None:
    only = ("--only", "nats,nats-direct,relay,raw-nats,bare-http")
    command = [sys.executable, str(PROGRAM), "--rounds", "1", "--share", "0.25", "--json", *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found["loads"]) == 5 * 3
    cpu = {(row["way"], row["output_tokens"]): row.get("router_us_per_request", 0.0) for row in found["lengths"]}
    # 128 times the tokens: a relay's work grows with them, that of a router which only decides does not.
    assert cpu["relay", 2048] > 3 * cpu["relay", 16]
    assert cpu["nats", 2048] < 2 * cpu["nats", 16]
