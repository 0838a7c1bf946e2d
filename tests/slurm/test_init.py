"""What `trtdist init` writes on a real cluster is accepted by it."""

from __future__ import annotations

import pytest
import yaml

from tests.cluster import GPUS, PYTHON, Cluster


@pytest.mark.long
def test_init_on_the_mini_cluster(cluster: Cluster) -> None:
    site = f"TRTDIST_SITE={cluster.folder}/site.yaml"
    trtdist = ("env", site, PYTHON, "-m", "trtdist.cli")
    out = cluster.output(*trtdist, "init", "--yes")
    assert f"{cluster.folder}/site.yaml is written" in out and "trtdist submit cluster.yaml --wait" in out
    profile = yaml.safe_load((cluster.folder / "site.yaml").read_text())
    assert profile["slurm"]["gpus_per_node"] == GPUS
    assert profile["slurm"]["gpu_directive"] == "gpus-per-node"
    assert "pmix" in (cluster.folder / "site.yaml").read_text()
    script = cluster.output(*trtdist, "submit", "cluster.yaml", "--dry-run")
    (cluster.folder / "job.sbatch").write_text(script + "\n")
    cluster.output("sbatch", "--test-only", "job.sbatch")
    again = cluster.output(*trtdist, "init", "--yes")
    assert again.count("is there already and is kept\n") == 2
