"""YAML text to a tree in which everything remembers where it was written.

The tree is built from parser events, one after the other, with limits on depth and on the number of values that
aliases expand to: `yaml.compose` gives the same positions but recurses, and can be made to exhaust stack and memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, Union

import yaml

from trtdist.topology.diagnostics import Origin, Source
from trtdist.topology.problems import Problems
from trtdist.topology.scalars import Scalar, resolve

__all__ = ["Entry", "Items", "Node", "Section", "at", "read", "size_of", "spelling"]

MAX_DEPTH = 64
MAX_VALUES = 20_000

_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"
_COLLECTION_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    origin: Origin
    size: int = 1


@dataclass(frozen=True)
class Entry:
    """One `key: value`; `origin` is that of the key, `spelling` the key as it was written."""

    key: str
    spelling: str
    origin: Origin
    value: Node


@dataclass(frozen=True)
class Section:
    """A mapping; keys are unique."""

    entries: tuple[Entry, ...]
    origin: Origin
    size: int = 1

    def get(self, key: str) -> Entry | None:
        """The entry of a key."""
        return self._by_key.get(key)

    @cached_property
    def _by_key(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.entries}

    def replaced(self, entry: Entry) -> Section:
        """This mapping with an entry added, or put in the place of the one with the same key."""
        return Section(tuple({**self._by_key, entry.key: entry}.values()), self.origin)

    def without(self, key: str) -> Section:
        """This mapping without a key."""
        return Section(tuple(entry for entry in self.entries if entry.key != key), self.origin)


Node = Union[Scalar, Items, Section]


def size_of(node: Node) -> int:
    """How many values a node holds when its aliases are written out."""
    return 1 if isinstance(node, Scalar) else node.size


def at(node: Node, path: Iterable[Any]) -> Origin:
    """Where the value at a path was written, or the nearest thing around it that was."""
    origin = key = node.origin
    for step in path:
        if step == "[key]":
            return key
        if isinstance(node, Section) and (entry := node.get(str(step))) is not None:
            node, key = entry.value, entry.origin
            origin = node.origin
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            origin = node.origin
        else:
            break
    return origin


def spelling(node: Node, path: Iterable[Any]) -> str:
    """The last key of a path as it was written."""
    written = ""
    for step in path:
        if isinstance(node, Section) and (entry := node.get(str(step))) is not None:
            node, written = entry.value, entry.spelling
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
    return written


def read(text: str, source: Source, problems: Problems, *, positions: bool = True) -> Node | None:
    """The tree of a text, None when it is empty; stops at the first thing that leaves no tree to speak of."""
    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        origin = Origin(source, line, column) if positions else Origin(source)
        problems.fatal("TRT003", f"holds {_unprintable(bad[0])}", origin)
    try:
        return _Builder(source, problems, positions).build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        # What never ends is found at the end of the file and is wrong where it begins.
        endless = "end of stream" in (error.problem or "") and error.context_mark is not None
        mark = error.context_mark if endless else error.problem_mark or error.context_mark
        origin = _origin(source, mark) if positions else Origin(source)
        if "nesting depth" in (error.problem or ""):
            problems.fatal("TRT002", _TOO_DEEP, origin)
        problems.fatal("TRT004", _syntax(error), origin)
    except yaml.YAMLError as error:
        problems.fatal("TRT004", f"is not YAML: {' '.join(str(error).split())}", Origin(source))


def _unprintable(character: str) -> str:
    """What a character is that no text has; bytes of an argument that are no text come as lone surrogates."""
    if "\udc80" <= character <= "\udcff":
        return f"the byte 0x{ord(character) - 0xDC00:02x}, which is no text here; use a UTF-8 locale, such as C.UTF-8"
    what = "a NUL byte" if character == "\0" else f"the control character {character!r}"
    return f"{what}, so this is no text"


def _origin(source: Source, mark: Any) -> Origin:
    return Origin(source, mark.line + 1, mark.column + 1) if mark is not None else Origin(source)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join((error.problem or "cannot be read").split())
    if "\\t" in problem or "tab" in problem:
        return "a tab cannot indent YAML; use spaces"
    context = f" {' '.join(error.context.split())}" if error.context else ""
    if "<document start>" in problem:
        return "something follows the line '...' that ended the document; remove that line"
    hint = "; is a text with ': ' or '#' missing its quotes?" if "mapping values are not allowed" in problem else ""
    return f"is not YAML: {problem}{context}{hint}"


class _Builder:
    """Builds the tree of one document from parser events."""

    def __init__(self, source: Source, problems: Problems, positions: bool) -> None:
        self._source = source
        self._problems = problems
        self._origin: Callable[[Any], Origin] = (
            (lambda mark: _origin(source, mark)) if positions else (lambda mark: Origin(source))
        )
        self._anchors: dict[str, Node | None] = {}
        self._values = 0

    def build(self, events: Iterator[Any]) -> Node | None:
        """The root of the only document, None when there is none."""
        stack: list[_Open] = []
        root: Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse("TRT006", "a second document begins here; put one document into each file", event)
                continue
            node = self._node(event, stack)
            if node is None:
                continue
            if stack:
                stack[-1].add(node)
            else:
                root = node
        return root

    def _node(self, event: Any, stack: list[_Open]) -> Node | None:
        """The node that an event completes, None when it completes none."""
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            stack.append(self._opened(event, len(stack)))
            return None
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            opened = stack.pop()
            return self._named(opened.anchor, opened.close(self._problems))
        if isinstance(event, yaml.ScalarEvent):
            self._count(1, event)
            return self._named(event.anchor, resolve(event, self._origin(event.start_mark), self._problems))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        return None

    def _opened(self, event: Any, depth: int) -> _Open:
        if depth >= MAX_DEPTH:
            self._refuse("TRT002", _TOO_DEEP, event)
        if event.tag not in _COLLECTION_TAGS:
            self._refuse("TRT007", f"the tag {event.tag!r} has no meaning here; remove it", event)
        self._count(1, event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        return _Open(isinstance(event, yaml.MappingStartEvent), event.anchor, self._origin(event.start_mark))

    def _alias(self, event: Any) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            inside = event.anchor in self._anchors
            why = "is used inside of itself" if inside else "is used and never defined"
            self._refuse("TRT008", f"the anchor {event.anchor!r} {why}", event)
        self._count(size_of(node), event)
        return node

    def _named(self, anchor: str | None, node: Node) -> Node:
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _count(self, number: int, event: Any) -> None:
        self._values += number
        if self._values > MAX_VALUES:
            why = "its aliases expand to" if isinstance(event, yaml.AliasEvent) else "holds"
            self._refuse("TRT002", f"{why} more than {MAX_VALUES} values", event)

    def _refuse(self, code: str, message: str, event: Any) -> NoReturn:
        self._problems.fatal(code, message, self._origin(event.start_mark))


class _Open:
    """A list or mapping whose end has not come yet."""

    def __init__(self, mapping: bool, anchor: str | None, origin: Origin) -> None:
        self.anchor = anchor
        self._mapping = mapping
        self._origin = origin
        self._nodes: list[Node] = []

    def add(self, node: Node) -> None:
        """Take a finished child: an item, or by turns a key and its value."""
        self._nodes.append(node)

    def close(self, problems: Problems) -> Node:
        """The finished list or mapping."""
        size = 1 + sum(size_of(node) for node in self._nodes)
        if not self._mapping:
            return Items(tuple(self._nodes), self._origin, size)
        entries: dict[str, Entry] = {}
        merged: list[Section] = []
        for key, value in zip(self._nodes[::2], self._nodes[1::2]):
            if not isinstance(key, Scalar):
                problems.fatal("TRT007", "a list or mapping cannot be a key", key.origin)
            elif key.merge:
                merged.extend(_merged(value, problems))
            elif key.text in entries:
                first = entries[key.text].origin
                where = f", first written in line {first.line}" if first.line else ""
                problems.error("TRT010", f"the key {key.text!r} is given twice{where}", key.origin)
            else:
                entries[key.text] = Entry(key.text, key.text, key.origin, value)
        for section in merged:
            for entry in section.entries:
                entries.setdefault(entry.key, entry)
        return Section(tuple(entries.values()), self._origin, size)


def _merged(value: Node, problems: Problems) -> list[Section]:
    """The mappings that a merge key `<<` names, the first of them the strongest."""
    nodes = value.items if isinstance(value, Items) else (value,)
    for node in nodes:
        if not isinstance(node, Section):
            problems.error("TRT007", "'<<' merges mappings, and this is none", node.origin)
    return [node for node in nodes if isinstance(node, Section)]
