"""A rank that does not lead: it does what the leader says until the leader says to stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.reference.knobs import knobs_of
from trtdist.engines.reference.links import Links
from trtdist.engines.reference.messages import Failed, Stop
from trtdist.engines.reference.rank import Pace, RankWork, say

__all__ = ["follow", "leave", "reporting"]

# Ranks of one MPI world end together. Who has waited for the others for so long ends without them, which the launcher
# takes for a failure; it is longer than a server may take to finish its requests.
LEAVE_S = 30.0


def follow(config: EngineConfig, connect: Callable[[EngineConfig], Links]) -> None:
    """Take part until the leader stops; EngineError when the leader has failed."""
    knobs, pace = knobs_of(config), Pace()
    links = connect(config)
    with reporting(links, config.rank, [0]):
        if _wait(links, pace, knobs.load_delay):
            leave(links, None, pace)
            return
        work = RankWork(config, knobs, links, pace)
        links.server.send(0, work.ready())
        say(f"rank {config.rank} of {config.server.name} follows its leader")
        _work(links, work, pace)
    leave(links, work, pace)


def _work(links: Links, work: RankWork, pace: Pace) -> None:
    while True:
        told = _told(links)
        reports = work.poll()
        for report in reports:
            links.server.send(0, report)
        if isinstance(told, Stop):
            return
        if told is not None:
            work.execute(told)
            work.exit_if_told()
        if told is not None or reports or work.moving():
            pace.worked()
        else:
            pace.rest()


def _told(links: Links) -> Any:
    """What the leader says next, None for nothing."""
    message = links.server.receive()
    if isinstance(message, Failed):
        raise EngineError(f"the leader failed: {message.problem}")
    return message


def _wait(links: Links, pace: Pace, seconds: float) -> bool:
    """Let time pass; True, at once, when the leader says to stop meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if isinstance(_told(links), Stop):
            return True
        pace.rest()
    return False


def leave(links: Links, work: RankWork | None, pace: Pace) -> None:
    """End together with all ranks of the world, whose KV caches move meanwhile."""
    end = time.monotonic() + LEAVE_S
    while not links.all_leaving():
        if work is not None:
            work.poll()
        if time.monotonic() > end:
            say(f"the other ranks did not stop within {LEAVE_S:g} s; this one ends without them")
            return
        pace.rest()
    if work is not None:
        work.close()
    links.close()


@contextlib.contextmanager
def reporting(links: Links, rank: int, others: list[int]) -> Iterator[None]:
    """Tell other ranks of the server when this one fails."""
    try:
        yield
    except BaseException as error:
        for other in others:
            links.server.send(other, Failed(rank, str(error) or type(error).__name__))
        raise
