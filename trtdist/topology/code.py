"""What a diagnostic code is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Code"]


@dataclass(frozen=True)
class Code:
    """A code, what it is about, why, and a topology that is wrong in this way beside one that is right.

    `wrong` and `right` are whole topologies, or commands when they begin with `$ `.
    """

    code: str
    title: str
    text: str
    wrong: str
    right: str
