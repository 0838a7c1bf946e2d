"""Whether the model that a topology names is all there, as far as it can be seen from here."""

from __future__ import annotations

import json
import os
from pathlib import Path

from trtdist.containers import Mount
from trtdist.engines.model_files import hub_snapshot, is_hub_id, missing
from trtdist.topology.lint.model_facts import ModelFacts
from trtdist.topology.model import Topology

__all__ = ["hub_cache", "model_facts", "model_problem"]

_YES = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its variables
_SHOWN = 3


def model_problem(topology: Topology) -> str:
    """What is wrong with the model of a topology, "" for nothing and for what cannot be seen from here."""
    if topology.engine != "tensorrt_llm":
        return ""
    if is_hub_id(topology.model):
        return _hub_problem(topology)
    path = _outside(topology, topology.model)
    if path is None or not _visible(path):
        return ""
    if not os.path.lexists(path):
        return f"the model {path} is not there; stage it with `trtdist model stage`, or correct the path"
    return _incomplete(f"the model {path}", path)


def model_facts(topology: Topology) -> ModelFacts | None:
    """The sizes of the model of a topology; None when its config.json cannot be seen from here."""
    folder = _folder(topology)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    except (OSError, ValueError):
        return None
    return ModelFacts.of(config, weights) if isinstance(config, dict) else None


def _folder(topology: Topology) -> Path | None:
    """The folder of a model, also in the cache of the hub that the topology names."""
    if not is_hub_id(topology.model):
        return _outside(topology, topology.model)
    home = topology.container.env.get("HF_HOME")
    seen = _outside(topology, home) if home else None
    return hub_snapshot(hub_cache(str(seen)), topology.model) if seen is not None else None


def hub_cache(home: str) -> Path:
    """Where the hub's programs keep models under an HF_HOME."""
    return Path(home) / "hub"


def _hub_problem(topology: Topology) -> str:
    """Of a hub id only what a job could not mend itself: the hub is not asked and the cache has no whole model."""
    given = topology.container.env
    home, offline = given.get("HF_HOME"), given.get("HF_HUB_OFFLINE", "").upper() in _YES
    seen = _outside(topology, home) if home and offline else None
    if seen is None or not seen.is_dir():
        return ""
    snapshot = hub_snapshot(hub_cache(str(seen)), topology.model)
    if snapshot is None:
        return (
            f"the model {topology.model} is not in {hub_cache(str(seen))}, and HF_HUB_OFFLINE keeps jobs from the hub"
        )
    return _incomplete(f"the model {topology.model} in {snapshot}", snapshot)


def _incomplete(what: str, path: Path) -> str:
    problems = missing(path)
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return f"{what} is not complete: {'; '.join([*problems[:_SHOWN], *more])}" if problems else ""


def _outside(topology: Topology, path: str) -> Path | None:
    """A path that workers see, as it is outside their container; None when it lies in the image."""
    if topology.container.runtime == "none":
        return Path(path)
    for mount in map(Mount.parse, reversed(topology.container.mounts)):
        if path == mount.target or path.startswith(mount.target.rstrip("/") + "/"):
            return Path(mount.source) / path[len(mount.target) :].lstrip("/")
    return None


def _visible(path: Path) -> bool:
    """Whether the file system of a path can be seen here: the nodes may have others."""
    return len(path.parts) > 1 and os.path.lexists(Path(*path.parts[:2]))
