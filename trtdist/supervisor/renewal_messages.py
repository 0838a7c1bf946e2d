"""What the state machine hears and says of the certificates of a run. Standard library, Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LookedAt", "Renew"]


@dataclass(frozen=True)
class LookedAt:
    """The certificates were looked at, and have to be again in so many seconds; `renewed` if they were, just now."""

    again_in: float
    renewed: bool = False


@dataclass(frozen=True)
class Renew:
    """See to it that the certificates are good for some time; answered by LookedAt, unless the run has none."""
