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
HELP = """\
from click.testing import CliRunner
from trtdist.cli.main import cli
assert CliRunner().invoke(cli, ["--help"]).exit_code == 0"""
PACKAGES = {"pydantic", "jinja2", "rich", "nats", "yaml", "asyncio", "numpy"}
# What each program must not import: packages, and modules of ours that take long.
UNUSED = {
    "help": (HELP, PACKAGES),
    "status": ("import trtdist.cli.status", PACKAGES | {"trtdist.topology", "trtdist.supervisor.messages"}),
    "logs": ("import trtdist.cli.logs", PACKAGES | {"trtdist.topology", "trtdist.supervisor.messages"}),
    "client": ("import trtdist.cli.client", (PACKAGES - {"asyncio"}) | {"trtdist.supervisor.messages"}),
    "plan": (PLAN, {"jinja2", "rich", "nats", "trtdist.rendering", "trtdist.supervisor", "trtdist.observe"}),
    "up": ("import trtdist.cli.bringup", {"rich", "nats", "trtdist.supervisor.messages", "trtdist.observe"}),
    "supervisor": ("import trtdist.supervisor.__main__", (PACKAGES - {"asyncio"}) | {"trtdist.slurm"}),
}


@pytest.mark.parametrize("name", UNUSED)
def test_a_program_starts_without_what_it_does_not_use(name: str) -> None:
    program, unused = UNUSED[name]
    code = f"{program}\nimport sys\nprint(*sys.modules)"
    environ = {**os.environ, "TRTDIST_SITE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert unused.isdisjoint(done.stdout.split())
