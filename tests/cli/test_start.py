"""What a program imports before it does its work: the time that it takes to start is mostly that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"

PLAN = f"""\
from click.testing import CliRunner
from trtdist.cli.plan import command
assert CliRunner().invoke(command, [{str(QUICKSTART)!r}]).exit_code == 0"""
# Packages, and modules of ours with many classes; asyncio counts where nothing is awaited.
UNUSED = [
    ("import trtdist.cli.main", {"pydantic", "yaml", "jinja2", "rich", "nats", "asyncio", "trtdist.topology"}),
    ("import trtdist.cli.status", {"pydantic", "yaml", "jinja2", "rich", "nats", "asyncio", "trtdist.topology"}),
    ("import trtdist.cli.client", {"pydantic", "yaml", "jinja2", "rich", "trtdist.supervisor.messages"}),
    (PLAN, {"jinja2", "rich", "nats", "trtdist.rendering", "trtdist.supervisor", "trtdist.observe"}),
    ("import trtdist.cli.bringup", {"rich", "nats", "asyncio", "trtdist.supervisor.messages", "trtdist.observe"}),
    ("import trtdist.supervisor.__main__", {"nats", "trtdist.slurm"}),
]


@pytest.mark.parametrize(("program", "unused"), UNUSED, ids=["trtdist", "status", "client", "plan", "up", "supervisor"])
def test_a_program_starts_without(program: str, unused: set[str]) -> None:
    code = f"{program}\nimport sys\nprint(*sys.modules)"
    environ = {**os.environ, "TRTDIST_SITE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert unused.isdisjoint(done.stdout.split())
