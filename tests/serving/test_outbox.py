"""What an engine gives at once goes out together, and nothing waits for what is not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trtdist.engines.base import EngineOutput, Sampling
from trtdist.serving.outbox import OUTPUTS_IN_A_ROW, Outbox
from trtdist.serving.protocol import Chunk, Failure, GenerateCall, StreamMessage, decode_stream


class Wire:
    """Where an outbox publishes to, without a network."""

    def __init__(self, window: int = 1000) -> None:
        self.messages: list[StreamMessage] = []
        self.box = Outbox(self.publish, GenerateCall("r", 0, "inbox", window, 10.0, Sampling()), "a", 0.0)

    async def publish(self, subject: str, data: bytes) -> None:
        self.messages.append(decode_stream(data))

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        return [message.token_ids for message in self.messages if isinstance(message, Chunk)]


def output(number: int, reason: str | None = None, size: int = 1) -> EngineOutput:
    return EngineOutput((number,), "x" * size, reason)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_the_first_output_goes_out_at_once_and_the_others_together() -> None:
    async def main() -> None:
        wire = Wire()
        for number in range(5):
            await wire.box.chunk(output(number))
        assert wire.tokens == [(0,)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.tokens == [(0,), (1, 2, 3, 4)]

    run(main())


def test_outputs_that_come_one_by_one_go_out_one_by_one() -> None:
    async def main() -> None:
        wire = Wire()
        for number in range(5):
            await wire.box.chunk(output(number))
            assert wire.tokens[-1] == (number,)
            await asyncio.sleep(0)

    run(main())


def test_the_last_output_takes_with_it_what_waits() -> None:
    async def main() -> None:
        wire = Wire()
        for number in range(3):
            await wire.box.chunk(output(number, "length" if number == 2 else None))
        last = wire.messages[-1]
        assert isinstance(last, Chunk) and (last.token_ids, last.text, last.finish_reason) == ((1, 2), "xx", "length")
        assert last.usage == {"completion_tokens": 3}
        assert wire.box.closed

    run(main())


def test_a_failure_comes_after_what_was_there_before_it() -> None:
    async def main() -> None:
        wire = Wire()
        for number in range(3):
            await wire.box.chunk(output(number))
        await wire.box.fail("engine", "it broke")
        assert wire.tokens == [(0,), (1, 2)]
        failure = wire.messages[-1]
        assert isinstance(failure, Failure) and failure.seq == 2
        await asyncio.sleep(0)
        assert len(wire.messages) == 3

    run(main())


def test_without_credit_little_waits_and_the_end_frees_who_waits() -> None:
    async def main() -> None:
        wire = Wire(window=1)

        async def talk() -> None:
            for number in range(1000):
                await wire.box.chunk(output(number))
                taken.append(number)

        taken: list[int] = []
        talking = asyncio.ensure_future(talk())
        await asyncio.sleep(0.01)
        assert wire.tokens == [(0,)]
        assert len(taken) <= OUTPUTS_IN_A_ROW
        await wire.box.fail("cancelled", "enough")
        await asyncio.wait_for(talking, 60)
        assert wire.tokens == [(0,)]

    run(main())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9000)), min_size=1, max_size=100), st.integers(1, 8))
def test_nothing_is_lost_or_out_of_order(steps: list[tuple[bool, int]], window: int) -> None:
    async def main() -> None:
        wire = Wire(window)

        async def credit() -> None:
            while not wire.box.closed:
                wire.box.allow(wire.box.sent + window, 0.0)
                await asyncio.sleep(0)

        crediting = asyncio.ensure_future(credit())
        for number, (pause, size) in enumerate(steps):
            await wire.box.chunk(output(number, "stop" if number == len(steps) - 1 else None, size))
            if pause:
                await asyncio.sleep(0)
        await crediting
        assert [number for ids in wire.tokens for number in ids] == list(range(len(steps)))
        assert [message.seq for message in wire.messages if isinstance(message, Chunk)] == list(range(len(wire.tokens)))
        assert wire.box.tokens == len(steps)

    run(main())
