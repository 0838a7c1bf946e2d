"""What the rules look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trtdist.topology.diagnostics import Origin
from trtdist.topology.lint.model_facts import ModelFacts
from trtdist.topology.lint.versions import Version, release_of
from trtdist.topology.model import ServerSection, Topology
from trtdist.topology.nodes import Section, at
from trtdist.topology.problems import Problems

__all__ = ["SERVER_KEYS", "Case", "mapping"]

SERVER_KEYS = {"context": "context_servers", "generation": "generation_servers", "monolithic": "servers"}


@dataclass(frozen=True)
class Case:
    """A valid topology with the tree that it was read from, and the model as far as it can be seen from here."""

    topology: Topology
    root: Section
    problems: Problems
    model: ModelFacts | None = None

    @cached_property
    def version(self) -> Version | None:
        """The release of TensorRT-LLM, as the topology says it or as the tag of its image does."""
        return release_of(self.topology.tensorrt_llm, self.topology.container.image)

    def sections(self) -> Iterator[tuple[str, ServerSection]]:
        """The server sections with their keys."""
        for role, section in self.topology.sections:
            yield SERVER_KEYS[role], section

    def place(self, key: str, *path: str) -> Origin:
        """Where an engine argument of a server section was written, or its section."""
        extra = (key, "extra_engine_args", *path)
        entry = self.root.get(key)
        inner = entry.value.get("extra_engine_args") if entry and isinstance(entry.value, Section) else None
        if inner and path and isinstance(inner.value, Section) and inner.value.get(path[0]) is not None:
            return at(self.root, extra)
        return at(self.root, (key, *path))

    def error(self, code: str, message: str, origin: Origin) -> None:
        """Note what is certain to fail."""
        self.problems.error(code, message, origin)

    def warning(self, code: str, message: str, origin: Origin) -> None:
        """Note what is doubtful."""
        self.problems.warning(code, message, origin)

    def tell(self, code: str, message: str, origin: Origin, *, certain: bool) -> None:
        """Note an error when it is certain, and a warning when it is not."""
        (self.error if certain else self.warning)(code, message, origin)


def mapping(value: Any) -> dict[str, Any]:
    """A mapping, empty for everything else."""
    return value if isinstance(value, dict) else {}
