"""What is made of what nodes and machines answer: each fault is one finding, with node, remedy and exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.house.source import ROOT
from trtdist.observe.check_hello import check_hello
from trtdist.observe.check_here import HereFacts, ImageFacts, check_here, check_mpi_types
from trtdist.observe.check_nodes import check_nodes
from trtdist.observe.check_services import check_services, lossy_etcd
from trtdist.observe.findings import CODES, Finding, exit_code, ordered, split, table, to_json
from trtdist.observe.node_facts import HERE, HelloFacts, NodeFacts, Wanted, facts_of

IMAGE = "/images/trtllm.sqsh"
WANTED = Wanted(
    nodes=("gpu1", "gpu2"), python="/shared/bin/python", runtime="enroot", program="enroot", image=IMAGE,
    image_size=10 << 30, image_architecture="x86_64", gpus=2, planned=0.5, runs="/shared/runs",
)  # fmt: skip
WELL = NodeFacts(
    node="gpu1",
    python=(3, 11),
    machine="x86_64",
    address="10.0.0.1",
    interface="ib0",
    unreached={},
    image={"problem": "", "format": "squashfs", "size": 10 << 30, "architecture": ""},
    programs={"enroot": "/usr/bin/enroot 4.1.2"},
    services={"etcd": {"problem": "", "path": "/usr/bin/etcd", "version": "3.5.18"}},
    hooks=("50-slurm-pmi.sh",),
    temporary={"path": "/tmp", "free": 1 << 30},
    unpacked={"path": "/tmp/enroot", "free": 100 << 30},
    shm={"free": 64 << 30, "left": {}},
    limits={"memlock": -1, "stack": -1, "nofile": 1 << 20},
    gpus={"problem": "", "lines": ["0, 4, 81559", "1, 4, 81559"]},
    met=True,
)


def found(gpu2: NodeFacts | None, gpu1: NodeFacts = WELL, wanted: Wanted = WANTED) -> list[Finding]:
    """What is not well about two nodes."""
    facts = {"gpu1": gpu1, **({"gpu2": replace(gpu2, node="gpu2")} if gpu2 is not None else {})}
    return [each for each in check_nodes(wanted, facts, "srun: error: gpu2 is down") if each.level != "ok"]


def test_nodes_that_are_well_have_nothing_wrong() -> None:
    assert found(WELL) == []


@pytest.mark.parametrize(
    ("change", "level", "code", "words"),
    [
        ({"run_python": False}, "error", "python", "has no /shared/bin/python, which this run is started with"),
        ({"python": (3, 8)}, "error", "python", "has Python 3.8"),
        ({"programs": {"enroot": ""}}, "error", "runtime", "has no enroot on PATH"),
        ({"hooks": ()}, "warning", "runtime.hook", "has no 50-slurm-pmi.sh"),
        ({"image": {"problem": "there is no image: import it"}}, "error", "image", "there is no image"),
        ({"image": {"problem": "", "size": 10 << 30, "doubt": "not known: look"}}, "warning", "image", "not known"),
        ({"machine": "aarch64"}, "error", "image.architecture", f"is aarch64, and the image {IMAGE} is made for x86_"),
        ({"image": {"problem": "", "size": 9 << 30}}, "error", "image.differs", "of 9663676416 bytes"),
        ({"mounts_missing": ("/models",)}, "error", "mount", "has no /models to mount"),
        ({"write_problem": "Read-only file system"}, "error", "runs", "cannot write to the runs folder /shared/runs"),
        ({"unseen": (HERE, "gpu1")}, "error", "runs.seen", "what the machine where this runs, gpu1 wrote there"),
        ({"temporary": {"path": "/tmp", "free": 4096}}, "error", "space", "has 4 KiB left in /tmp"),
        ({"unpacked": {"path": "/tmp/enroot", "free": 9 << 30}}, "error", "space", "has 9,216 MiB left in /tmp/enroot"),
        ({"unpacked": {"path": "/tmp/enroot", "free": 20 << 30}}, "warning", "space", "(10,240 MiB) is unpacked"),
        ({"address_problem": "has no address on network.interface ib7"}, "error", "network.address", "interface ib7"),
        ({"unreached": {"gpu1": "cannot reach node gpu1"}}, "error", "network.reach", "cannot reach node gpu1"),
        ({"unresolved": ("gpu1",)}, "warning", "network.names", "finds no address for gpu1"),
        ({"skew": 400.0, "round_trip": 0.01}, "error", "clock", "has a clock 400.0 s ahead of that of the head node"),
        ({"skew": -2.0}, "warning", "clock", "2.0 s behind"),
        ({"gpus": {"problem": "there is no nvidia-smi", "lines": []}}, "error", "gpu", "there is no nvidia-smi"),
        ({"gpus": {"problem": "", "lines": ["0, 4, 81559"]}}, "error", "gpu", "shows 1 GPUs, and 2 are needed"),
        (
            {"gpus": {"problem": "", "lines": ["0, 4, 81559", "1, 70000, 81559"]}},
            "warning", "gpu.memory", "has 70,000 of 81,559 MiB of GPU 1 in use already, and 50% of it is planned for",
        ),
        ({"shm": {"free": 64 << 30, "left": {"moe_1": 5 << 20}}}, "warning", "shm", "has 5 MiB of yours in /dev/shm"),
        ({"shm": {"free": 64 << 20, "left": {}}}, "warning", "shm", "has 64 MiB free in /dev/shm"),
        ({"limits": {"memlock": 65536, "stack": -1, "nofile": 4096}}, "warning", "limits", "64 KiB of pinned memory"),
        ({"limits": {"memlock": -1, "stack": 8 << 20, "nofile": 4096}}, "warning", "limits", "a stack of 8,192 KiB"),
        ({"limits": {"memlock": -1, "stack": -1, "nofile": 256}}, "warning", "limits", "256 open files"),
        ({"leaking": ("UCX_TLS",)}, "warning", "environment", "sets UCX_TLS"),
        ({"at": "reaching the head node"}, "error", "node.answer", "was still reaching the head node after 29 s"),
    ],
)  # fmt: skip
def test_each_fault_of_a_node_is_one_finding(change: Mapping[str, Any], level: str, code: str, words: str) -> None:
    (finding,) = found(replace(WELL, **change))
    assert (finding.level, finding.code, finding.node) == (level, code, "gpu2")
    assert words in finding.what
    assert finding.remedy


def test_a_node_that_does_not_answer_is_named_with_the_words_of_srun() -> None:
    (finding,) = found(None)
    assert (finding.code, finding.node) == ("node.answer", "gpu2")
    assert "gpu2 is down" in finding.what


def test_what_hangs_on_a_node_is_named_and_the_rest_of_it_is_not_judged() -> None:
    facts = facts_of([{"node": "gpu2", "at": "running slurm.setup"}, {"node": "gpu2", "at": "looking for /models"}])
    (finding,) = found(facts["gpu2"])
    assert (finding.code, finding.node, finding.what) == (
        "node.answer",
        "gpu2",
        "was still looking for /models after 18 s",
    )
    assert finding.remedy


def test_without_python_a_node_says_so_and_nothing_else() -> None:
    facts = facts_of([{"node": "gpu2", "run_python": False}])
    assert [each.code for each in found(facts["gpu2"])] == ["python"]


def test_the_lines_of_a_node_are_put_together() -> None:
    lines = [
        {"node": "gpu2", "at": "looking at the image"},
        {"node": "gpu2", "python": [3, 12], "address": "10.0.0.2", "new": "from a later version"},
        {"node": "gpu2", "met": {"unreached": {}, "unseen": ["gpu1"], "skew": 0.5, "round_trip": 0.1}},
    ]
    assert facts_of(lines)["gpu2"] == NodeFacts(
        "gpu2", python=(3, 12), address="10.0.0.2", unreached={}, unseen=("gpu1",), skew=0.5, round_trip=0.1, met=True
    )


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2"])
def test_an_etcd_that_can_lose_data_is_warned_of_where_others_go_on(version: str) -> None:
    etcd = {"etcd": {"problem": "", "path": "/usr/bin/etcd", "version": version}}
    (finding,) = check_services("gpu1", etcd)
    assert (finding.level, finding.code, finding.node) == ("warning", "services.etcd", "gpu1")
    assert [each.level for each in check_services("", etcd)] == ["ok"]
    (expected,) = lossy_etcd(etcd)
    assert (expected.level, expected.code, expected.node) == ("warning", "services.etcd", "")
    assert expected.what.startswith("nodes with the programs of this machine would run /usr/bin/etcd, etcd 3.5.")
    assert not [*lossy_etcd({}), *lossy_etcd(WELL.services)]


def test_a_program_that_is_missing_is_told_with_what_installs_it() -> None:
    (finding,) = check_services("gpu1", {"nats": {"problem": "nats-server is not on PATH: `pip install x`"}})
    assert (finding.exit_code, finding.what, finding.remedy) == (4, "nats-server is not on PATH", "`pip install x`")


HELLO = HelloFacts(
    nodes=("gpu1", "gpu2"),
    tasks=2,
    mpi="pmix",
    ranks=tuple(
        {"node": node, "problem": "", "rank": rank, "size": 2, "nodes": ["gpu1", "gpu2"], "library": "Open MPI v5.0.7"}
        for rank, node in enumerate(("gpu1", "gpu2"))
    ),
    at={},
    code=0,
    said="",
    seconds=1.0,
)
REFUSING = {"node": "gpu1", "refusal": 97}
NONE = {"node": "gpu1", "problem": "No module named 'mpi4py'"}


BOTH = ["gpu1", "gpu2"]


@pytest.mark.parametrize(
    ("hello", "code", "nodes", "words"),
    [
        (replace(HELLO, ranks=(REFUSING, HELLO.ranks[1])), "image.python", ["gpu1"], f"cannot run ranks in {IMAGE}"),
        (replace(HELLO, ranks=(NONE, NONE)), "image.mpi", ["gpu1"], "(No module named 'mpi4py')"),
        (
            replace(HELLO, ranks=(), code=None, seconds=25.0, at=dict.fromkeys(BOTH, "starting MPI")),
            "mpi.hello", BOTH, f"after 25 s, for ranks in {IMAGE} to meet by --mpi=pmix",
        ),
        (
            replace(HELLO, ranks=(), code=1, said="srun: error\nOPAL ERROR: Unreachable in file ext3x_client.c\n"),
            "mpi.hello", BOTH, "OPAL ERROR: Unreachable in file ext3x_client.c",
        ),
        (replace(HELLO, ranks=tuple({**r, "size": 1} for r in HELLO.ranks)), "mpi.hello", BOTH, "that are alone"),
        (replace(HELLO, ranks=HELLO.ranks[:1], code=137), "mpi.hello", ["gpu2"], "exit code 137, without a word"),
    ],
)  # fmt: skip
def test_what_keeps_ranks_apart_is_told(hello: HelloFacts, code: str, nodes: list[str], words: str) -> None:
    findings = list(check_hello(hello, IMAGE))
    assert [(each.level, each.code, each.node) for each in findings] == [("error", code, node) for node in nodes]
    assert all(words in each.what and each.remedy for each in findings)


def test_what_a_rank_was_at_when_time_was_over_is_told() -> None:
    late = replace(HELLO, ranks=(), code=None, at=dict(zip(BOTH, ["starting Open MPI v4", "starting Open MPI v5"])))
    words = [each.what.partition(" after")[0] for each in check_hello(late, IMAGE)]
    assert words == ["was still starting Open MPI v4", "was still starting Open MPI v5"]


@pytest.mark.parametrize("at", ["running slurm.setup", "entering its container", ""])
def test_a_node_that_did_not_come_to_start_mpi_says_nothing_about_it(at: str) -> None:
    """Nor do the ranks of the other one, which wait for it; pyxis unpacks a large image before there is any rank."""
    late = replace(HELLO, ranks=(), code=None, seconds=42.0, at={"gpu1": "starting Open MPI v5.0.7", "gpu2": at})
    findings = list(check_hello(late, IMAGE))
    assert [(each.level, each.node) for each in findings] == [("warning", "gpu1"), ("warning", "gpu2")]
    assert findings[1].what.startswith(f"was still {at or f'making ready for a rank in {IMAGE}'} after 42 s, for ranks")
    assert all("not tried" in each.what and "PMIx" not in each.remedy for each in findings)


def test_the_words_of_what_failed_first_are_taken() -> None:
    lines = ["pyxis: child 30 failed with error code: 2", "pyxis: failed to create container filesystem for image: i"]
    apart = replace(HELLO, ranks=(), code=1, said="\n".join(lines))
    assert all(each.what.endswith(lines[1]) for each in check_hello(apart, IMAGE))
    lines.append("pyxis:     create_inode: could not create character device /d/null, because you're not superuser!")
    apart = replace(HELLO, ranks=(), code=1, said="\n".join(lines))
    assert all("device /d/null" in each.what and "-e 'dev/*'" in each.remedy for each in check_hello(apart, IMAGE))


def test_a_node_that_slurm_names_is_the_one_to_blame() -> None:
    said = "slurmstepd-gpu2: error: pyxis:     Write on output file failed because No space left on device"
    (finding,) = check_hello(replace(HELLO, ranks=(), code=1, said=said), IMAGE)
    assert finding.node == "gpu2" and finding.what.endswith(
        ": pyxis: Write on output file failed because No space left on device"
    )


def test_both_releases_of_pmix_are_told_as_far_as_they_are_known() -> None:
    apart = replace(HELLO, ranks=(), code=1, said="orte_ess_init failed", server_pmix="4.2.2", pmix="OpenPMIx 5.0.7")
    told = [each.what for each in check_hello(apart, IMAGE)]
    releases = "(PMIx 4.2.2 of Slurm and OpenPMIx 5.0.7 of the ranks)"
    assert told == 2 * [f"could not start MPI in {IMAGE} by --mpi=pmix {releases}: orte_ess_init failed"]
    (met,) = check_hello(replace(HELLO, server_pmix="4.2.2"), IMAGE)
    assert met.what.endswith("by --mpi=pmix (PMIx 4.2.2 of Slurm)")


def test_why_mpi_cannot_be_loaded_is_one_line_and_one_for_all_ranks_of_a_node() -> None:
    ranks = [
        {"node": node, "problem": f"cannot load MPI library\n/tmp/{node}: no such file"}
        for node in ("gpu2", "gpu1", "gpu2")
    ]
    findings = list(check_hello(replace(HELLO, ranks=tuple(ranks)), IMAGE))
    assert [each.node for each in findings] == ["gpu1", "gpu2"]
    assert {each.what for each in findings} == {f"has no MPI for the Python in {IMAGE} (cannot load MPI library)"}


def test_ranks_that_met_are_well() -> None:
    (finding,) = check_hello(HELLO, IMAGE)
    met = f"2 ranks in {IMAGE} met over 2 nodes: Open MPI v5.0.7, by --mpi=pmix"
    assert finding == Finding("ok", "mpi.hello", "", met)


HERE_WELL = HereFacts(None, "/shared/runs", "", "x86_64", "enroot", (), ())


@pytest.mark.parametrize(
    ("facts", "local", "level", "code"),
    [
        (HERE_WELL, False, "ok", "runs"),
        (replace(HERE_WELL, runs_problem="/shared cannot be written to"), False, "error", "runs"),
        (replace(HERE_WELL, image=ImageFacts(IMAGE, "there is no image: import it")), False, "error", "image"),
        (replace(HERE_WELL, image=ImageFacts(IMAGE, "no: x", reachable=False)), False, "warning", "image"),
        (replace(HERE_WELL, image=ImageFacts(IMAGE, "no: x", reachable=False)), True, "error", "image"),
        (replace(HERE_WELL, image=ImageFacts(IMAGE, doubt="not known: x")), True, "warning", "image"),
        (replace(HERE_WELL, image=ImageFacts(IMAGE, architecture="aarch64")), False, "ok", "image"),
        (replace(HERE_WELL, image=ImageFacts(IMAGE, architecture="aarch64")), True, "error", "image.architecture"),
        (replace(HERE_WELL, image=ImageFacts(IMAGE, format="sif")), False, "error", "image"),
        (replace(HERE_WELL, mounts_missing=("/models",)), False, "warning", "mount"),
        (replace(HERE_WELL, mounts_missing=("/models",)), True, "error", "mount"),
        (replace(HERE_WELL, leaking=("UCX_TLS",)), False, "warning", "environment"),
    ],
)
def test_what_one_machine_alone_tells(facts: HereFacts, local: bool, level: str, code: str) -> None:
    worst = ordered(check_here(facts, local))[0]
    assert (worst.level, worst.code) == (level, code)
    assert bool(worst.remedy) == (level != "ok")


def test_a_slurm_without_pmix_or_pyxis_is_told() -> None:
    levels = {each.code: each.level for each in check_mpi_types(["none", "pmi2"], False, "pyxis")}
    assert levels == {"mpi.types": "error", "runtime": "error"}
    assert [each.level for each in check_mpi_types(["pmix"], True, "pyxis")] == ["ok"]


FINDINGS = st.builds(
    Finding,
    st.sampled_from(["error", "warning", "ok"]),
    st.sampled_from(list(CODES)),
    st.sampled_from(["", "gpu1", "gpu2", "gpu3"]),
    st.sampled_from(["is so", "is otherwise"]),
    st.sampled_from(["", "do this"]),
)


@given(st.lists(FINDINGS))
def test_the_worst_comes_first_and_nothing_is_lost(findings: list[Finding]) -> None:
    told = to_json(findings, ["gpu1"])
    levels = [each["level"] for each in told["findings"]]
    assert levels == sorted(levels, key=["error", "warning", "ok"].index)
    assert len(told["findings"]) == len(findings)
    assert (told["exit_code"] == 0) == ("error" not in levels)
    assert told["exit_code"] == exit_code(findings) <= 4
    lines = table(findings).splitlines()
    assert all(any(each.code in line for line in lines) for each in findings)


def test_nodes_with_the_same_finding_share_a_line() -> None:
    findings = [Finding("error", "mount", f"gpu{number}", "has no /models to mount", "make it") for number in (1, 2, 3)]
    assert table(findings).splitlines() == [
        "error  mount  gpu[1-3]  has no /models to mount",
        "                        -> make it",
    ]


def test_a_sentence_is_split_at_its_remedy() -> None:
    assert split("it is broken: mend it") == ("it is broken", "mend it")
    assert split("it has 1 byte of 2; copy it again") == ("it has 1 byte of 2", "copy it again")
    assert split("it is broken") == ("it is broken", "")


def test_every_code_is_documented_with_its_exit_code() -> None:
    page = Path(ROOT / "docs" / "doctor.md").read_text()
    for code, number in CODES.items():
        assert f"| `{code}` | {number} |" in page
