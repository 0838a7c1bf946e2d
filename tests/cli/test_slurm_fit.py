"""What is refused before Slurm is asked for nodes, and with which words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trtdist.cli.slurm_fit import few_cpus, misfit, no_successor, too_small
from trtdist.slurm.argv import JobOptions
from trtdist.slurm.parse import Partition

BATCH = Partition("batch", True, None, 4, 32, 16000, 8, "h100")
SHORT = Partition("short", True, 600.0, 2, 16, 8000, 0, "")
# A partition with two kinds of nodes.
BIG = Partition("mixed", True, 3600.0, 2, 64, 64000, 8, "h100")
SMALL = Partition("mixed", True, 3600.0, 6, 32, 16000, 4, "a100")
ROWS = [BATCH, SHORT, BIG, SMALL]
JOB = JobOptions("x", 2, 4, 1, gpus_per_node=4)


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        replace(JOB, partition="batch"),
        replace(JOB, partition="short,batch"),
        replace(JOB, partition="short", gpus_per_node=0, time="10"),
        replace(JOB, partition="mixed", nodes=8),
        replace(JOB, partition="mixed", gpus_per_node=8, time="1:00:00"),
        replace(JOB, partition="short", gpu_directive="none"),
        replace(JOB, partition="batch", time="UNLIMITED", mem=0),
    ],
)
def test_what_a_partition_can_take_is_taken(job: JobOptions) -> None:
    assert misfit(job, ROWS) == ""


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (replace(JOB, partition="nope"), "no partition nope; there are batch, short, mixed"),
        (replace(JOB, partition="batch", nodes=5), "partition batch has 4 nodes and 5 are needed"),
        (replace(JOB, partition="short"), "partition short has nodes with at most 0 GPUs"),
        (replace(JOB, partition="mixed", nodes=3, gpus_per_node=8), "has only 2 nodes with 8 GPUs, and 3 nodes with 8"),
        (replace(JOB, partition="batch", gpus_per_node=16), "at most 8 GPUs, and 2 nodes with 16 GPUs are needed"),
        (replace(JOB, partition="mixed", time="1-0"), "gives at most 1:00:00 and slurm.time asks for 24:00:00"),
        (replace(JOB, partition="batch", cpus_per_task=9), "at most 32 CPUs, and 2 nodes with 36 CPUs"),
        (replace(JOB, partition="batch", mem=20000), "at most 16000 MiB of memory"),
        (replace(JOB, nodes=100), "partition batch has 4 nodes and 100 are needed"),
    ],
)
def test_what_no_partition_can_take_is_named(job: JobOptions, words: str) -> None:
    assert words in misfit(job, ROWS)


def test_a_partition_that_is_down_is_named() -> None:
    assert "not up" in misfit(replace(JOB, partition="batch"), [replace(BATCH, up=False)])


@pytest.mark.parametrize(
    ("nodes", "gpus", "words"),
    [
        (1, 4, ["it has 1 node and 2 are needed (--nodes=2)"]),
        (2, 1, ["it has 1 GPU per node and 4 are needed"]),
        (1, 0, ["it has 1 node and 2 are needed (--nodes=2)", "it has 0 GPUs per node and 4 are needed"]),
        (3, 8, []),
        (2, None, []),
    ],
)
def test_what_an_allocation_lacks_is_named(nodes: int, gpus: int | None, words: list[str]) -> None:
    assert too_small(JOB, nodes, gpus) == words


def test_the_node_with_the_fewest_cpus_counts() -> None:
    options = "(--ntasks-per-node=4 --cpus-per-task=1)"
    assert few_cpus(JOB, [4, 3]) == [f"it has 3 CPUs on a node and 4 are needed {options}"]
    assert few_cpus(JOB, [8, 4]) == few_cpus(JOB, []) == []


@pytest.mark.parametrize(
    ("job", "submits", "words"),
    [
        (replace(JOB, gpus_per_node=8), "", ""),
        (replace(JOB, nodes=3), "", ""),
        (
            replace(JOB, nodes=3, gpus_per_node=8),
            "",
            "two jobs of 3 nodes are there at the same time, and partition b",
        ),
        (replace(JOB, nodes=3, gpus_per_node=0, cpus_per_task=5), "", "partition batch has 4 nodes"),
        (replace(JOB, nodes=3, exclusive=True), "", "lower the sizes"),
        (replace(JOB, nodes=3, gpus_per_node=8, gpu_directive="none"), "", ""),
        (JOB, "login[1-2]", "takes jobs from login[1-2] alone (AllocNodes)"),
    ],
)
def test_a_job_that_can_have_none_beside_it_is_named(job: JobOptions, submits: str, words: str) -> None:
    found = no_successor(job, [BATCH], submits, "batch")
    assert (words in found) if words else found == ""
