"""The JSON Schema of the topology file, for editors: generated from the models, with aliases and engine arguments."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from trtdist.topology.model import KvCacheSection, ServerSection, Topology
from trtdist.topology.names import ALIASES, UNUSED, passed_through

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_AS_WRITTEN = {"type": ["string", "number", "boolean"]}


def json_schema() -> dict[str, Any]:
    """The schema of a topology file, JSON Schema 2020-12."""
    schema = Topology.model_json_schema()
    sections = schema["$defs"]
    for section in (ServerSection, KvCacheSection):
        _engine_keys(sections[section.__name__], section)
    for model, aliases in ALIASES.items():
        for alias, path in aliases.items():
            sections[model.__name__]["properties"][alias] = _alias(model, path, schema)
    for model, reasons in UNUSED.items():
        place = schema if model is Topology else sections[model.__name__]
        for key, reason in reasons.items():
            place["properties"].setdefault(key, {"deprecated": True, "description": f"No effect: {reason}."})
    # Text without quotes that looks like a number is taken as it was written.
    sections["ContainerSection"]["properties"]["env"]["additionalProperties"] = _AS_WRITTEN
    return {"$schema": _DIALECT, **schema, "title": "trtdist topology"}


def _engine_keys(section: dict[str, Any], model: type[BaseModel]) -> None:
    for key in sorted(passed_through(model)):
        section["properties"].setdefault(key, {"description": "Argument of TensorRT-LLM, passed on."})
    section["additionalProperties"] = False


def _alias(model: type[BaseModel], path: tuple[str, ...], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what an alias stands for."""
    target = schema["$defs"][model.__name__]["properties"][path[0]]
    for key in path[1:]:
        target = schema["$defs"][KvCacheSection.__name__]["properties"][key]
    kept = {key: value for key, value in target.items() if key not in ("default", "title", "description")}
    return {**kept, "description": f"Another spelling of {'.'.join(path)}."}
