"""How the source reads: limits that a reader notices when they are broken."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.source import ROOT, modules, parse, tracked

MODULE_LINES = 500
FUNCTION_LINES = 45
BROAD_EXCEPTS = 5


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id == "Exception") for kind in kinds)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_can_be_read_in_one_go(path: Path) -> None:
    tree = parse(path)
    assert path.read_text().count("\n") <= MODULE_LINES
    long = [f"{node.name} {lines(node)}" for node in functions(tree) if lines(node) > FUNCTION_LINES]
    assert not long


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_what_is_public_is_described(path: Path) -> None:
    tree = parse(path)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert [node.name for node in public if ast.get_docstring(node) is None] == []
    assert ast.get_docstring(tree) is not None or not path.read_text().strip()


def test_errors_are_not_swallowed() -> None:
    broad = [
        f"{name_of(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    ]
    assert len(broad) <= BROAD_EXCEPTS, broad


def test_no_command_goes_through_a_shell() -> None:
    shells = [
        f"{name_of(path)}:{node.value.lineno}"
        for path in modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.keyword) and node.arg == "shell" and getattr(node.value, "value", None) is True
    ]
    assert shells == []


def test_nothing_that_was_received_is_run() -> None:
    """No evaluation and no unpickling, which the methods of mpi4py in small letters do too."""
    modules_of_code = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml.UnsafeLoader"}
    calls = {"eval", "exec", "__import__", "unsafe_load", "full_load", "allow_pickle"}
    pickling = {"isend", "irecv", "issend", "improbe", "mprobe", "bcast", "allgather", "alltoall"}
    found = set()
    for path in modules():
        for node in ast.walk(parse(path)):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} & modules_of_code
            elif isinstance(node, ast.ImportFrom):
                names = {str(node.module)} & modules_of_code
            elif isinstance(node, ast.Name):
                names = {node.id} & calls
            elif isinstance(node, ast.Attribute):
                names = {node.attr} & ((calls - {"eval", "exec"}) | pickling)
                if ast.unparse(node) == "yaml.load" and "Safe" not in path.read_text(encoding="utf-8"):
                    names.add("yaml.load")
            elif isinstance(node, ast.keyword):
                names = {str(node.arg)} & calls
            found |= {f"{name_of(path)} {name}" for name in names}
    assert found == set()


def test_nothing_names_the_machine_it_was_written_on() -> None:
    # Written apart, so that this file does not find itself.
    words = [
        "/wo" + "rk/(main|shared|tmp)",
        "/opt/py" + "pi",
        r"https?://[^/\s]*(py" + "pi|artifactory|nexus)",
        "/ro" + "ot/",
    ]
    pattern = re.compile("|".join(words))
    found = [
        f"{name_of(path)}:{number}"
        for path in tracked()
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
