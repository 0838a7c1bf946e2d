"""Has the certificates of a run looked at, and renewed where it is time. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import AsyncIterator

from trtdist.services.renewal import NotRenewedError
from trtdist.supervisor.head import Head
from trtdist.supervisor.journal import Journal
from trtdist.supervisor.renewal_messages import LookedAt

__all__ = ["looked_at"]

# The time may be set, and machines sleep: certificates are looked at more often than they are renewed.
_RENEW_EVERY, _RENEW_AGAIN = 3600.0, 600.0


async def looked_at(head: Head, journal: Journal) -> AsyncIterator[LookedAt]:
    """What came of one look; nothing where a run has no certificates."""
    try:
        found = await head.renew()
    except NotRenewedError as error:
        journal.say(str(error))
        yield LookedAt(_RENEW_AGAIN)
        return
    if found is not None:
        if found.done:
            journal.say("the certificates of the run are renewed")
        yield LookedAt(min(found.again_in, _RENEW_EVERY), found.done)
