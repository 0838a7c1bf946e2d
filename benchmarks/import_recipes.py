"""Whether recipes of srt-slurm for TensorRT-LLM become plans with the workers, GPUs and nodes that they say.

    python benchmarks/import_recipes.py FOLDER

Imports, validates and plans every recipe below a folder (a checkout of NVIDIA/srt-slurm or NVIDIA/srt-slurm-recipes),
and counts for itself what each says. A line for each that differs, and one with the counts; exit code 1 when any does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trtdist.errors import TrtdistError
from trtdist.planning import Target, plan
from trtdist.topology import check_text
from trtdist.topology.importers.draft import Wishes
from trtdist.topology.importers.reading import import_files
from trtdist.topology.importers.writing import topology_text

SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
ROLES = {"prefill": "prefill", "decode": "decode", "agg": "aggregated"}
NO_SITE = {"TRTDIST_SITE": "", "HOME": "/nowhere"}


@dataclass(frozen=True)
class Counts:
    """Workers of all roles, GPUs of all workers, and nodes."""

    workers: int
    gpus: int
    nodes: int


def said(recipe: dict[str, Any]) -> Counts:
    """What a recipe says; of a sweep, at its first point."""
    points = {name: values[0] for name, values in recipe.get("sweep", {}).items() if values}
    parts = [_role(recipe, role, old, points) for role, old in ROLES.items()]
    found = [part for part in parts if part is not None]
    return Counts(*(sum(column) for column in zip(*found, strict=True)))


def _role(recipe: dict[str, Any], role: str, old: str, points: dict[str, Any]) -> tuple[int, int, int] | None:
    """Workers, GPUs and nodes of a role, in the layout with `roles` and in that without."""
    resources, roles = recipe.get("resources", {}), recipe.get("roles")
    given = (roles or {}).get(role)
    if roles is None:
        arguments = recipe["backend"].get("trtllm_config", {}).get(old)
        keys = {"nodes": f"{role}_nodes", "workers": f"{role}_workers", "gpus": f"gpus_per_{role}"}
        given = {ours: resources[theirs] for ours, theirs in keys.items() if theirs in resources}
        given = {**given, "args": arguments or {}} if given or arguments else None
    if given is None:
        return None
    sizes = prod(int(_pointed(given.get("args", {}).get(size, 1), points)) for size in SIZES)
    workers, nodes = given.get("workers", 1), given.get("nodes", 0)
    each = sizes if sizes > 1 else int(_pointed(given.get("gpus", 1), points))
    return workers, workers * each, 0 if nodes == "colocate" else nodes


def _pointed(value: Any, points: dict[str, Any]) -> Any:
    return points.get(value[1:-1], value) if isinstance(value, str) else value


def planned(path: Path) -> Counts:
    """What the plan of an imported recipe has. TrtdistError when it cannot be imported or planned."""
    text = topology_text(import_files([path], Wishes(model="org/model")), [path.name])
    checked = check_text(text, path.name, environ=NO_SITE)
    if checked.topology is None:
        raise TrtdistError("; ".join(map(str, checked.diagnostics)))
    found = plan(checked.topology, Target.SLURM)
    return Counts(len(found.servers), found.world_size, found.allocation.nodes)


def _engine(recipe: Any) -> str:
    """The engine that a file is a recipe for, "" when it is none."""
    if not isinstance(recipe, dict) or "model" not in recipe or not recipe.keys() & {"resources", "roles"}:
        return ""
    engine = recipe.get("engine", recipe.get("backend"))
    return str(engine.get("type", "") if isinstance(engine, dict) else engine)


def main(folder: Path) -> int:
    """Compare all recipes below a folder; the exit code."""
    equal, different = 0, 0
    for path in sorted(folder.rglob("*.yaml")):
        try:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            continue
        if _engine(recipe) != "trtllm":
            continue
        try:
            wanted, found = said(recipe), planned(path)
            problem = "" if wanted == found else f"says {wanted}, and planned are {found}"
        except TrtdistError as error:
            problem = str(error)
        equal, different = equal + (not problem), different + bool(problem)
        if problem:
            print(f"{path}: {problem}")
    print(f"{equal} recipes with the workers, GPUs and nodes that they say, {different} without")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
