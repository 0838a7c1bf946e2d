"""Each example is valid, says what it is, and can be planned for both targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdist.planning import Target, plan
from trtdist.topology import check

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
# Deployments on one machine: servers and world size.
SINGLE = {
    "monolithic-1gpu": (["srv.0"], 1),
    "monolithic-4gpu": (["srv.0"], 4),
    "disaggregated-1x1": (["ctx.0", "gen.0"], 2),
    "disaggregated-tp2-2x1": (["ctx.0", "gen.0", "gen.1"], 4),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_examples_are_valid_and_can_be_planned(file: Path) -> None:
    checked = check(file, environ={})
    assert checked.diagnostics == ()
    assert checked.topology is not None
    # On one machine and through Slurm a small deployment is the same.
    assert plan(checked.topology, Target.LOCAL) == plan(checked.topology, Target.SLURM)
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("engine", ["reference", "tensorrt-llm"])
def test_deployments_on_one_machine(name: str, engine: str) -> None:
    topology = check(EXAMPLES / "single" / f"{name}.{engine}.yaml", environ={}).topology
    assert topology is not None
    found = plan(topology, Target.LOCAL)
    assert ([server.name for server in found.servers], found.world_size) == SINGLE[name]
    assert found.engine == engine.replace("-", "_")
    if engine == "tensorrt-llm":
        assert found.model == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
