"""`--set a.b=c`: values from the command line, put over what the file says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_origin

from pydantic import BaseModel

from trtdist.topology.diagnostics import InvalidTopologyError, Origin, Source
from trtdist.topology.names import canonical, core, resolve_key, section_model, unknown_key
from trtdist.topology.nodes import Entry, Items, Node, Section, read
from trtdist.topology.problems import Problems, shown
from trtdist.topology.scalars import Scalar

__all__ = ["apply_overrides"]

_AFTER_FILES = 1000
_LONGEST = 65_536
_MOST_LEVELS = 32


def apply_overrides(root: Section, overrides: Sequence[str], model: type[BaseModel], problems: Problems) -> Section:
    """The tree with each `path=value` put in; what cannot be is reported as `--set path`."""
    for index, text in enumerate(overrides):
        root = _applied(root, text, _AFTER_FILES + index, model, problems)
    return root


def _applied(root: Section, text: str, order: int, model: type[BaseModel], problems: Problems) -> Section:
    name, equals, written = text.partition("=")
    source = Source(f"--set {shown(name)[1:-1]}", order)
    origin = Origin(source)
    steps = name.strip().split(".")
    if not equals or not all(steps) or len(steps) > _MOST_LEVELS or len(written) > _LONGEST:
        problems.error("TRT018", "write it as --set path.to.key=value", origin)
        return root
    found = _target(steps, model, origin, problems)
    if found is None:
        return root
    path, inner = found
    try:
        value = read(written, source, problems, positions=False)
    except InvalidTopologyError:
        return root
    if value is None:
        value = Scalar(None, "", origin)
    if inner is not None:
        value = canonical(value, inner, problems, name)
    try:
        changed = _put(root, path, value, origin)
    except _UnreachableError as error:
        problems.error("TRT018", str(error), origin)
        return root
    return changed if isinstance(changed, Section) else root


class _UnreachableError(Exception):
    """There is nothing at the path that could be set."""


def _target(
    steps: list[str], model: type[BaseModel], origin: Origin, problems: Problems
) -> tuple[list[str], type[BaseModel] | None] | None:
    """The path in one spelling, and the model of the section that it names if it names one; None if unknown."""
    path: list[str] = []
    current: type[BaseModel] | None = model
    for position, step in enumerate(steps):
        if current is None:
            path.append(step)
            continue
        resolved = resolve_key(current, step)
        if resolved is None:
            problems.error("TRT012", unknown_key(step, current, ".".join(steps[:position]), problems), origin)
            return None
        path.extend(resolved)
        holder = current
        for key in resolved[:-1]:
            holder = section_model(holder, key) or holder
        current = section_model(holder, resolved[-1])
        if current is None and position + 1 < len(steps) and not _has_inside(holder, resolved[-1]):
            problems.error("TRT018", f"{step!r} holds a single value, nothing inside it can be set", origin)
            return None
    return path, current


def _has_inside(model: type[BaseModel], key: str) -> bool:
    field = model.model_fields.get(key)
    return field is None or get_origin(core(field.annotation)) in (dict, tuple)


def _put(node: Node | None, path: list[str], value: Node, origin: Origin) -> Node:
    """The node with a value put at a path below it; nothing takes the key away."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(node, Items):
        return _put_item(node, step, rest, value, origin)
    if isinstance(node, Scalar) and node.value is not None:
        raise _UnreachableError(f"there is {shown(node.text)} at this path, which has no {step!r} inside")
    section = node if isinstance(node, Section) else Section((), origin)
    if not rest and isinstance(value, Scalar) and value.value is None and not value.text:
        return section.without(step)
    old = section.get(step)
    return section.replaced(Entry(step, step, origin, _put(old.value if old else None, rest, value, origin)))


def _put_item(node: Items, step: str, rest: list[str], value: Node, origin: Origin) -> Items:
    if not re.fullmatch(r"\d{1,6}", step, re.ASCII):
        raise _UnreachableError(f"there is a list at this path: {step!r} must be a number from 0")
    index, length = int(step), len(node.items)
    if index > length:
        raise _UnreachableError(f"the list has {length} items: {index} must be at most {length}")
    old = node.items[index] if index < length else None
    changed = _put(old, rest, value, origin)
    return Items((*node.items[:index], changed, *node.items[index + 1 :]), node.origin)
