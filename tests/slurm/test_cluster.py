"""The command lines and parsers against the programs themselves: a job, its steps, signals and ends."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cluster import GPUS, NODES, PYTHON, SRUN, Cluster
from tests.supervisor.runs import wait_for
from trtdist.slurm import argv, mpi, parse, states

ROOT = Path(__file__).parents[2]
JOB = argv.JobOptions("trtdist-test", nodes=2, tasks_per_node=2, mem=200, time="5", gpus_per_node=1)
# Runs one of the builders' command lines through the runner, as the user, where Slurm's programs are the user's.
RUNNER = """\
import json, sys
from trtdist.errors import TrtdistError
from trtdist.slurm import runner
try:
    print(runner.run(json.loads(sys.argv[1]), float(sys.argv[2])), end="")
except TrtdistError as error:
    print(type(error).__name__ + ": " + str(error), file=sys.stderr)
    sys.exit(error.exit_code)
"""


def slurm(cluster: Cluster, words: list[str], patience: float = 0.0) -> subprocess.CompletedProcess[str]:
    """Run a command line of ours with the runner on the submit host."""
    where = ["env", f"PYTHONPATH={ROOT}", PYTHON, "-c", RUNNER]
    return cluster.run(*where, json.dumps(words), str(patience))


def said(cluster: Cluster, words: list[str], patience: float = 0.0) -> str:
    done = slurm(cluster, words, patience)
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(cluster: Cluster, script: str, job: argv.JobOptions = JOB) -> str:
    """Submit a batch script with our directives; returns the job's id."""
    path = cluster.folder / "job.sbatch"
    lines = [f"#SBATCH {word}" for word in argv.sbatch(job)]
    path.write_text("\n".join(["#!/bin/bash", *lines, script, ""]))
    return parse.job_id(said(cluster, ["sbatch", "--parsable", str(path)]))


def job_of(cluster: Cluster, identity: str) -> parse.Job:
    return parse.jobs(said(cluster, argv.squeue_jobs((identity,))))[0]


def test_a_job_with_steps(cluster: Cluster) -> None:
    on_nodes = argv.JobOptions(**{**vars(JOB), "extra": ("--nodelist=node[1-2]",)})
    command = ("bash", "-c", "trap 'echo told; exit 0' TERM; hostname; while :; do sleep 0.2; done")
    step = ("--job-name=ctx.0", "--nodes=2", "--ntasks=3", "--nodelist=node[1-2]", "--distribution=block")
    launch = shlex.join([*SRUN, *step, "--mpi=pmix", "--output=out.%t", *command])
    identity = submit(cluster, f"cd {cluster.folder}\n{launch}", on_nodes)
    out = [cluster.folder / f"out.{task}" for task in range(3)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in out), 60, "the tasks")
    assert [path.read_text().strip() for path in out] == ["node1", "node1", "node2"]
    job = job_of(cluster, identity)
    assert (job.state, job.nodes, job.name) == ("RUNNING", "node[1-2]", "trtdist-test")
    assert job.start is not None and job.end is not None and job.end - job.start == 300
    steps = {found.name: found for found in parse.steps(said(cluster, argv.squeue_steps(identity)))}
    assert steps["ctx.0"].nodes == "node[1-2]"
    shown = parse.fields(said(cluster, argv.scontrol_show("job", identity)))
    assert (shown["JobState"], shown["NumNodes"]) == ("RUNNING", "2")
    told = slurm(cluster, argv.scancel(steps["ctx.0"].id, signal="TERM"))
    # The job may have ended of it before Slurm is asked a second time.
    assert told.returncode == 0 or "Invalid job id" in told.stderr, told.stderr
    wait_for(lambda: job_of(cluster, identity).state == "COMPLETED", 60, "the end")
    assert [path.read_text().splitlines()[-1] for path in out] == ["told"] * 3


def test_uneven_ranks_go_where_the_host_file_says(cluster: Cluster) -> None:
    (cluster.folder / "hosts").write_text("node2\nnode1\nnode2\n")
    words = [*SRUN, "--nodes=2", "--ntasks=3", "--distribution=arbitrary", "--mpi=none"]
    words += ["bash", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME"]
    job = ["--nodes=2", "--nodelist=node[1-2]", "--ntasks-per-node=2", "--mem=100"]
    seen = cluster.output("salloc", *job, "env", f"SLURM_HOSTFILE={cluster.folder}/hosts", *words)
    assert sorted(line for line in seen.splitlines()) == ["0 node2", "1 node1", "2 node2"]


def test_a_refusal_is_told_in_slurms_words(cluster: Cluster) -> None:
    words = ["sbatch", "--parsable", "--partition=nowhere", "--wrap=true"]
    refused = slurm(cluster, words)
    assert refused.returncode == 4
    assert refused.stderr.startswith("SlurmError: sbatch: invalid partition specified: nowhere; Batch job submission")


def test_a_hopeless_wait_is_known(cluster: Cluster) -> None:
    job = argv.JobOptions("trtdist-test", nodes=1, tasks_per_node=1, mem=1, partition="short", time="60")
    identity = submit(cluster, "true", job)
    wait_for(lambda: job_of(cluster, identity).reason not in ("", "None"), 60, "a reason")
    found = job_of(cluster, identity)
    said(cluster, argv.scancel(identity))
    assert states.phase(found.state) == states.WAITING
    assert "slurm.partition" in states.hopeless(found.reason)
    ended = job_of(cluster, identity)
    assert (states.phase(ended.state), states.ended_because(ended)) == (states.ENDED, "it was cancelled (scancel)")


def test_what_the_cluster_has(cluster: Cluster) -> None:
    found = {partition.name: partition for partition in parse.partitions(said(cluster, argv.sinfo()))}
    assert (found["batch"].nodes, found["batch"].gpus, found["batch"].limit) == (NODES, GPUS, None)
    assert found["short"].limit == 600.0
    assert mpi.choose(parse.mpi_types(said(cluster, argv.srun_mpi_list()))) == "pmix"
    settings = parse.config(said(cluster, argv.scontrol_show("config")))
    assert settings["KillWait"] == "5 sec"
    assert said(cluster, argv.scontrol_hostnames("b2,a[1-2]")).split() == ["b2", "a1", "a2"]


def test_a_controller_that_is_down_is_asked_again(own_cluster: Cluster) -> None:
    own_cluster.admin("controller", "stop")
    refused = slurm(own_cluster, argv.sinfo())
    assert (refused.returncode, refused.stderr.split(":")[0]) == (4, "SlurmDownError")
    patient = ["env", f"PYTHONPATH={ROOT}", PYTHON, "-c", RUNNER, json.dumps(argv.sinfo()), "60"]
    with subprocess.Popen(own_cluster.argv(*patient), stdout=subprocess.PIPE, text=True) as asking:
        with pytest.raises(subprocess.TimeoutExpired):
            asking.wait(2)
        own_cluster.admin("controller", "start")
        assert "batch|up" in asking.communicate(timeout=60)[0]
