"""What pydantic found, in words and at the place where it was written."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from trtdist.topology.nodes import Node, at, spelling
from trtdist.topology.problems import Problems, shown

__all__ = ["named", "report_faults"]

_NEEDS = {
    "bool_type": "true or false",
    "dict_type": "a mapping of keys and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "model_attributes_type": "a section with keys",
    "model_type": "a section with keys",
    "string_type": "text",
    "tuple_type": "a list",
}
_EXAMPLES = {
    "model": "; add it, such as `model: org/model`: a hub id or a path",
    "name": "; add it, such as `name: demo`: runs are called and found by it",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def report_faults(error: ValidationError, root: Node, problems: Problems) -> None:
    """Note every fault of a validation, each at its place in the tree."""
    for fault in error.errors(include_url=False):
        path = fault["loc"]
        code, message = _told(fault, _named_as_written(path, root))
        problems.error(code, message, at(root, path))


def named(path: Sequence[Any]) -> str:
    """A path as a reader says it: `mounts[0] in container`."""
    name = ""
    parents: list[str] = []
    for step in path:
        if isinstance(step, int):
            name += f"[{step}]"
        elif step != "[key]":
            parents.extend([name] if name else [])
            name = str(step)
    place = f" in {'.'.join(parents)}" if parents else ""
    return f"{shown(name)[1:-1]}{place}"


def _named_as_written(path: Sequence[Any], root: Node) -> str:
    if path and path[-1] == "[key]":
        path = path[:-2]
    written = spelling(root, path)
    keys = [step for step in path if isinstance(step, str) and step != "[key]"]
    return named(path) + (f" (written {written})" if written and keys and written != keys[-1] else "")


def _told(fault: Any, name: str) -> tuple[str, str]:
    kind: str = fault["type"]
    context = fault.get("ctx", {})
    if kind == "missing":
        path = fault["loc"]
        place = f" in {'.'.join(str(step) for step in path[:-1])}" if len(path) > 1 else ""
        return "TRT011", f"the key {path[-1]!r}{place} is missing" + _EXAMPLES.get(str(path[-1]), "")
    if kind in _NEEDS:
        return "TRT013", f"{name} needs {_NEEDS[kind]}, not {_what(fault['input'])}"
    if kind == "int_from_float":
        return "TRT013", f"{name} needs a whole number, not {_what(fault['input'])}"
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return "TRT016", f"{name} must be {words} {context[key]:g}, not {_what(fault['input'])}"
    if kind == "literal_error":
        return "TRT015", _choice(name, str(context["expected"]), fault["input"])
    if kind == "string_too_short":
        return "TRT017", f"{name} is empty"
    if kind.startswith("TRT"):
        return kind, f"{name}: {context['message']}"
    return "TRT016", f"{name}: {fault['msg']}"


def _choice(name: str, expected: str, value: Any) -> str:
    choices = [word for word in expected.split("'") if word not in (" or ", ", ", "")]
    near = difflib.get_close_matches(value[:64], choices, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{name} must be one of {', '.join(choices)}, not {_what(value)}{hint}"


def _what(value: Any) -> str:
    """A wrong value as a reader would call it."""
    if value is None:
        return "nothing (write quotes for an empty text)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, str):
        return f"the text {shown(value)}"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping"
