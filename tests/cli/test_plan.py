"""`trtdist plan` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trtdist.cli.plan import command
from trtdist.plan import from_json
from trtdist.planning import PlanError

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"

LARGE = """\
name: large
model: m
context_servers: {{num_instances: {servers}, tensor_parallel_size: 8}}
generation_servers: {{num_instances: {servers}, tensor_parallel_size: {tp}}}
launch: {launch}
"""


@pytest.fixture(autouse=True)
def no_site_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRTDIST_SITE", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def plan(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_map_of_the_quickstart() -> None:
    found = plan(QUICKSTART)
    assert found.exit_code == 0
    assert (
        found.output
        == """\
quickstart: reference/tiny
  engine reference, runtime trtdist, router round_robin
  mpi_world: world size 2, one MPI world

servers              shape  ranks each  world ranks  memory of each GPU
  context: ctx.0     TP1    1           0            90%
  generation: gen.0  TP1    1           1            90%

node  GPU 0   GPU 1   world ranks  memory
  0   ctx.0*  gen.0*  0-1          90%
  * leads its server

steps         what                    tasks  nodes  stopped
  01-nats     head service            1      0      third
  02-etcd     head service            1      0      third
  03-workers  ctx.0, gen.0            2      0      second
  04-router   chooses servers         1      0      first
  05-front    speaks HTTP             1      0      first
  06-canary   proves that all answer  1      0      first

allocation
  1 node, each with no GPU, 2 tasks of 1 CPU, all memory

why
  each rank has a GPU of its own
  2 tasks per node, since 03-workers has as many on one node
  engine reference touches no GPU: the map shows where ranks would be, and no GPU is asked for
"""
    )


def test_json_is_the_plan() -> None:
    found = plan(QUICKSTART, "--json")
    assert found.exit_code == 0
    assert from_json(found.output).name == "quickstart"
    assert json.loads(found.output)["world_size"] == 2


@pytest.mark.parametrize(
    ("servers", "tp", "launch", "lines", "nodes"),
    [(12, 16, "mpi_world", 63, 36), (12, 8, "per_server", 66, 24), (500, 4, "per_server", 46, 750)],
)
def test_large_deployments_stay_readable(
    tmp_path: Path, servers: int, tp: int, launch: str, lines: int, nodes: int
) -> None:
    file = tmp_path / "large.yaml"
    file.write_text(LARGE.format(servers=servers, tp=tp, launch=launch))
    found = plan(file)
    assert found.exit_code == 0
    assert f"\n  {nodes} nodes, each with 8 GPUs" in found.output
    assert len(found.output.splitlines()) <= lines
    assert max(map(len, found.output.splitlines())) <= 120
    assert found.output.isascii()


def test_shared_gpus_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "shared.yaml"
    file.write_text("name: s\nmodel: m\nservers: {num_instances: 5, gpu_fraction: 0.25}\nslurm: {gpus_per_node: 2}\n")
    found = plan(file, "--local")
    assert "srv.0*+srv.2*+srv.4*  srv.1*+srv.3*  0-4          75% 50%" in found.output
    assert "they are shared, up to 75% of the memory of one" in found.output


def test_overrides_and_targets(tmp_path: Path) -> None:
    twelve = ["--set", "generation_servers.num_instances=11"]
    assert "\n  2 nodes" in plan(QUICKSTART, *twelve).output
    refused = plan(QUICKSTART, *twelve, "--local")
    assert isinstance(refused.exception, PlanError)
    assert "--set generation_servers.num_instances=7" in str(refused.exception)


def test_more_nodes_than_are_needed(tmp_path: Path) -> None:
    assert "  3 nodes without work" in plan(QUICKSTART, "--set", "slurm.nodes=4").output
