"""Tree to plain data, read as the models expect it: a field that holds text gets the text that was written."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from trtdist.topology.names import core
from trtdist.topology.nodes import Items, Node, Section
from trtdist.topology.problems import Problems
from trtdist.topology.scalars import Scalar

__all__ = ["plain", "section"]


def section(node: Section, model: type[BaseModel], problems: Problems) -> dict[str, Any]:
    """The data of a section for its model; a key with nothing behind it is as if it was not there, and null takes away
    what would be there."""
    data: dict[str, Any] = {}
    for entry in node.entries:
        field = model.model_fields.get(entry.key)
        if field is None:
            data[entry.key] = plain(entry.value, Any, problems)
        elif _nothing(entry.value) and not field.is_required():
            if _written_null(entry.value) and type(None) in get_args(field.annotation):
                data |= {} if field.default is None else {entry.key: None}
            elif _is_section(field.annotation):
                data[entry.key] = {}
        else:
            data[entry.key] = plain(entry.value, field.annotation, problems)
    return data


def plain(node: Node, annotation: Any, problems: Problems) -> Any:
    """The data of any node, read as the annotation of its field."""
    kind = core(annotation)
    if isinstance(node, Section):
        if _is_section(kind):
            return section(node, kind, problems)
        inner = get_args(kind)[1] if get_origin(kind) is dict else Any
        return {entry.key: plain(entry.value, inner, problems) for entry in node.entries}
    if isinstance(node, Items):
        inner = get_args(kind)[0] if get_origin(kind) is tuple else Any
        return [plain(item, inner, problems) for item in node.items]
    return _scalar(node, kind, problems)


def _scalar(node: Scalar, kind: Any, problems: Problems) -> Any:
    if node.value is None or isinstance(node.value, str):
        return node.value
    if _is_text(kind):
        return node.text
    if node.trap:
        problems.error("TRT026", node.trap, node.origin)
    return node.value


def _is_text(kind: Any) -> bool:
    """Whether a field takes text, so that what was written is meant as it stands; also as the only item of a list."""
    if get_origin(kind) is tuple:
        return core(get_args(kind)[0]) is str
    return kind is str or (get_origin(kind) is Literal and all(isinstance(choice, str) for choice in get_args(kind)))


def _is_section(annotation: Any) -> bool:
    kind = core(annotation)
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _written_null(node: Node) -> bool:
    return isinstance(node, Scalar) and bool(node.text)


def _nothing(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None
