"""Where a cluster keeps accounts: who may charge what, and how jobs ended that the controller has forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.cluster import PYTHON, ROOT, USER, Cluster, give_up
from tests.supervisor.runs import wait_for

EXAMPLE = ROOT / "examples" / "slurm" / "disagg-2nodes.yaml"
LOOK = "import sys; from trtdist.observe.jobs import JobWatcher; print(JobWatcher().look(sys.argv[1]).detail)"


@pytest.fixture
def accounted(own_cluster: Cluster) -> Iterator[Cluster]:
    """The mini cluster with accounting."""
    if shutil.which("slurmdbd") is None or shutil.which("mariadbd") is None:
        give_up("slurmdbd or mariadbd not found: `scripts/minicluster install --accounting` installs them")
    own_cluster.admin("accounting", "start")
    try:
        yield own_cluster
    finally:
        own_cluster.admin("accounting", "stop")
        assert own_cluster.run("sacct").returncode != 0


TOKEN = "hf_nobody_reads_this_in_the_accounts"


@pytest.mark.long
def test_accounts_show_no_secret(accounted: Cluster) -> None:
    runs = accounted.folder / "runs"
    container = f"container={{runtime: none, env: {{HF_TOKEN: {TOKEN}}}}}"
    words = ("-m", "trtdist.cli", "submit", str(EXAMPLE), "--wait", "--set", container, "--set", "slurm.mem=600")
    accounted.output("env", f"TRTDIST_RUNS={runs}", PYTHON, *words, timeout=300)
    [run] = [path for path in runs.iterdir() if not path.is_symlink()]
    job = (run / "slurm.job").read_text().strip()
    accounted.output("scancel", job)
    wait_for(lambda: "CANCELLED" in accounted.run("sacct", "-n", "-j", job, "-o", "State").stdout, 60, "its record")
    shown = accounted.output("sacct", "--jobs", job, "--parsable2", "--format=ALL")
    shown += accounted.run("sacct", "--jobs", job, "--batch-script").stdout
    shown += accounted.run("sacct", "--jobs", job, "--env-vars").stdout
    kept = [path.read_bytes().decode("latin-1") for path in (run / "secrets").iterdir()]
    assert any(TOKEN in text for text in kept) and f"{job}.0" in shown
    lines = (line for text in kept for line in text.splitlines() if len(line) >= 16 and "-----" not in line)
    assert [line for line in (TOKEN, *lines) if line in shown] == []


@pytest.mark.long
def test_accounts_and_past_jobs_are_told(accounted: Cluster) -> None:
    site = f"TRTDIST_SITE={accounted.folder}/site.yaml"
    for words in (["account", "physics"], ["user", USER, "account=physics"]):
        accounted.admin("exec", "submit", "sacctmgr", "--immediate", "add", *words)
    accounted.output("env", site, PYTHON, "-m", "trtdist.cli", "init", "--yes", ".")
    assert "account: physics" in (accounted.folder / "site.yaml").read_text()

    words = ("-m", "trtdist.cli", "submit", str(EXAMPLE), "--set", "slurm.account=alchemy")
    refused = accounted.run("env", site, f"TRTDIST_RUNS={accounted.folder}/runs", PYTHON, *words)
    told = "trtdist: slurm.account: this cluster has no account alchemy; set it to one of yours: physics"
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (2, told)
    assert not (accounted.folder / "runs").exists()

    failed = accounted.output("sbatch", "--parsable", "--account=physics", "--wrap", "exit 3")
    cancelled = accounted.output("sbatch", "--parsable", "--wrap", "sleep 100")
    wait_for(lambda: "R" in accounted.run("squeue", "-h", "-j", cancelled, "-o", "%t").stdout, 30, "the job")
    accounted.output("scancel", cancelled)
    list_them = ("squeue", "--states=all", "--noheader", f"--jobs={failed},{cancelled}")
    wait_for(lambda: not accounted.run(*list_them).stdout.strip(), 150, "the controller to forget the jobs")
    look = ("env", f"PYTHONPATH={ROOT}", PYTHON, "-c", LOOK)
    assert accounted.output(*look, failed) == f"job {failed} is over: its script failed"
    assert accounted.output(*look, cancelled) == f"job {cancelled} is over: it was cancelled (scancel)"
    assert accounted.output(*look, "999999") == "job 999999 is over: Slurm does not know it any more"
