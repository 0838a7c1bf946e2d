"""`trtdist image check` opens an image for real and says what keeps it from being used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.containers.small_images import docker_archive, elf, layer, sif, small_root
from tests.images import image_or_skip, linked, program_or_skip
from trtdist.cli.image import command
from trtdist.containers import image_probe
from trtdist.errors import InputError, MissingError

SETTINGS = "FLAVOUR=plain\nLD_LIBRARY_PATH=/opt/lib\nUCX_TLS=tcp\n"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTDIST_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("TRTDIST_SITE", "")


def check(*arguments: object) -> tuple[dict[str, Any], str]:
    """What `image check --json` prints, and the message that it ends with."""
    done = CliRunner().invoke(command, ["check", "--json", *map(str, arguments)])
    message = str(done.exception) if isinstance(done.exception, InputError) else ""
    assert done.exception is None or message, done.exc_info
    return json.loads(done.stdout), message


def test_what_is_in_an_image(tmp_path: Path) -> None:
    program_or_skip("ch-run")
    root = linked(image_or_skip(), tmp_path / "root")
    (root / "ch").mkdir()
    (root / "ch" / "environment").write_text(SETTINGS)
    found, message = check(root)
    assert message == "" and found.pop("mpi").startswith("Open MPI v4.") and found.pop("pmix").startswith("OpenPMIx 4.")
    assert all(found.pop(name) for name in ("python", "mpi4py", "numpy"))
    assert found == {
        "path": str(root),
        "format": "directory",
        "size": 0,
        "architecture": os.uname().machine,
        "opened_with": "ch-run",
        "tensorrt_llm": "",
        "environment": ["FLAVOUR", "LD_LIBRARY_PATH", "UCX_TLS"],
        "over_ours": ["LD_LIBRARY_PATH", "UCX_TLS"],
        "problems": [],
    }
    table = CliRunner().invoke(command, ["check", str(root), "--no-open"]).stdout
    assert "opened with   not opened" in table and "over ours     LD_LIBRARY_PATH, UCX_TLS" in table


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("python3*", "it has no Python: install python3 in it"),
        ("mpi4py*", "it has no mpi4py: add it with what `trtdist image recipe` prints"),
        pytest.param(
            "libmpi.so.*",
            "its mpi4py finds no MPI .*libmpi.so.* as `trtdist image recipe` does",
            marks=pytest.mark.long,
        ),
        pytest.param("dash", "ch-run cannot open it: ", marks=pytest.mark.long),
    ],
)
def test_an_image_that_lacks_something(tmp_path: Path, left_out: str, message: str) -> None:
    program_or_skip("ch-run")
    found, said = check(linked(image_or_skip(), tmp_path / "root", left_out), "--runtime", "charliecloud")
    assert found["problems"] and found["opened_with"] == "ch-run"
    assert re.match(f"the image {tmp_path / 'root'} cannot be used: {message}", said)


def test_an_image_whose_python_is_too_old(tmp_path: Path) -> None:
    program_or_skip("ch-run")
    root = linked(image_or_skip(), tmp_path / "root", "python3", "python3.11")
    (root / "usr/bin/python3").write_text("#!/bin/sh\nexit 1\n")
    (root / "usr/bin/python3").chmod(0o755)
    assert "its Python is older than 3.9, or does not start: take a newer image" in check(root)[1]


def test_another_architecture_is_not_opened(tmp_path: Path) -> None:
    other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    root = small_root(tmp_path / "root", other)
    found, said = check(root)
    assert found["architecture"] == other and found["opened_with"] == ""
    assert f"it is made for {other} and the nodes are {os.uname().machine}" in said
    assert check(root, "--arch", other)[1] == ""
    assert check(docker_archive(tmp_path / "a.tar", [layer({"bin/sh": elf()})]), "--arch", "amd64")[0]["format"]
    with pytest.raises(InputError, match=r"a\.sif is damaged .*import or copy it again"):
        CliRunner().invoke(command, ["check", str(sif(tmp_path / "a.sif", b"hsqs"))], catch_exceptions=False)


def test_what_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small_root(tmp_path / "root", os.uname().machine)
    with pytest.raises(InputError, match="there is no image"):
        CliRunner().invoke(command, ["check", str(tmp_path / "none")], catch_exceptions=False)
    with pytest.raises(InputError, match=r"pyxis opens no directory, which .* import it with --runtime pyxis"):
        CliRunner().invoke(command, ["check", str(root), "--runtime", "pyxis"], catch_exceptions=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"ch-run is not on PATH.*apt-get install charliecloud"):
        CliRunner().invoke(command, ["check", str(root), "--runtime", "charliecloud"], catch_exceptions=False)


def test_an_imported_image_that_is_not_whole_any_more(tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "a.tar", [layer({"bin/sh": elf()})])
    arguments = ["import", str(archive), "--format", "archive", "--arch", "amd64"]
    path = Path(CliRunner().invoke(command, arguments, catch_exceptions=False).stdout.strip())
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=r"the image a is not whole .*import it again"):
        CliRunner().invoke(command, ["check", "a"], catch_exceptions=False)


def test_the_probe_of_a_python_that_has_nothing() -> None:
    argv = [sys.executable, "-I", "-S", str(image_probe.__file__)]
    found = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert (found["mpi4py"], found["mpi"], found["numpy"], found["errors"]) == ("", "", "", {})
