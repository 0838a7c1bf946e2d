"""What lies around a supervisor: who signals it and why, what else may end its run, other nodes of the run.

Standard library, Python 3.9.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from trtdist.plan import Step
from trtdist.supervisor import handover_messages, messages

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

    def succeed(self) -> AsyncIterator[messages.Input]:
        """Ask for a run that takes over from this one; what becomes of it, until it has or will not."""
        ...

    async def call_off(self) -> None:
        """See to it that the run that was asked for does not come up, if there is one."""
        ...

    async def settled(self) -> None:
        """Return when the run that was asked for has its job, or has none."""
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

    async def succeed(self) -> AsyncIterator[messages.Input]:
        """Nobody runs out of time here."""
        yield handover_messages.SuccessorLost("there is no time limit")

    async def call_off(self) -> None:
        """There is none."""

    async def settled(self) -> None:
        """There is none."""

    async def clean(self) -> tuple[str, ...]:
        """There are no other nodes."""
        return ()
