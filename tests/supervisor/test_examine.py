"""What a node finds out about itself for `doctor`, and about the others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.house.test_rooms import oldest_python
from trtdist.cli.doctor_nodes import EXAMINE
from trtdist.cli.doctor_sent import sent
from trtdist.observe.node_facts import facts_of
from trtdist.supervisor.examine import leaking, look, meet
from trtdist.supervisor.greeter import Greeter

NAME = os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """What a node is asked that has nothing to look for."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return {
        "nodes": ["localhost"], "interface": "lo", "subnet": "", "ports": None, "folder": str(folder),
        "python": sys.executable, "image": "", "mounts": [], "programs": [], "services": {}, "gpus": [],
        "unpacks": False, "driver": None,
    }  # fmt: skip


@pytest.fixture
def other() -> Iterator[dict[str, Any]]:
    """Another node, which listens here."""
    listener = socket.create_server(("127.0.0.1", 0))
    address, port = listener.getsockname()
    with Greeter(listener) as greeter:
        yield {"node": "head", "address": address, "port": port, "nonce": greeter.nonce}


def test_a_node_that_is_well(asked: dict[str, Any]) -> None:
    found = look(asked)
    assert (found["run_python"], found["write_problem"], found["mounts_missing"]) == (True, "", [])
    assert found["unresolved"] == []
    assert found["temporary"]["free"] > 0
    assert (Path(asked["folder"]) / NAME).is_file()


def test_what_a_node_lacks(asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enroot.conf").write_text(f"# where images go\nENROOT_DATA_PATH   {tmp_path}/data/$(id -u)\n")
    (tmp_path / "hooks.d").mkdir()
    (tmp_path / "hooks.d" / "10-some.sh").touch()
    monkeypatch.setenv("ENROOT_SYSCONF_PATH", str(tmp_path))
    monkeypatch.delenv("ENROOT_DATA_PATH", raising=False)
    asked |= {
        "nodes": ["nowhere.invalid"], "folder": f"{tmp_path}/gone", "python": "/gone/python", "mounts": ["/gone"],
        "image": f"{tmp_path}/image.sqsh", "programs": ["no-runtime"], "services": {"etcd": "no-etcd"},
        "gpus": ["no-smi"], "unpacks": True,
    }  # fmt: skip
    found = look(asked)
    assert (found["run_python"], found["mounts_missing"]) == (False, ["/gone"])
    assert found["unresolved"] == ["nowhere.invalid"]
    assert found["write_problem"] == "it is not there"
    assert "there is no image" in found["image"]["problem"]
    assert found["programs"] == {"no-runtime": ""}
    assert "no-etcd" in found["services"]["etcd"]["problem"]
    assert found["gpus"]["problem"] == "there is no no-smi"
    assert found["hooks"] == ["10-some.sh"]
    assert found["unpacked"]["path"] == f"{tmp_path}/data/{os.getuid()}"
    assert found["unpacked"]["free"] > 0


def test_a_file_in_shared_memory_is_left_over_once_nobody_has_it(asked: dict[str, Any]) -> None:
    path = Path("/dev/shm", f"trtdist-test-{os.getpid()}")
    holder = (
        f"import mmap; f = open({str(path)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); print('held', flush=True); input()"
    )
    path.write_bytes(bytes(8192))
    try:
        with subprocess.Popen(
            [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            assert path.name not in look(asked)["shm"]["left"]
            process.communicate("\n")
        assert look(asked)["shm"]["left"][path.name] == 8192
    finally:
        path.unlink()


def test_variables_that_bend_engines() -> None:
    environ = {"UCX_TLS": "tcp", "OMPI_MCA_pml": "ucx", "HOME": "/", "MY_UCX_TLS": ""}
    assert leaking(environ) == ["OMPI_MCA_pml", "UCX_TLS"]


def test_another_node_is_met(asked: dict[str, Any], other: dict[str, Any]) -> None:
    (Path(asked["folder"]) / "head").touch()
    found = meet(asked, {"peers": [other, {"node": NAME}], "files": ["head"]})
    assert (found["unreached"], found["unseen"]) == ({}, [])
    assert abs(found["skew"]) < 30


def test_a_clock_that_is_wrong_shows(
    asked: dict[str, Any], other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    # Both clocks are of this process: the one that is asked is the second of three readings.
    readings = iter([0.0, -90.0, 0.0])
    monkeypatch.setattr(time, "time", lambda: now() + next(readings))
    found = meet(asked, {"peers": [other, {"node": NAME}], "files": []})
    assert found["skew"] == pytest.approx(90, abs=30)


def test_a_node_that_cannot_be_reached_or_seen(asked: dict[str, Any], other: dict[str, Any]) -> None:
    wrong = {**other, "nonce": "that of another"}
    asked["folder"] += "/gone"
    found = meet(asked, {"peers": [wrong, {"node": NAME}], "files": ["head"]})
    assert "reaches another machine than node head" in found["unreached"]["head"]
    assert found["unseen"] == ["head"]


def ended(lines: IO[str]) -> dict[str, Any]:
    """The next line that says what was found; those before it say what was begun."""
    reports: Iterator[dict[str, Any]] = map(json.loads, lines)
    return next(report for report in reports if "at" not in report)


@pytest.mark.parametrize("python", [sys.executable, oldest_python() or sys.executable])
def test_it_is_sent_as_text_and_needs_nothing_but_a_python(asked: dict[str, Any], tmp_path: Path, python: str) -> None:
    environ = {"PATH": os.environ["PATH"], "SLURMD_NODENAME": "gpu1"}
    with subprocess.Popen(
        [python, "-I", *sent(EXAMINE, asked)],
        cwd=tmp_path, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        first = ended(process.stdout)
        process.stdin.write(json.dumps({"peers": [first], "files": ["gpu1"]}) + "\n")
        process.stdin.flush()
        second = ended(process.stdout)
        _, said = process.communicate()
    assert (process.returncode, said) == (0, "")
    facts = facts_of([first, second])["gpu1"]
    assert (facts.address, facts.interface, facts.met, facts.unseen) == ("127.0.0.1", "lo", True, ())
    assert os.listdir(asked["folder"]) == ["gpu1"]
