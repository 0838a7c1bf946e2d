"""The source tree as the house tests see it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "SHELLCHECK", "VERMIN", "modules", "parse", "tracked"]

ROOT = Path(__file__).resolve().parents[2]
# Also when the environment is not on PATH.
SHELLCHECK, VERMIN = (str(Path(sys.executable).with_name(name)) for name in ("shellcheck", "vermin"))


def modules() -> list[Path]:
    """All modules of the package."""
    return sorted((ROOT / "trtdist").rglob("*.py"))


def parse(path: Path) -> ast.Module:
    """A module as its syntax tree, by the grammar of the Python that nodes run where it must be."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def tracked() -> list[Path]:
    """All files that git has or would take; all files of the folders we know where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        found = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        folders = ("trtdist", "templates", "examples", "tests", "scripts", "docs", "benchmarks")
        return [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    paths = [ROOT / name for name in found.split("\0") if name]
    return [path for path in paths if path.is_file()]
