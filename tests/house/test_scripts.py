"""The shell scripts of the repository, and what the wheel holds."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.source import ROOT, SHELLCHECK, tracked

SHELL = [path for path in tracked() if path.suffix == ".sh" or path.read_bytes().startswith(b"#!/usr/bin/env bash")]


@pytest.mark.parametrize("script", SHELL, ids=lambda script: str(script.relative_to(ROOT)))
def test_shell_scripts_are_sound(script: Path) -> None:
    found = subprocess.run([SHELLCHECK, "-x", str(script)], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("was", "words"),
    [
        ("/usr/bin/python3.10 3 10 1 dev F R 1 2", "was made with /usr/bin/python3.10 (3.10.1) and is made anew with"),
        ("/usr/bin/python3 3 12 1 dev F R 7 7", "pyproject.toml or the place of the checkout has changed"),
        ("/usr/bin/python3 3 12 1 dev F R 1 2", "its Python does not start any more"),
    ],
)
def test_why_an_environment_is_made_anew(tmp_path: Path, was: str, words: str) -> None:
    (tmp_path / "trtdist-stamp").write_text(was + "\n")
    program = f". {ROOT / 'scripts' / 'lib-python.sh'}; why_anew {tmp_path} '/usr/bin/python3 3 12 1 dev F R 1 2'"
    found = subprocess.run(["bash", "-euc", program], capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(tmp_path)) and words in found.stdout


@pytest.mark.long
def test_the_wheel_has_the_templates_and_no_tests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    templates = {
        str(path.relative_to(ROOT / "templates")) for path in (ROOT / "templates").rglob("*") if path.is_file()
    }
    assert {f"trtdist/_templates/{name}" for name in templates} <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)
