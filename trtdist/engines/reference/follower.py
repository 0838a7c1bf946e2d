"""A rank that does not lead: it does what the leader says until the leader says to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.reference.knobs import knobs_of
from trtdist.engines.reference.links import Links
from trtdist.engines.reference.messages import Failed, Message, Round, Stop
from trtdist.engines.reference.rank import Pace, RankWork, say
from trtdist.engines.reference.store import Store

__all__ = ["Reporting", "follow", "leave"]


def follow(config: EngineConfig, store: Store, connect: Callable[[EngineConfig], Links]) -> None:
    """Take part until the leader stops; EngineError when the leader has failed."""
    knobs, pace = knobs_of(config), Pace()
    links = connect(config)
    with Reporting(links, config.rank, [0]):
        if _wait(links, pace, knobs.load_delay):
            leave(links, None, pace, config.patience)
            return
        work = RankWork(config, knobs, links, store, pace)
        links.server.send(0, work.ready())
        say(f"rank {config.rank} of {config.server.name} follows its leader")
        _work(links, work, pace)
    leave(links, work, pace, config.patience)


def _work(links: Links, work: RankWork, pace: Pace) -> None:
    while True:
        told = _told(links)
        reports = work.poll()
        for report in reports:
            links.server.send(0, report)
        if isinstance(told, Stop):
            return
        if isinstance(told, Round):
            work.execute(told.actions)
            work.exit_if_told()
        if told is not None or reports or work.moving():
            pace.worked()
        else:
            pace.rest()


def _told(links: Links) -> Message | None:
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


def leave(links: Links, work: RankWork | None, pace: Pace, patience: float) -> None:
    """End together with all ranks of the world, whose KV caches move meanwhile.

    Who has waited `patience` seconds for the others ends without them, which the launcher takes for a failure.
    """
    end = time.monotonic() + patience
    while not links.all_leaving():
        if work is not None:
            work.poll()
        if time.monotonic() > end:
            say(f"the other ranks did not stop within {patience:g} s; this one ends without them")
            return
        pace.rest()
    if work is not None:
        work.close()
    links.close()


class Reporting:
    """Tells other ranks of the server when this one fails while in `with`."""

    def __init__(self, links: Links, rank: int, others: list[int]) -> None:
        self._links = links
        self._rank = rank
        self._others = others

    def __enter__(self) -> None:
        """Nothing to tell yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for other in self._others:
                self._links.server.send(other, Failed(self._rank, str(error) or type(error).__name__))
