"""Host lists keep the order in which they were written and agree with scontrol where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.slurm.hostlist import HostListError, expand, fold

NAMES = st.from_regex(r"[a-z]{1,3}-?[0-9]{0,4}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("a", ["a"]),
        ("b2,a1,a0", ["b2", "a1", "a0"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-10,2]", ["node08", "node09", "node10", "node2"]),
        ("n[1-2]x[3-4]", ["n1x3", "n1x4", "n2x3", "n2x4"]),
        ("node[1-2]-ib0", ["node1-ib0", "node2-ib0"]),
        ("h100-[01-03].cluster.example.org", [f"h100-0{i}.cluster.example.org" for i in (1, 2, 3)]),
        ("a1,a1", ["a1", "a1"]),
    ],
)
def test_expand(text: str, hosts: list[str]) -> None:
    assert expand(text) == hosts


@pytest.mark.parametrize(
    "text", ["a[1-", "a]1[", "a[[1]]", "a[3-1]", "a[x]", "a,,b", "a,", "a[1-99999999]", "a[0-9999]b[0-9999]", "a[]"]
)
def test_malformed(text: str) -> None:
    with pytest.raises(HostListError):
        expand(text)


@given(st.lists(NAMES, max_size=40))
def test_fold_and_expand_are_inverse(hosts: list[str]) -> None:
    assert expand(fold(hosts)) == hosts


def test_fold_is_short() -> None:
    assert fold([f"node{i:03d}" for i in range(1, 1001)]) in ("node[001-1000]", "node[001-999],node1000")
    assert fold(["a1", "a2", "a3", "b7"]) == "a[1-3],b7"
    assert fold(["a8", "a9", "a10"]) == "a[8-10]"


@pytest.fixture(scope="module")
def scontrol(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which scontrol runs without a cluster: it wants a configuration for any command."""
    config = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    config.write_text("ClusterName=none\nSlurmctldHost=localhost\nNodeName=localhost\n")
    return {"SLURM_CONF": str(config), "PATH": os.environ["PATH"]}


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="scontrol is not installed")
@given(st.lists(NAMES, min_size=1, max_size=8))
def test_scontrol_reads_what_fold_wrote(scontrol: dict[str, str], hosts: list[str]) -> None:
    shown = subprocess.run(
        ["scontrol", "show", "hostnames", fold(hosts)], env=scontrol, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == hosts
