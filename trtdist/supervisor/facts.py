"""What a run is held to and how it and its processes end, as frozen facts. Standard library, Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Death", "Node", "Outcome", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How long things may take, in seconds.

    `start_timeout` is how long a step may take until one of its tasks runs. `settle` is how long deaths are collected
    before the earliest is called the cause, `doubt` the same after a signal whose meaning is being found out. `grace`
    is what all tiers of a stop have together before KILL, `failure_grace` the same after a death, `hurried_grace` what
    a second request leaves. `kill_wait` is how long the end of a step is awaited after KILL. `port_attempts` counts
    starts of a service whose port was taken.
    """

    ready_timeout: float = 1800.0
    service_timeout: float = 30.0
    start_timeout: float = 120.0
    settle: float = 0.15
    doubt: float = 1.0
    grace: float = 10.0
    failure_grace: float = 1.2
    hurried_grace: float = 2.0
    kill_wait: float = 1.0
    port_attempts: int = 5


@dataclass(frozen=True)
class Death:
    """An end that nobody asked for.

    `name` is the task (`gen.0.1`), or the step when its launcher itself died. `how` finishes the sentence
    "gen.0.1 ...". `order` breaks ties of `at`: what was only seen to be gone stands before what told its end.
    """

    name: str
    step: str
    code: int | None
    signal: int | None
    at: float
    how: str
    order: int


@dataclass(frozen=True)
class Outcome:
    """How the run ended.

    `state` is one of verdict.json, `reason` one sentence, `first` who died first, `left` what could not be removed.
    """

    state: str
    exit_code: int
    reason: str
    first: Death | None = None
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node of the run by name, the address at which the others reach it, and the seconds that its clock is ahead of
    the head node's; `ports` were found free there, as many as were asked for."""

    name: str
    address: str
    ahead: float = 0.0
    ports: tuple[int, ...] = ()
