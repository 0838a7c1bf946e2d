"""What a run is held to and how it and its processes end, as frozen facts. Standard library, Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Death", "Node", "Outcome", "Settings", "Stall"]


@dataclass(frozen=True)
class Settings:
    """How long things may take, in seconds.

    `stall_timeout` is how long a server may come up without a sign of progress until it is called stalled, 0 for never.
    `start_timeout` is how long a step may take until one of its tasks runs. `settle` is how long deaths are collected
    before the earliest is called the cause, `peer_settle` the same while all that is known is that a rank has lost a
    neighbour, `doubt` the same after a signal whose meaning is being found out. `grace`
    is what all tiers of a stop have together before KILL, `failure_grace` the same after a death, `hurried_grace` what
    a second request leaves. `kill_wait` is how long the end of a step is awaited after KILL. Restarts of a step count
    anew once it has served for `forgive`. `port_attempts` counts
    starts of a service whose port was taken. `linger` is how long a run that has handed over goes on as before; a run
    to take over is asked for `successors` times at most, with `successor_pause` in between.
    """

    ready_timeout: float = 1800.0
    service_timeout: float = 30.0
    start_timeout: float = 120.0
    stall_timeout: float = 300.0
    settle: float = 0.15
    peer_settle: float = 1.0
    doubt: float = 1.0
    grace: float = 10.0
    failure_grace: float = 1.2
    hurried_grace: float = 2.0
    kill_wait: float = 1.0
    forgive: float = 600.0
    port_attempts: int = 5
    linger: float = 15.0
    successors: int = 2
    successor_pause: float = 20.0


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
class Stall:
    """A server without progress for so many seconds. `task` is the rank to look at, `how` finishes a sentence about
    its place among the others, `doing` one about what it was seen to do ("" when nobody has seen it)."""

    server: str
    task: str
    seconds: float
    how: str
    doing: str


@dataclass(frozen=True)
class Outcome:
    """How the run ended.

    `state` is one of verdict.json, `reason` one sentence, `first` who died first, `left` what could not be removed.
    `behind` are the servers that kept a run from being ready in which nothing died.
    """

    state: str
    exit_code: int
    reason: str
    first: Death | None = None
    left: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node of the run by name, the address at which the others reach it, and the seconds that its clock is ahead of
    the head node's; `ports` were found free there, as many as were asked for."""

    name: str
    address: str
    ahead: float = 0.0
    ports: tuple[int, ...] = ()
