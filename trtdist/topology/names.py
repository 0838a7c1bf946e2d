"""Keys: one name for each thing, whatever its spelling; unknown ones are reported with what was likely meant."""

from __future__ import annotations

import difflib
import types
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from trtdist.topology.engine_args import KV_CACHE_KEYS, LLM_KEYS, RENAMED_KEYS
from trtdist.topology.model import (
    ContainerSection,
    KvCacheSection,
    PassThrough,
    ServerSection,
    SiteContainer,
    SiteProfile,
    SiteSlurm,
    SlurmSection,
    Topology,
)
from trtdist.topology.nodes import Entry, Node, Section
from trtdist.topology.problems import Problems, shown

__all__ = [
    "ALIASES",
    "UNUSED",
    "canonical",
    "core",
    "known_keys",
    "passed_through",
    "resolve_key",
    "section_model",
    "unknown_key",
]

# Older and shorter spellings, with the path that each stands for.
ALIASES: dict[type[BaseModel], dict[str, tuple[str, ...]]] = {
    ServerSection: {
        "tp_size": ("tensor_parallel_size",),
        "pp_size": ("pipeline_parallel_size",),
        "cp_size": ("context_parallel_size",),
        "ep_size": ("moe_expert_parallel_size",),
        "cluster_size": ("moe_cluster_parallel_size",),
        "gpu_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
        "free_gpu_memory_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
        "kv_cache_free_gpu_memory_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
    },
}

# Keys of TensorRT-LLM's disaggregated configuration that are read by its own servers only, with what replaces them.
UNUSED: dict[type[BaseModel], dict[str, str]] = {
    Topology: {
        "hostname": "the host is resolved when the deployment starts",
        "port": "set router.http.port for the HTTP front end",
        "backend": "set it in the server sections if the engine must be told",
    },
    ServerSection: {
        "router": "set router.policy for the deployment",
        "urls": "addresses are resolved when the deployment starts",
    },
}

# The sections of a site profile, with those of a topology that they give defaults for.
_SITE: dict[type[BaseModel], type[BaseModel]] = {
    SiteProfile: Topology,
    SiteSlurm: SlurmSection,
    SiteContainer: ContainerSection,
}

_CUTOFF = 0.6
_LONGEST_GUESSED = 64
_MOST_GUESSED = 100
_MOST_HOMES = 3


def core(annotation: Any) -> Any:
    """The type of a field without `Annotated` and `| None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
            if len(kinds) != 1:
                return annotation
            annotation = kinds[0]
        else:
            return annotation


def section_model(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model of the section under a key, None when the key holds something else."""
    field = model.model_fields.get(key)
    kind = core(field.annotation) if field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def passed_through(model: type[BaseModel]) -> frozenset[str]:
    """The keys of the engine that a section also takes."""
    if issubclass(model, ServerSection):
        return LLM_KEYS
    return KV_CACHE_KEYS if issubclass(model, KvCacheSection) else frozenset()


def known_keys(model: type[BaseModel]) -> list[str]:
    """Everything that can be written in a section, our own keys first."""
    return [*model.model_fields, *ALIASES.get(model, ()), *sorted(passed_through(model) - set(model.model_fields))]


def resolve_key(model: type[BaseModel], key: str) -> tuple[str, ...] | None:
    """The path that a key stands for within its section, None when it is unknown."""
    if key in model.model_fields or key in passed_through(model):
        return (key,)
    return ALIASES.get(model, {}).get(key)


def canonical(node: Node, model: type[BaseModel], problems: Problems, where: str = "") -> Node:
    """The same section with one spelling for each key; what is unknown or unused is reported and left out."""
    if not isinstance(node, Section):
        return node
    result = Section((), node.origin)
    for entry in node.entries:
        path = _accepted(entry, model, problems, where)
        if path is None:
            continue
        inner = section_model(model, entry.key)
        value = canonical(entry.value, inner, problems, _joined(where, entry.key)) if inner else entry.value
        result = _put(result, path, Entry(path[-1], entry.spelling, entry.origin, value), problems)
    return result


def unknown_key(key: str, model: type[BaseModel], where: str, problems: Problems) -> str:
    """The message about a key that is not known, with what was likely meant."""
    place = f" in {where}" if where else ""
    return f"unknown key {shown(key)}{place}" + _guess(key, model, problems)


def _accepted(entry: Entry, model: type[BaseModel], problems: Problems, where: str) -> tuple[str, ...] | None:
    key = entry.key
    reason = UNUSED.get(model, {}).get(key)
    if reason is not None:
        problems.warning("TRT101", f"{key!r}{_in(where)} has no effect: {reason}", entry.origin)
        return None
    path = resolve_key(model, key)
    if path is None:
        problems.error("TRT012", unknown_key(key, model, where, problems), entry.origin)
    elif issubclass(model, PassThrough) and key in RENAMED_KEYS:
        problems.warning(
            "TRT102", f"{key!r}{_in(where)} is an older name: newer TensorRT-LLM has {RENAMED_KEYS[key]}", entry.origin
        )
    return path


def _put(section: Section, path: tuple[str, ...], entry: Entry, problems: Problems) -> Section:
    """The section with an entry put where its path says, unless another spelling is there already."""
    old = section.get(path[0])
    if len(path) > 1:
        inner = old.value if old is not None else Section((), entry.value.origin)
        if not isinstance(inner, Section):
            return section
        value = _put(inner, path[1:], entry, problems)
        return section.replaced(Entry(path[0], path[0], old.origin if old else entry.origin, value))
    if old is None:
        return section.replaced(entry)
    if isinstance(old.value, Section) and isinstance(entry.value, Section):
        merged = old.value
        for inner_entry in entry.value.entries:
            merged = _put(merged, (inner_entry.key,), inner_entry, problems)
        return section.replaced(Entry(entry.key, entry.spelling, entry.origin, merged))
    problems.error("TRT014", f"{entry.spelling!r} and {old.spelling!r} mean the same; keep one of them", entry.origin)
    return section


def _guess(key: str, model: type[BaseModel], problems: Problems) -> str:
    if len(key) > _LONGEST_GUESSED or problems.guesses >= _MOST_GUESSED:
        return ""
    problems.guesses += 1
    home = _home(key, model)
    if home and not issubclass(model, PassThrough):
        return f"; it belongs into {home}"
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known_keys(model), n=1, cutoff=_CUTOFF)
    if near:
        return f"; did you mean {near[0]!r}?"
    if home:
        return f"; it belongs into {home}"
    if model in _SITE and resolve_key(_SITE[model], key):
        return "; it belongs into a topology, not into a site profile"
    if issubclass(model, PassThrough):
        return "; if the engine knows it, put it into extra_engine_args"
    return f"; known here: {', '.join(model.model_fields)}"


def _home(key: str, model: type[BaseModel]) -> str:
    """The sections that know a key which was written in the wrong one."""
    root = SiteProfile if model in _SITE else Topology
    homes = [path for path, section in _sections(root) if section is not model and resolve_key(section, key)]
    if not homes and model is not root and key in root.model_fields:
        return "the top level"
    return " or ".join(homes) if len(homes) <= _MOST_HOMES else ""


@cache
def _sections(model: type[BaseModel]) -> tuple[tuple[str, type[BaseModel]], ...]:
    """All sections below a model with their paths."""
    found: list[tuple[str, type[BaseModel]]] = []
    for name in model.model_fields:
        inner = section_model(model, name)
        if inner is not None:
            found.append((name, inner))
            found.extend((f"{name}.{path}", deeper) for path, deeper in _sections(inner))
    return tuple(found)


def _in(where: str) -> str:
    return f" in {where}" if where else ""


def _joined(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
