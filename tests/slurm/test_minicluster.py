"""The mini cluster is a real cluster: separate nodes, GPUs, PMIx; and it leaves the machine as it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster import MINICLUSTER, NODES, PYTHON, Cluster, machine
from tests.supervisor.runs import wait_for


def test_each_node_has_what_is_its_own(cluster: Cluster) -> None:
    look = "echo $(hostname) $(cat /proc/sys/kernel/hostname) $(readlink /proc/self/ns/pid) $(id -un)"
    seen = cluster.output("srun", f"-N{NODES}", "bash", "-c", look)
    lines = [line.split() for line in seen.splitlines()]
    assert sorted(line[0] for line in lines) == [f"node{number}" for number in range(1, NODES + 1)]
    assert len({line[2] for line in lines} | {os.readlink("/proc/self/ns/pid")}) == NODES + 1
    assert all(line[0] == line[1] and line[3] == "trtdist-test" for line in lines)


def test_shared_memory_is_not_shared_between_nodes(cluster: Cluster) -> None:
    put = f"touch /dev/shm/{cluster.folder.name} /tmp/{cluster.folder.name}"
    cluster.output("srun", "-N1", "-w", "node1", "bash", "-c", put)
    look = f"ls /dev/shm/{cluster.folder.name} /tmp/{cluster.folder.name} 2>/dev/null | wc -l"
    counts = [cluster.output("bash", "-c", look, host=host) for host in ("node1", "node2", "submit")]
    cluster.output("rm", f"/dev/shm/{cluster.folder.name}", f"/tmp/{cluster.folder.name}", host="node1")
    assert counts == ["2", "0", "0"]


def test_the_shared_folder_is_seen_by_all(cluster: Cluster) -> None:
    cluster.output("srun", "-N2", "bash", "-c", "echo $SLURM_PROCID >from-$SLURM_PROCID; cat from-$SLURM_PROCID")
    assert sorted(path.read_text().strip() for path in cluster.folder.glob("from-*")) == ["0", "1"]


@pytest.mark.long
def test_files_of_a_folder_can_be_late(cluster: Cluster) -> None:
    folder = cluster.folder / "late"
    folder.mkdir(mode=0o700)
    cluster.own(folder)
    cluster.admin("late", "--seconds", "0.7", str(folder))
    write = (
        "echo one >late/part; mkdir late/below; mv late/part late/below/file; ln -s below late/link; cat late/link/file"
    )
    assert cluster.output("bash", "-c", write, host="node1") == "one"
    assert cluster.run("ls", "late/link", host="node2").returncode != 0
    there = "grep -q {0} late/link/file 2>/dev/null || ((SECONDS > 20))"
    until = f"SECONDS=0; until {there}; do sleep 0.1; done; cat late/link/file"
    assert cluster.output("bash", "-c", until.format("one"), host="node2") == "one"
    more = "exec 3<late/link/file; echo two >>late/link/file; " + until.format("three")
    # Each writes to it in turn, and it stays the same file.
    with subprocess.Popen(
        cluster.argv("bash", "-c", more + "; cat <&3", host="node1"), cwd=cluster.folder, stdout=subprocess.PIPE
    ) as one:
        assert cluster.output("bash", "-c", until.format("two"), host="submit") == "one\ntwo"
        cluster.output("bash", "-c", "echo three >>late/below/file", host="submit")
        assert one.communicate(timeout=30)[0].decode().split() == ["one", "two", "three"] * 2
    cluster.output("rm", "-r", "late/below", host="node2")
    cluster.output("bash", "-c", "until [ ! -e late/below ]; do sleep 0.1; done", host="node1")
    wait_for(lambda: [path.name for path in folder.iterdir()] == ["link"], 60, "the removal")
    cluster.admin("late", "--end", str(folder))
    cluster.output("touch", "late/prompt", host="node1")
    assert (folder / "prompt").stat().st_uid == folder.stat().st_uid


def test_gpus_are_accounted_for(cluster: Cluster) -> None:
    show = ["bash", "-c", "echo $CUDA_VISIBLE_DEVICES"]
    assert cluster.output("srun", "-N1", "--gpus-per-node=3", *show).count(",") == 2
    refused = cluster.run("srun", "-N1", "--gpus-per-node=99", "--immediate=1", *show)
    assert "not available" in refused.stderr


def test_pmix_reaches_tasks_on_several_nodes(cluster: Cluster) -> None:
    seen = cluster.output("srun", "-N2", "-n4", "--mpi=pmix", "bash", "-c", "echo $PMIX_RANK $PMIX_NAMESPACE")
    ranks = sorted(line.split() for line in seen.splitlines())
    assert [rank for rank, _ in ranks] == ["0", "1", "2", "3"]
    assert len({space for _, space in ranks}) == 1


def test_the_submit_host_reaches_nodes_through_slurm_alone(cluster: Cluster) -> None:
    serve = "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1], flush=True); s.accept()"
    with subprocess.Popen(cluster.argv(PYTHON, "-c", serve, host="node1"), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        connect = f"import socket; socket.create_connection(('node1', {port}), 5)"
        refused = cluster.run(PYTHON, "-c", connect)
        reached = cluster.run(PYTHON, "-c", connect, host="node2")
        server.wait(60)
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr
    assert reached.returncode == 0, reached.stderr


def test_a_second_cluster_is_refused(cluster: Cluster) -> None:
    argv = [PYTHON, "scripts/minicluster", "up"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert "already up" in done.stderr


def test_status_shows_each_node_once(cluster: Cluster) -> None:
    shown = cluster.admin("status").splitlines()
    for number in range(1, NODES + 1):
        assert sum(line.startswith(f"node{number} ") for line in shown) == 1
    assert "controller: running" in shown


def test_nobody_need_read_what_it_prints(cluster: Cluster) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([MINICLUSTER, "status"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_needs_root(cluster: Cluster) -> None:
    done = cluster.run(PYTHON, str(Path(__file__).parents[2] / "scripts" / "minicluster"), "status")
    assert done.returncode == 4
    assert done.stderr.startswith("minicluster: needs root")


def test_a_node_that_fails_is_seen_down_and_comes_back(own_cluster: Cluster) -> None:
    before = {**machine(), "programs": []}
    own_cluster.admin("fail", "node4")
    assert "node4: down" in own_cluster.admin("status")
    own_cluster.admin("recover", "node4")
    assert "node4: running" in own_cluster.admin("status")
    own_cluster.admin("fail", "--network", "node4")
    own_cluster.admin("recover", "node4")
    assert own_cluster.output("srun", "-N1", "-w", "node4", "hostname") == "node4"
    assert {**machine(), "programs": []} == before


REMEMBER = """\
import os, sys
from pathlib import Path
from mini import machine
machine.STATE = Path(sys.argv[1])
one, other = machine.Record(), machine.Record()
one.add("one", os.getpid())
other.add("other", os.getpid())
assert list(machine.Record().processes) == ["one", "other"]
"""


def test_what_two_commands_start_at_the_same_time_is_remembered(tmp_path: Path) -> None:
    """`down` ends only what it knows of."""
    environ = {**os.environ, "PYTHONPATH": str(MINICLUSTER.parent)}
    done = subprocess.run(
        [PYTHON, "-c", REMEMBER, str(tmp_path)], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
