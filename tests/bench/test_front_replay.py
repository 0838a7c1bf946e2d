"""What the front end writes to its clients, with the sockets and the servers behind it played."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.front_replay import replay

STREAMS, TOKENS = 4, 32


def test_what_came_together_is_written_together_and_nothing_waits_for_more(tmp_path: Path) -> None:
    one_by_one, by_eight = (asyncio.run(replay(tmp_path, STREAMS, TOKENS, each, 1)) for each in (1, 8))
    # The end of an answer is a write of its own where it does not come with the last token.
    assert STREAMS * TOKENS <= one_by_one <= STREAMS * (TOKENS + 1)
    assert STREAMS * TOKENS / 8 <= by_eight <= STREAMS * (TOKENS / 8 + 1)
