"""Each example is valid, says what it is, and can be planned for both targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdist.planning import Target, plan
from trtdist.rendering import render_slurm
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
THROUGH_SLURM = {
    **{
        f"{name}{flavour}": shape
        for flavour in ("", ".tensorrt-llm")
        for name, shape in {
            "disagg-2nodes": ("mpi_world", 8, 2),
            "disagg-2nodes-per-server": ("per_server", 8, 2),
            "monolithic-2nodes": ("mpi_world", 8, 2),
        }.items()
    },
    "disagg-2nodes.charliecloud": ("mpi_world", 8, 2),
    "disagg-2nodes.trtllm-serve": ("per_server", 8, 2),
    "disagg-2nodes.dynamo": ("per_server", 8, 2),
    "disagg-32nodes.tensorrt-llm": ("per_server", 256, 32),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_examples_are_valid_and_can_be_planned(file: Path) -> None:
    checked = check(file, environ={})
    assert checked.diagnostics == ()
    assert checked.topology is not None
    through_slurm = plan(checked.topology, Target.SLURM)
    # On one machine and through Slurm a small deployment is the same.
    assert file.parent.name == "slurm" or plan(checked.topology, Target.LOCAL) == through_slurm
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("name", THROUGH_SLURM)
def test_deployments_through_slurm(name: str) -> None:
    topology = check(EXAMPLES / "slurm" / f"{name}.yaml", environ={}).topology
    assert topology is not None
    found = plan(topology, Target.SLURM)
    files = render_slurm(found, topology)
    assert (found.launch, found.world_size, found.allocation.nodes) == THROUGH_SLURM[name]
    assert f"#SBATCH --nodes={found.allocation.nodes}\n" in files["job.sbatch"]
    # Each server has its nodes to itself, in order.
    assert "arbitrary" not in "".join(text for path, text in files.items() if path.endswith(".srun.sh"))


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
