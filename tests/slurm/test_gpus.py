"""Which GPUs each server of a deployment gets, where Slurm keeps the books and another job holds some of a node."""

from __future__ import annotations

from tests.cluster import PYTHON, Cluster
from tests.supervisor.runs import wait_for
from trtdist.slurm import parse

TOPOLOGY = """\
name: gpus
model: org/tiny
engine: tensorrt_llm
launch: per_server
context_servers: {num_instances: 2, tensor_parallel_size: 2}
generation_servers: {num_instances: 2, tensor_parallel_size: 2}
slurm: {gpus_per_node: 4, mem: 500}
"""
# In the place of the program that wraps each rank.
WITNESS = """\
import os, sys
name = sys.argv[sys.argv.index("--name") + 1]
print(name, os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
"""
HOLD = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES >>held; exec sleep 1000"


def test_servers_share_what_another_job_has_left(cluster: Cluster) -> None:
    (cluster.folder / "cluster.yaml").write_text(TOPOLOGY)
    cluster.output(PYTHON, "-m", "trtdist.cli", "render", "cluster.yaml", "out")
    (cluster.folder / "out" / "site" / "trtdist" / "supervisor" / "shim.py").write_text(WITNESS)
    directives = (cluster.folder / "out" / "job.sbatch").read_text().splitlines()
    assert "#SBATCH --gpus-per-node=4" in directives

    other = ("--parsable", "--nodes=2", "--gpus-per-node=3", "--mem=100", "--output=/dev/null")
    hold = cluster.output("sbatch", *other, "--wrap", f"srun --mem=0 bash -c '{HOLD}'")
    job = parse.job_id(hold)
    try:
        held = cluster.folder / "held"
        wait_for(lambda: held.exists() and len(held.read_text().splitlines()) == 2, 120, "the other job")
        taken = dict(line.split() for line in held.read_text().splitlines())
        steps = (
            "bash scripts/head.srun.sh resolve.sh && for step in scripts/0[3-6]-*.srun.sh; do bash $step || exit; done"
        )
        ours = [word.removeprefix("#SBATCH ") for word in directives if word.startswith("#SBATCH --")]
        kept = [word for word in ours if not word.startswith(("--open-mode", "--no-requeue", "--signal"))]
        where = f"--nodelist={','.join(taken)}"
        seen = cluster.output("salloc", *kept, where, "bash", "-c", f"cd out && {steps}", timeout=300)
    finally:
        cluster.run("scancel", job)

    gpus: dict[str, tuple[str, str]] = {}
    for name, node, devices in (line.split() for line in seen.splitlines()):
        gpus[name] = (node, devices)
    assert sorted(gpus) == sorted(
        f"{server}.{rank}" for server in ("ctx.0", "ctx.1", "gen.0", "gen.1") for rank in (0, 1)
    )
    for node, others in taken.items():
        given = [devices for name, (where, devices) in gpus.items() if where == node and name.endswith(".0")]
        assert given == [devices for name, (where, devices) in gpus.items() if where == node and name.endswith(".1")]
        flat = ",".join(given).split(",")
        assert len(given) == 2 and len(set(flat)) == 4 and not set(flat) & set(others.split(","))
