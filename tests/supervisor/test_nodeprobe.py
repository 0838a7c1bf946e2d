"""What a node finds out about itself, and what is made of it."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.supervisor import job_nodes, nodeprobe
from trtdist.supervisor.greeter import Greeter
from trtdist.supervisor.job_nodes import clock_ahead, look_at_nodes, problems_of, told
from trtdist.supervisor.nodeprobe import Unusable, choose, interfaces, look, mounted, private_folder


@pytest.fixture
def greeter() -> Iterator[tuple[Greeter, tuple[str, int]]]:
    listener = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = listener.getsockname()
    with Greeter(listener) as found:
        yield found, address


@pytest.fixture
def asked(tmp_path: Path, greeter: tuple[Greeter, tuple[str, int]]) -> dict[str, Any]:
    """What a node is asked that is well."""
    (tmp_path / "plan.json").write_text("{}")
    found, address = greeter
    return {
        "interface": "lo", "subnet": "", "peers": [], "local": str(tmp_path / "trtdist-x" / "run"),
        "run": str(tmp_path), "head": list(address), "nonce": found.nonce, "image": "", "mount": [],
    }  # fmt: skip


def test_this_machine_has_loopback() -> None:
    assert ("lo", "127.0.0.1") in interfaces()
    assert all(ipaddress.ip_address(address) for _, address in interfaces())


def test_the_interface_or_subnet_that_is_named_is_used() -> None:
    assert choose("lo", "", []) == ("lo", "127.0.0.1")
    assert choose("", "127.0.0.0/8", []) == ("lo", "127.0.0.1")


@pytest.mark.parametrize(
    ("interface", "subnet", "words"), [("ib7", "", "no address on network.interface ib7; it has 127.0.0.0/8 on lo"),
                                       ("", "203.0.113.0/24", "no address in network.subnet 203.0.113.0/24")],
)  # fmt: skip
def test_what_is_not_there_is_named_with_what_is(interface: str, subnet: str, words: str) -> None:
    with pytest.raises(Unusable, match=words.replace(".", r"\.")):
        choose(interface, subnet, [])


def test_a_node_that_is_well(asked: dict[str, Any]) -> None:
    report = look(asked)
    assert report["problems"] == []
    assert report["address"] == "127.0.0.1"
    assert clock_ahead(report) == 0.0
    assert os.stat(asked["local"]).st_mode & 0o777 == 0o700


def test_it_runs_as_text_alone(asked: dict[str, Any], tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-S", "-c", Path(nodeprobe.__file__).read_text(), json.dumps(asked)]
    environ = {"SLURMD_NODENAME": "n7"}
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    *begun, report = map(json.loads, done.stdout.splitlines())
    assert (report["node"], report["problems"]) == ("n7", [])
    assert all(line["node"] == "n7" and line["at"] for line in begun)


def test_every_problem_is_told_at_once(asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodeprobe, "_VISIBLE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    asked.update(interface="ib7", run=str(tmp_path / "elsewhere"), head=["127.0.0.1", closed])
    problems = look(asked)["problems"]
    assert len(problems) == 3
    assert f"cannot reach the head node at 127.0.0.1 port {closed}" in problems[2]
    assert "does not see the run directory" in problems[1]


def test_another_machine_at_the_address_is_not_taken_for_the_head(asked: dict[str, Any]) -> None:
    asked["nonce"] = "another"
    assert "reaches another machine than the head node" in look(asked)["problems"][0]


def test_files_that_show_up_late_are_awaited(asked: dict[str, Any], tmp_path: Path) -> None:
    late = tmp_path / "late"
    asked["run"] = str(late)
    words = f"sleep 0.5; mkdir {late}; touch {late}/plan.json"
    began = time.monotonic()
    with subprocess.Popen(["sh", "-c", words]):
        assert look(asked)["problems"] == []
        assert time.monotonic() - began > 0.3


SUPERBLOCK = b"hsqs".ljust(40, b"\0") + (100).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no image {image}: copy it there"),
        (SUPERBLOCK.ljust(99, b"\0"), "sees 99 of the 100 bytes of the image {image}"),
        (SUPERBLOCK[:47], "sees in {image} no squashfs image"),
        (b"SIF_MAGIC".ljust(100), "sees in {image} no squashfs image"),
    ],
)
def test_what_srun_needs_for_a_container_is_looked_for(
    asked: dict[str, Any], tmp_path: Path, content: bytes | None, words: str
) -> None:
    image = tmp_path / "image.sqsh"
    if content is not None:
        image.write_bytes(content)
    asked.update(image=str(image), mount=[str(tmp_path), str(tmp_path / "a"), str(tmp_path / "b")])
    (problem,) = look(asked)["problems"]
    for name in ("a", "b"):
        assert f"has no {tmp_path}/{name} to mount" in problem
    assert words.format(image=image) in problem


def test_a_whole_image_is_taken(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "image.sqsh").write_bytes(SUPERBLOCK.ljust(4096, b"\0"))
    asked.update(image=str(tmp_path / "image.sqsh"), mount=[str(tmp_path)])
    assert look(asked)["problems"] == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "trtdist-x").mkdir()
    os.chown(tmp_path / "trtdist-x", 12345, 12345)
    assert "belongs to somebody else" in look(asked)["problems"][0]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (None, "gave no answer (srun: error: n1 is down)"),
        ({"at": "looking for /a"}, "did not end looking for /a (srun: error: n1 is down): see there why"),
        ({"problems": ["has no Python"]}, "has no Python"),
        (
            {"problems": [], "python": [3, 8]},
            f"has a Python older than 3.9 as {sys.executable}: start the run with a newer",
        ),
    ],
)
def test_what_is_wrong_with_a_node(report: dict[str, Any] | None, words: str) -> None:
    (found,) = problems_of(report, "srun: error: n1 is down")
    assert found.startswith(words)


def test_a_node_that_hangs_is_named_with_what_it_was_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that answered are not; the step is aborted."""
    monkeypatch.setattr(job_nodes, "_PROBE_S", 4.0)
    run = RunDir(tmp_path)
    run.scripts.mkdir()
    lines = [
        {"node": "n1", "python": [3, 11], "problems": [], "address": "10.0.0.1", "ports": []},
        {"node": "n2", "at": "looking for free ports"},
    ]
    said = "\n".join(map(json.dumps, lines))
    script = (
        f"trap 'echo aborted >{tmp_path}/end; exit' TERM\ncat <<'END'\n{said}\nEND\necho 'srun: nodes are busy' >&2\n"
    )
    (run.scripts / "each-node.srun.sh").write_text(f"{script}while :; do sleep 0.1; done\n")
    with pytest.raises(TrtdistError) as caught:
        look_at_nodes(run, ["n1", "n2", "n3"], {}, tmp_path, None)
    hanging, silent = str(caught.value).split("; ")
    assert hanging.startswith("node n2 did not end looking for free ports (not within 4 s: srun: nodes are busy): see")
    assert silent == "node n3 gave no answer (not within 4 s: srun: nodes are busy)"
    assert (tmp_path / "end").read_text() == "aborted\n"


def test_each_problem_is_told_once_with_its_nodes() -> None:
    everywhere, there = "has no address on network.interface ib7", "cannot use /tmp: Read-only file system"
    problems = {"n1": [everywhere], "n2": [everywhere, there], "n3": [everywhere], "n4": []}
    assert told(problems) == [f"each of n[1-3] {everywhere}", f"node n2 {there}"]
    assert told({"n1": []}) == []


def test_only_a_node_on_which_something_is_placed_keeps_a_folder(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n1", "n2"):
        monkeypatch.setenv("SLURMD_NODENAME", name)
        assert look({**asked, "local": f"{asked['local']}-{name}", "spares": ["n2"]})["problems"] == []
    assert [path.name for path in Path(asked["local"]).parent.iterdir()] == ["run-n1"]
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    Path(f"{asked['local']}-n1").rmdir()
    look({**asked, "spares": ["n2"]})
    assert not Path(asked["local"]).parent.exists()


def test_a_head_node_without_an_address_need_not_be_reached(asked: dict[str, Any]) -> None:
    del asked["head"], asked["nonce"]
    assert look({**asked, "interface": "ib7"})["problems"] == [
        f"has no address on network.interface ib7; it has {nodeprobe._shown()}"
    ]


def test_small_differences_of_clocks_are_none() -> None:
    assert clock_ahead({"skew": -61.0, "round_trip": 0.1}) == -61.0
    assert clock_ahead({"skew": 0.1, "round_trip": 0.0}) == 0.0
    # What took long cannot be told from a clock that is wrong.
    assert clock_ahead({"skew": 5.0, "round_trip": 6.0}) == 0.0


MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:44 / /home rw - nfs4 server:/home rw
31 30 8:2 / /home/me/own\\040disk rw master:1 - xfs /dev/sdb1 rw
32 22 0:50 / /tmp rw - nfs server:/tmp rw
33 22 0:51 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/tmp/x", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/x", "nfs4"),
        ("/homes/x", "ext4"),
        ("/home/me/own disk/x", "xfs"),
        ("/tmp/x", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert mounted(path, MOUNTINFO) == kind


def test_the_file_systems_of_this_machine_are_told_as_by_df(tmp_path: Path) -> None:
    told = subprocess.run(["df", "--output=fstype", tmp_path], capture_output=True, text=True, check=True)
    assert mounted(str(tmp_path.resolve()), Path("/proc/self/mountinfo").read_text()) == told.stdout.split()[1]


def test_a_local_folder_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "tmp"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(Unusable, match="everybody may put his own in place"):
        private_folder(str(above / "trtdist-0" / "run"))
    above.chmod(0o1777)
    (tmp_path / "elsewhere").mkdir()
    (above / "trtdist-0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unusable, match="belongs to somebody else"):
        private_folder(str(above / "trtdist-0" / "run"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_local_folder_on_a_shared_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = mounted(str(tmp_path.resolve()), Path("/proc/self/mountinfo").read_text())
    monkeypatch.setattr("trtdist.supervisor.nodeprobe._SHARED", frozenset({kind}))
    with pytest.raises(Unusable, match="set TMPDIR to a folder on a disk of its own"):
        private_folder(str(tmp_path / "trtdist-0" / "run"))
