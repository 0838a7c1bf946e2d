"""What lies around a supervisor: who signals it and why, what else may end its run, other nodes of the run.

Standard library, Python 3.9.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from trtdist.plan import Step
from trtdist.supervisor import messages

__all__ = ["Alone", "Surroundings"]


class Surroundings(Protocol):
    """What the supervisor asks about the place where it runs."""

    async def meaning(self, name: str) -> messages.Input:
        """What a signal to the supervisor means, such as SIGTERM."""
        ...

    def news(self) -> AsyncIterator[messages.Input]:
        """What is going to happen to the run from outside, for as long as it lasts."""
        ...

    async def place(self, step: Step) -> str:
        """Put spare nodes in place of those of a step that are down; says in a sentence what was moved, "" for none."""
        ...

    async def clean(self) -> tuple[str, ...]:
        """Remove the local folders of the run on other nodes; says what could not be removed."""
        ...


class Alone:
    """A plain process on one machine: every signal is somebody's wish."""

    async def meaning(self, name: str) -> messages.Input:
        """An interruption."""
        return messages.StopAsked(True, None, f"interrupted ({name})")

    async def news(self) -> AsyncIterator[messages.Input]:
        """None."""
        nothing: tuple[messages.Input, ...] = ()
        for event in nothing:
            yield event

    async def place(self, step: Step) -> str:
        """Nothing."""
        return ""

    async def clean(self) -> tuple[str, ...]:
        """There are no other nodes."""
        return ()
