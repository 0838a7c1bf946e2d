"""What the state machine hears and says of the run that is to take over before the time limit. Standard library,
Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CallOff", "HandOver", "HandOverDue", "Succeed", "SuccessorAsked", "SuccessorLost", "SuccessorReady"]


# What the machine hears.


@dataclass(frozen=True)
class HandOverDue:
    """The time limit is so near that a run must be asked for that takes over."""


@dataclass(frozen=True)
class SuccessorAsked:
    """Slurm has taken the job of the run that is to take over."""

    run: str
    job: str


@dataclass(frozen=True)
class SuccessorReady:
    """It is READY, and clients that look for the run find it; in `patience` seconds this run must begin to end."""

    run: str
    job: str
    patience: float


@dataclass(frozen=True)
class SuccessorLost:
    """It will not take over, or could not be asked for; `reason` is a sentence."""

    reason: str


# What the machine says.


@dataclass(frozen=True)
class Succeed:
    """Ask Slurm, for the `attempt`th time, for a run that takes over; answered by SuccessorAsked and in the end by
    SuccessorReady or SuccessorLost."""

    attempt: int


@dataclass(frozen=True)
class HandOver:
    """Have clients that are connected go to the run that has taken over."""

    run: str


@dataclass(frozen=True)
class CallOff:
    """See to it that the run that was to take over does not come up."""
