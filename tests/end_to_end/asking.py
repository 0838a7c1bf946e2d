"""Everybody who asks a run at the same time, none of whom may fail.

`python -m tests.end_to_end.asking RUN WAY...` asks until its input ends, and prints how often each way was answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from pathlib import Path

from trtdist.rundir import RunDir
from trtdist.serving.protocol import Sampling
from trtdist.serving.requester import Ask, Requester
from trtdist.serving.run_config import RunConfig

__all__ = ["Asking"]


class Asking:
    """Asks in some ways until `enough`: over connections that have `stayed`, over such as have just come (`came`), and
    over `http`. An error ends all of it."""

    def __init__(self, run: RunDir, ways: tuple[str, ...] = ("stayed", "came", "http")) -> None:
        self._run = run
        self.enough = False
        self.served = dict.fromkeys(ways, 0)

    async def all(self) -> None:
        """Ask, and return after that."""
        ways = {"stayed": self._stay, "came": self._come, "http": self._over_http}
        await asyncio.gather(*(ways[way]() for way in self.served))

    async def _stay(self) -> None:
        async with Requester.open(RunConfig.load(self._run.path), "stays") as requester:
            await asyncio.gather(self._go_on(requester), self._go_on(requester))

    async def _go_on(self, requester: Requester) -> None:
        while not self.enough:
            await _asked(requester, 32)
            self.served["stayed"] += 1

    async def _come(self) -> None:
        while not self.enough:
            async with Requester.open(RunConfig.load(self._run.path), "comes") as requester:
                await _asked(requester, 4)
            self.served["came"] += 1

    async def _over_http(self) -> None:
        url = f"{RunConfig.load(self._run.path).http_url}/v1/completions"
        body = b'{"model": "reference/tiny", "prompt": "how are you", "max_tokens": 8}'
        keys = self._run.secrets / "http.keys"
        key = {"Authorization": f"Bearer {keys.read_text().split()[0]}"} if keys.exists() else {}
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **key})
        while not self.enough:
            assert b'"length"' in await asyncio.to_thread(_fetched, request)
            self.served["http"] += 1


async def _asked(requester: Requester, tokens: int) -> None:
    """One answer, whole."""
    ask = Ask(Sampling(max_tokens=tokens), prompt="how are you", timeout=60.0)
    answers = [answer async for answer in requester.stream(ask)]
    assert answers[-1].finish_reason == "length"
    assert sum(len(answer.token_ids) for answer in answers) == tokens


def _fetched(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


async def _until_input_ends(asking: Asking) -> None:
    async def end() -> None:
        await asyncio.to_thread(sys.stdin.read)
        asking.enough = True

    ending = asyncio.ensure_future(end())
    await asking.all()
    await ending


def main(arguments: list[str]) -> None:
    """Ask as the arguments say."""
    asking = Asking(RunDir(Path(arguments[0])), tuple(arguments[1:]))
    asyncio.run(_until_input_ends(asking))
    print(json.dumps(asking.served))


if __name__ == "__main__":
    main(sys.argv[1:])
