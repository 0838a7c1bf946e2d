"""A model is copied to the disks of the nodes of a job."""

from __future__ import annotations

from tests.cluster import PYTHON, Cluster
from tests.engines.models import make_model


def test_each_node_of_a_job_gets_a_copy(cluster: Cluster) -> None:
    source = make_model(cluster.folder / "tiny")
    cluster.own(source)
    there = f"/tmp/{cluster.folder.name}"
    salloc = ("salloc", "--quiet", "--nodes=2", "--mem=200")
    stage = (PYTHON, "-m", "trtdist.cli", "model", "stage", str(source), "--node-local", "--to", there)
    again = f'"$@" && "$@" && srun --mem=0 bash -c "cat {there}/tiny/config.json; echo; ls {there}; rm -r {there}"'
    lines = cluster.output(*salloc, "bash", "-c", again, "bash", *stage).splitlines()
    placed = [line for line in lines if line.endswith(f": {there}/tiny")]
    assert len(placed) == 4 and len(set(placed)) == 2
    assert lines.count("tiny") == 2 and sum("LlamaForCausalLM" in line for line in lines) == 2
