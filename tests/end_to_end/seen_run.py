"""What a run directory tells to whoever reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trtdist.events import Event, EventReader

__all__ = ["Kind", "SeenRun"]

Kind = TypeVar("Kind", bound=Event)


@dataclass(frozen=True)
class SeenRun:
    """A run by its directory."""

    folder: Path

    def told(self, text: str) -> bool:
        """Whether an event has this text in it."""
        return any(text in path.read_text() for path in (self.folder / "events").glob("*.jsonl"))

    def events(self, kind: type[Kind]) -> list[Kind]:
        """The events of a kind."""
        records = EventReader(self.folder / "events").poll()
        return [record.event for record in records if isinstance(record.event, kind)]

    def verdict(self) -> dict[str, Any] | None:
        """The verdict, None while there is none."""
        path = self.folder / "verdict.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return found
