"""An engine is silent when requests wait for it and none gets anything; not when nobody asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from trtdist.engines.base import EngineOutput
from trtdist.serving.pulse import Pulse, Watched
from trtdist.serving.waiting import end_task, within

OUTPUT = EngineOutput((1,), "a")
LIMIT_S = 0.2


async def outputs(*pauses: float) -> AsyncIterator[EngineOutput]:
    for pause in pauses:
        await asyncio.sleep(pause)
        yield OUTPUT


def asked(pulse: Pulse, *pauses: float) -> asyncio.Task[list[EngineOutput]]:
    """A request that gets an output after each of these pauses."""

    async def take() -> list[EngineOutput]:
        return [output async for output in Watched(outputs(*pauses), pulse)]

    return asyncio.ensure_future(take())


def test_the_outputs_are_those_of_the_engine() -> None:
    async def main() -> None:
        pulse = Pulse()
        assert await asked(pulse, 0.0, 0.0, 0.0) == [OUTPUT] * 3
        assert pulse.waiting == 0

    asyncio.run(main())


def test_an_engine_that_nobody_asks_is_not_silent() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await within(3 * LIMIT_S, Pulse().silence(LIMIT_S))

    asyncio.run(main())


def test_an_engine_that_keeps_requests_waiting_is_silent() -> None:
    async def main() -> None:
        pulse = Pulse()
        request = asked(pulse, 3600.0)
        await within(30, pulse.silence(LIMIT_S))
        assert pulse.waiting == 1
        await within(30, pulse.silence(LIMIT_S))
        await end_task(request)
        assert pulse.waiting == 0

    asyncio.run(main())


def test_requests_that_are_cancelled_do_not_hide_a_silent_engine() -> None:
    async def main() -> None:
        pulse = Pulse()
        silent = asyncio.ensure_future(pulse.silence(LIMIT_S))
        while not silent.done():
            request = asked(pulse, 3600.0)
            await asyncio.sleep(LIMIT_S / 3)
            await end_task(request)
        await silent

    asyncio.run(within(60, main()))


def test_an_engine_that_gives_something_to_anybody_is_not_silent() -> None:
    """The one that waits is behind a reader that takes its time, too: that is not the engine's."""

    async def main() -> None:
        pulse = Pulse()
        waits = asked(pulse, 3600.0)
        others = asked(pulse, *[0.0] * 3)
        silent = asyncio.ensure_future(pulse.silence(3600.0))
        await others
        pulse.beat()
        slow = Watched(outputs(0.0, 0.0), pulse)
        await slow.__anext__()
        assert pulse.waiting == 1, "a reader that does not take is not waiting"
        assert not silent.done()
        await end_task(silent)
        await end_task(waits)

    asyncio.run(main())
