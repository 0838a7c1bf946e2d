"""The tables of docs/topology.md, as the models say them."""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trtdist.topology.model import SiteProfile, Topology

__all__ = ["expected"]

HEAD = ["| key | default | is |", "|---|---|---|"]
SERVERS = ("context_servers", "generation_servers", "servers")


def expected() -> dict[str, list[str]]:
    """The lines of each table by the heading above it."""
    tables: dict[str, list[str]] = {}
    _add("The file", "", Topology, tables)
    _add("The site profile", "site: ", SiteProfile, tables)
    return tables


def _add(heading: str, prefix: str, model: type[BaseModel], tables: dict[str, list[str]]) -> None:
    tables[heading] = [*HEAD, *(_row(key, field) for key, field in model.model_fields.items())]
    for key, field in model.model_fields.items():
        section = _section(field)
        if section is None or key in SERVERS[1:]:
            continue
        name = "SERVERS" if key == SERVERS[0] else key
        below = "" if heading.startswith("The ") else heading.removeprefix("site: ").strip("`") + "."
        _add(f"{prefix}`{below}{name}`", prefix, section, tables)


def _row(key: str, field: FieldInfo) -> str:
    choices = ", ".join(f"`{choice}`" for choice in _choices(field))
    return f"| {key} | {_default(field)} | {field.description}{f' One of {choices}.' if choices else ''} |"


def _default(field: FieldInfo) -> str:
    if _section(field) is not None:
        return "a section"
    if field.is_required():
        return "required"
    value: Any = field.default
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    union = get_origin(field.annotation) in (Union, UnionType)
    return get_args(field.annotation) if union else (field.annotation,)


def _choices(field: FieldInfo) -> list[str]:
    """The words of which a value must be one, none where more is possible."""
    kinds = [kind for kind in _kinds(field) if kind is not type(None)]
    return (
        [word for kind in kinds for word in get_args(kind)] if {get_origin(kind) for kind in kinds} == {Literal} else []
    )


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a section, None for a value."""
    found = [kind for kind in _kinds(field) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return found[0] if found else None
