"""Data flows one way: each room imports only rooms to its left, and what runs on nodes needs nothing but Python."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from tests.cluster import give_up
from tests.house.source import ROOT, VERMIN, modules, parse

ROOMS = (
    "topology", "planning", "slurm", "containers", "rendering", "services", "supervisor", "simulation", "serving",
    "engines", "observe", "bench", "cli",
)  # fmt: skip
ROOT_MODULES = (
    "errors", "plan", "process", "rundir", "sockets", "events", "claim", "once", "images", "newrun", "chain",
)  # fmt: skip
NODE_ROOMS = ("slurm", "services", "containers", "supervisor", "serving", "engines")
# What a node room may import beside the standard library.
ALLOWED = {"containers": {"mpi4py"}, "serving": {"nats"}, "engines": {"numpy", "mpi4py", "tensorrt_llm", "torch"}}
# Runs in the launcher's own environment, and does without where these are missing.
FRONT = ROOT / "trtdist" / "serving" / "front"
# A program in the launcher's own environment, which others start and do not import.
AUTHORITY = ROOT / "trtdist" / "services" / "authority.py"
# The engine seam: serving names its types, and finds the engine itself at run time.
SEAMS = {("serving", "trtdist.engines.base")}


def imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """Full names of what a module imports; what only type checkers see counts as well."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            if name == "trtdist":
                yield from (f"trtdist.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    """The room of a module, "" for the modules at the root."""
    parts = path.relative_to(ROOT / "trtdist").parts
    return parts[0] if len(parts) > 1 else ""


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(parse(path), path) if name.startswith("trtdist.")}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_to_its_left(path: Path) -> None:
    here = room(path)
    assert not here or here in ROOMS, f"{here} is no room of the house"
    for name in own_imports(path):
        there = name.split(".")[1]
        if there in ROOT_MODULES or there.startswith("__") or (here, name) in SEAMS:
            continue
        assert here, f"{path.name} is for everybody and imports {name}"
        assert there in ROOMS, f"{name} is in no room"
        assert ROOMS.index(there) <= ROOMS.index(here), f"{path.relative_to(ROOT)} imports {name}, to its right"


def test_the_plan_imports_nothing_of_ours() -> None:
    assert own_imports(ROOT / "trtdist" / "plan.py") == set()


def node_modules() -> list[Path]:
    return [
        path
        for path in modules()
        if room(path) in NODE_ROOMS or (path.parent == ROOT / "trtdist" and path.stem in ROOT_MODULES)
    ]


@pytest.mark.parametrize("path", node_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_runs_on_nodes_needs_only_the_standard_library(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))
    allowed = set(sys.stdlib_module_names) | {"trtdist"} | ALLOWED.get(room(path), set())
    if path.is_relative_to(FRONT):
        allowed |= {"jinja2", "uvloop"}
    if path == AUTHORITY:
        allowed |= {"cryptography"}
    tops = {name.split(".")[0] for name in imports(parse(path), path)}
    assert tops <= allowed, f"{path.relative_to(ROOT)} imports {sorted(tops - allowed)}"


def newer_than_3_9(paths: list[Path]) -> str:
    """What modules use that Python 3.9 does not have, also within functions; "" for nothing."""
    command = [VERMIN, "--target=3.9-", "--no-tips", "--violations", "--quiet", *map(str, paths)]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout + found.stderr if found.returncode else ""


def test_node_rooms_use_nothing_that_python_3_9_does_not_have() -> None:
    assert newer_than_3_9(node_modules()) == ""


def test_what_is_newer_than_python_3_9_is_found_in_functions(tmp_path: Path) -> None:
    module = tmp_path / "newer.py"
    module.write_text("def pairs(a, b):\n    return list(zip(a, b, strict=True))\n")
    assert "zip(strict)" in newer_than_3_9([module])


def oldest_python() -> str | None:
    """A Python 3.9, from PATH or beside the others that pyenv keeps."""
    homes = {Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")), Path(sys.base_prefix).parent.parent}
    kept = [str(path) for home in homes for path in sorted(home.glob("versions/3.9.*/bin/python3"))]
    for python in (shutil.which("python3.9"), *kept):
        # What pyenv puts on PATH may stand for a Python that is not chosen.
        if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    return None


def test_node_rooms_import_under_python_3_9(tmp_path: Path) -> None:
    python = oldest_python()
    if python is None:
        give_up("there is no python3.9 on PATH or in pyenv")
    # As in a run's site folder: only these rooms, and the pure Python of nats beside them.
    site = tmp_path / "site"
    (site / "trtdist").mkdir(parents=True)
    for name in ("__init__.py", *(f"{module}.py" for module in ROOT_MODULES), *NODE_ROOMS):
        (site / "trtdist" / name).symlink_to(ROOT / "trtdist" / name)
    (site / "nats").symlink_to(Path(nats.__file__).parent)
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in node_modules()
        if path.stem != "__main__" and not {"numpy", "mpi4py", "cryptography"} & needs(path)
    ]
    code = f"import sys, importlib; sys.path.insert(0, {str(site)!r})\nfor name in {names!r}:\n "
    code += "importlib.import_module(name)"
    found = subprocess.run([python, "-I", "-S", "-B", "-W", "error", "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def needs(path: Path) -> set[str]:
    """The top-level names that importing a module needs, those of the modules it imports included."""
    seen: set[Path] = set()
    names: set[str] = set()
    waiting = [path]
    while waiting:
        module = waiting.pop()
        if module in seen or not module.is_file():
            continue
        seen.add(module)
        for name in imports(parse(module), module):
            names.add(name.split(".")[0])
            if name.startswith("trtdist."):
                file = ROOT / Path(*name.split("."))
                waiting += [file.with_suffix(".py"), file / "__init__.py"]
    return names
