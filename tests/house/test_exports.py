"""Each module says what it offers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.source import ROOT, modules, parse


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            return list(ast.literal_eval(node.value))
    return None


def defined(tree: ast.Module) -> set[str]:
    """Names of functions and classes of this module; names bound by assignment and import are in `bound`."""
    return {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


def bound(tree: ast.Module) -> set[str]:
    names = defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_all_names_what_is_public(path: Path) -> None:
    tree = parse(path)
    names = exported(tree)
    if names is None:
        public = {name for name in defined(tree) if not name.startswith("_")}
        assert path.stem in ("__init__", "__main__") and not public, "the module has no __all__"
        return
    assert len(names) == len(set(names))
    assert set(names) <= bound(tree), f"not there: {sorted(set(names) - bound(tree))}"
    hidden = {name for name in defined(tree) if not name.startswith("_")} - set(names)
    assert not hidden or path.stem == "__main__", f"public, but not in __all__: {sorted(hidden)}"
