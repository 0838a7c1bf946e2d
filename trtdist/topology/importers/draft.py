"""What an importer works with: files that were read, and a topology that grows, with remarks on what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trtdist.topology.diagnostics import Origin
from trtdist.topology.nodes import Entry, Node, Section
from trtdist.topology.problems import Problems
from trtdist.topology.values import plain

__all__ = [
    "CHANGED",
    "LOST",
    "Document",
    "Draft",
    "Fields",
    "Imported",
    "Remark",
    "Wishes",
    "merged",
    "name_of",
]

LOST = "lost"
CHANGED = "changed"
_LONGEST_NAME = 48


@dataclass(frozen=True)
class Document:
    """One file that was read; `name` is its path as it was given."""

    name: str
    root: Section

    @property
    def words(self) -> frozenset[str]:
        """The words of its file name, by which a file of engine arguments shows its role."""
        base = self.name.replace("\\", "/").rsplit("/", 1)[-1].lower()
        return frozenset(re.split(r"[^a-z]+", base))


@dataclass(frozen=True)
class Wishes:
    """What the user says beside the files; None for what the files decide."""

    name: str | None = None
    model: str | None = None
    image: str | None = None
    tensorrt_llm: str | None = None


@dataclass(frozen=True)
class Remark:
    """A key that was not carried over (`kind` lost), or was under another name or form (`changed`).

    `why` says what became of it, `instead` what to do, "" for nothing.
    """

    kind: str
    key: str
    why: str
    instead: str
    origin: Origin

    def __str__(self) -> str:
        return f"{self.origin}: {self.key}: {self.why}" + (f"; {self.instead}" if self.instead else "")


@dataclass(frozen=True)
class Imported:
    """A topology as it would be written, the name of the format that it comes from, and all remarks in order."""

    format: str
    topology: dict[str, Any]
    remarks: tuple[Remark, ...]

    def of_kind(self, kind: str) -> tuple[Remark, ...]:
        """The remarks of one kind."""
        return tuple(remark for remark in self.remarks if remark.kind == kind)


@dataclass
class Draft:
    """A topology in the making."""

    wishes: Wishes
    problems: Problems = field(default_factory=Problems)
    data: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def lose(self, key: str, origin: Origin, why: str, instead: str = "") -> None:
        """Remark that a key is not carried over."""
        self.remarks.append(Remark(LOST, key, why, instead, origin))

    def change(self, key: str, origin: Origin, what: str) -> None:
        """Remark that a key is carried over in another form."""
        self.remarks.append(Remark(CHANGED, key, what, "", origin))

    def put(self, path: str, value: Any) -> None:
        """Set a value of the topology by its path with dots; None leaves it as it is."""
        if value is None:
            return
        *above, last = path.split(".")
        section = self.data
        for key in above:
            section = section.setdefault(key, {})
        section[last] = value

    def fields(self, document: Document) -> Fields:
        """The entries of a document."""
        return Fields(document.root, "", self)

    def lose_known(self, fields: Fields, known: Mapping[str, str]) -> None:
        """Remark on the entries that have a reason in `known` for not being carried over."""
        for key, why in known.items():
            entry = fields.entry(key)
            if entry is not None:
                said, _, instead = why.partition("; ")
                self.lose(fields.named(key), entry.origin, said, instead)

    def lose_rest(self, fields: Fields, known: Mapping[str, str]) -> None:
        """Remark on every entry that nobody took; `known` has a reason by key for those that are known."""
        for key, entry in fields.rest():
            why = known.get(key) or known.get(key.rpartition(".")[2]) or "nothing in a topology corresponds to it"
            said, _, instead = why.partition("; ")
            self.lose(key, entry.origin, said, instead)


class Fields:
    """The entries of a mapping, of which each is taken once; what remains is told at the end."""

    def __init__(self, section: Section, path: str, draft: Draft) -> None:
        self.section = section
        self.path = path
        self._draft = draft
        self._taken: set[str] = set()
        self._inner: dict[str, Fields] = {}

    @property
    def origin(self) -> Origin:
        """Where it begins."""
        return self.section.origin

    def named(self, key: str) -> str:
        """The full path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, *keys: str) -> bool:
        """Whether one of the keys is there."""
        return any(self.section.get(key) is not None for key in keys)

    def entry(self, key: str) -> Entry | None:
        """An entry, taken."""
        found = self.section.get(key)
        if found is not None:
            self._taken.add(key)
        return found

    def at(self, key: str) -> Origin:
        """Where a key is written, or the mapping when it is not."""
        found = self.section.get(key)
        return found.origin if found is not None else self.origin

    def value(self, key: str) -> Any:
        """The value of a key, taken; None when it is not there."""
        found = self.entry(key)
        return None if found is None else self.plain(found.value)

    def plain(self, node: Node) -> Any:
        """Any node as data."""
        return plain(node, Any, self._draft.problems)

    def text(self, key: str) -> str | None:
        """A value as the text that was written, taken; None when it is not there, nothing, or a placeholder."""
        found = self.section.get(key)
        text = getattr(found.value, "text", None) if found is not None else None
        if found is None or text is None:
            return None
        self._taken.add(key)
        if getattr(found.value, "value", None) is None or not text.strip():
            return None
        if re.fullmatch(r"<[^<>]*>", text.strip()):
            self._draft.lose(self.named(key), found.origin, f"is the placeholder {text.strip()}", "fill it in")
            return None
        return str(text)

    def number(self, key: str, default: int = 0) -> int:
        """A whole number of 0 or more, taken; the default when there is none, and what is none stays."""
        found = self.section.get(key)
        value = getattr(found.value, "value", None) if found is not None else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return default
        self._taken.add(key)
        return value

    def inner(self, key: str) -> Fields:
        """The entries of a mapping below a key, empty when it is none or not there."""
        if key not in self._inner:
            found = self.section.get(key)
            section = found.value if found is not None and isinstance(found.value, Section) else None
            self._inner[key] = Fields(section or Section((), self.at(key)), self.named(key), self._draft)
            if section is not None or (found is not None and getattr(found.value, "value", "") is None):
                self._taken.add(key)
        return self._inner[key]

    def items(self, key: str) -> list[Any]:
        """The values of a list, taken; empty when there is none."""
        value = self.value(key)
        return value if isinstance(value, list) else [] if value is None else [value]

    def left(self) -> Iterator[Entry]:
        """The entries that nobody took, at this level."""
        return (entry for entry in self.section.entries if entry.key not in self._taken)

    def rest(self) -> Iterator[tuple[str, Entry]]:
        """What nobody took, with full paths, in the mappings that were looked into as well."""
        for entry in self.left():
            yield self.named(entry.key), entry
        for inner in self._inner.values():
            yield from inner.rest()


def name_of(*candidates: str | None) -> str:
    """The first candidate that can be made the name of a deployment."""
    for candidate in candidates:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", candidate or "").strip("-_")[:_LONGEST_NAME].rstrip("-_")
        if name and name != "latest":
            return name
    return "imported"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as one, mapping by mapping; the second wins."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
