"""What a simulated life is made of, as frozen facts. Times are seconds of virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtdist.plan import Plan
from trtdist.supervisor.facts import Settings

__all__ = ["ASKED", "TERM", "Fault", "News", "Scene", "Temper", "Violation", "check"]

# What stands for a fault where nothing went wrong: the end was asked for by the supervisor, or by Slurm.
ASKED, TERM = "asked", "TERM to everything"


@dataclass(frozen=True)
class Temper:
    """How the programs of a step behave, in seconds; infinite for what they never do.

    `begins` from the start of the step until its tasks run, `up` from then until they serve, `later` the same once it
    was started again (None for as at first), `stops` from a signal until they end, `dies` the same from KILL. `taken`
    is how many of its ports are taken one after the other, `refusal` why it cannot be started ("launch") or does not
    run where it is ("task"), `exits` a code with which it ends in place of serving.
    """

    begins: float
    up: float
    stops: float
    dies: float
    taken: int = 0
    refusal: str = ""
    exits: int | None = None
    later: float | None = None


@dataclass(frozen=True)
class Fault:
    """Something done to the run at a time: a kind of `faults.FAULTS`, to whom, for how long, with what exit code or
    signal (a negative number)."""

    at: float
    kind: str
    target: str = ""
    length: float = 0.0
    end: int = 0

    @property
    def name(self) -> str:
        """What tells it from the others of its life."""
        return f"{self.kind} {self.target} at {self.at:.3f}"


@dataclass(frozen=True)
class Scene:
    """One life before it is lived: nothing in it is left to chance but what `seed` says.

    `lags` is how late the files of each node are seen, `ahead` how far its clock is. `unresolved` says that no
    addresses are found. At `until` somebody asks for the end.
    """

    seed: int
    plan: Plan
    settings: Settings
    slurm: bool
    tempers: Mapping[str, Temper]
    faults: tuple[Fault, ...]
    lags: tuple[float, ...]
    ahead: tuple[float, ...]
    unresolved: bool
    until: float


@dataclass(frozen=True)
class News:
    """What an input truly tells, which the supervisor does not know.

    `name` of `step` ended at the true time `at`, because of `fault`; `itself` tells what the fault hit from what
    followed.
    """

    fault: str
    name: str
    step: str
    at: float
    itself: bool


class Violation(Exception):
    """An invariant does not hold; the message is a sentence."""


def check(holds: bool, sentence: str) -> None:
    """Violation with this sentence unless it holds."""
    if not holds:
        raise Violation(sentence)
