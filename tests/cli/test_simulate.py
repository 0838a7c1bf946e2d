"""`trtdist simulate`: what it prints, and that it fails when an invariant does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.house.source import ROOT
from trtdist.cli.main import cli
from trtdist.errors import TrtdistError
from trtdist.supervisor import machine, messages

EXAMPLE = str(ROOT / "examples" / "single" / "disaggregated-tp2-2x1.reference.yaml")


def test_lives_are_summed_up() -> None:
    found = CliRunner().invoke(cli, ["simulate", "--seeds", "20"], catch_exceptions=False)
    assert found.exit_code == 0
    assert found.output.startswith("20 lives (seeds 0 to 19)")
    assert found.output.endswith("every invariant holds\n")


def test_json_counts_how_they_ended() -> None:
    found = CliRunner().invoke(cli, ["simulate", "--seeds", "20", "--seed", "7", "--json"], catch_exceptions=False)
    told = json.loads(found.output)
    assert (told["version"], told["first_seed"], told["lives"], told["broken"]) == (1, 7, 20, [])
    assert sum(told["ended"].values()) == 20


def test_a_seed_alone_shows_the_same_events_in_any_process() -> None:
    command = [sys.executable, "-m", "trtdist.cli", "simulate", EXAMPLE, "--seed", "8"]
    shown = {
        subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": salt}
        ).stdout
        for salt in ("1", "2")
    }
    (events,) = shown
    assert re.search(r"-> Conclude\(", events)
    assert "ctx.0" in events


def test_nodes_without_a_file_have_four_servers_each() -> None:
    found = CliRunner().invoke(cli, ["simulate", "--nodes", "3", "--quiet", "--seed", "0"], catch_exceptions=False)
    assert len(re.findall(r"-> Start\(step='(?:ctx|gen)", found.output)) == 12


def test_a_broken_invariant_is_an_error_that_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine._HANDLERS, messages.CameReady, lambda state, event, now: (state, []))
    found = CliRunner().invoke(cli, ["simulate", "--seeds", "20"])
    assert isinstance(found.exception, TrtdistError)
    assert found.exception.exit_code == 1
    seed = re.search(r"`--seed (\d+)`", str(found.exception))
    assert seed is not None
    again = CliRunner().invoke(cli, ["simulate", "--seed", seed[1]])
    assert str(again.exception) == f"seed {seed[1]}: READY was not said"
