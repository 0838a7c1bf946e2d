"""What one attempt makes of any order of messages: the whole answer, or an error, never a short answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.serving.attempt import SILENCE_S, TICK_S, Attempt, ElsewhereError, RequestError
from trtdist.serving.discovery import Instance
from trtdist.serving.protocol import Accepted, Chunk, Failure, Heartbeat, Route
from trtdist.serving.slug import CONTEXT, GENERATION, ROUTER

CONTEXT_SERVER = Instance.of("ns", CONTEXT, "generate", 1, "ctx.0")
SERVER = Instance.of("ns", GENERATION, "generate", 2, "gen.0")
SOME = settings(max_examples=60, deadline=None)
SILENT_TICKS = int(SILENCE_S / TICK_S) + 1


def chunk(seq: int, last: bool = False, attempt: int = 0) -> Chunk:
    return Chunk(attempt, seq, (seq,), str(seq), "stop" if last else None)


def called(window: int = 256) -> Attempt:
    attempt = Attempt("r", 0, window)
    attempt.call(CONTEXT_SERVER, SERVER)
    return attempt


def deliver(attempt: Attempt, *messages: Chunk | Heartbeat | Failure) -> None:
    for message in messages:
        attempt.deliver("", message.encode(), "")
    attempt.settle()


def drain(attempt: Attempt) -> tuple[list[int], RequestError | None]:
    """The numbers of the chunks that can be taken now, and the error after them."""

    async def main() -> tuple[list[int], RequestError | None]:
        taken: list[int] = []
        try:
            while (attempt.ended and not attempt.finished) or attempt.received > attempt.taken:
                taken += [chunk.seq for chunk in await attempt.take()]
        except RequestError as error:
            return taken, error
        return taken, None

    return asyncio.run(main())


@SOME
@given(st.integers(1, 20), st.integers(2, 8), st.data())
def test_what_is_taken_at_once_and_what_waits_is_the_whole_answer_in_order(
    length: int, window: int, data: st.DataObject
) -> None:
    seen: list[int] = []
    # Refusals stand for a client that reads too slowly for a while.
    willing = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))

    def at_once(chunks: Sequence[Chunk]) -> bool:
        if willing[chunks[-1].seq]:
            seen.extend(one.seq for one in chunks)
        return willing[chunks[-1].seq]

    async def main() -> None:
        attempt = Attempt("r", 0, window, at_once)
        attempt.call(None, SERVER)
        allowed, sent = window, 0
        while not attempt.finished:
            # As many as there is credit for, some of them before the reader gets its turn.
            while data.draw(st.booleans()):
                more = data.draw(st.integers(0, min(length, allowed) - sent))
                deliver(attempt, *(chunk(seq, seq == length - 1) for seq in range(sent, sent + more)))
                sent += more
            taking = asyncio.ensure_future(attempt.take())
            await asyncio.sleep(0)
            while not taking.done():
                assert sent < allowed, "nothing more may come, and nobody asks for credit"
                deliver(attempt, chunk(sent, sent == length - 1))
                sent += 1
                await asyncio.sleep(0)
            seen.extend(one.seq for one in taking.result())
            if attempt.credit_due:
                allowed = attempt.grant()

    asyncio.run(main())
    assert seen == list(range(length))


@SOME
@given(st.integers(1, 20), st.data())
def test_a_stream_that_was_disturbed_is_whole_or_an_error(length: int, data: st.DataObject) -> None:
    whole = [chunk(seq, seq == length - 1) for seq in range(length)]
    order = data.draw(st.lists(st.sampled_from(range(length)), max_size=2 * length) | st.permutations(range(length)))
    attempt = called()
    deliver(attempt, *(whole[seq] for seq in order))
    taken, error = drain(attempt)
    assert taken == list(range(len(taken)))
    if len(taken) == length:
        assert error is None and attempt.finished
    else:
        assert not attempt.complete
        disturbed = order != list(range(len(order)))
        assert (error is not None and error.code == "lost") == disturbed


@SOME
@given(st.integers(0, 3), st.integers(0, 3))
def test_other_attempts_are_not_heard(before: int, number: int) -> None:
    attempt = called()
    deliver(attempt, *(chunk(seq) for seq in range(before)))
    for other in (1, 2):
        deliver(attempt, chunk(number, attempt=other), Heartbeat(other, 9, SERVER.lease_hex))
        deliver(attempt, Failure("engine", "of another attempt", other))
    deliver(attempt, chunk(before, last=True))
    assert drain(attempt) == (list(range(before + 1)), None)


def test_a_heartbeat_tells_of_a_lost_end() -> None:
    attempt = called()
    deliver(attempt, chunk(0), Heartbeat(0, 1, SERVER.lease_hex), Heartbeat(0, 0, CONTEXT_SERVER.lease_hex))
    assert not attempt.ended
    deliver(attempt, Heartbeat(0, 3, SERVER.lease_hex))
    taken, error = drain(attempt)
    assert taken == [0] and str(error) == "a part of the answer is lost: gen.0 is at 3, not 1"


@SOME
@given(st.integers(2, 40), st.integers(1, 200), st.integers(1, 10_000))
def test_credits_never_let_more_than_a_window_wait(window: int, burst: int, length: int) -> None:
    attempt = called(window)
    allowed, sent = window, 0

    async def main() -> None:
        nonlocal allowed, sent
        while sent < min(length, 500):
            for _ in range(min(burst, length - sent, allowed - sent)):
                deliver(attempt, chunk(sent))
                sent += 1
            assert not attempt.ended and attempt.received - attempt.taken <= window
            if attempt.received > attempt.taken:
                await attempt.take()
            if attempt.credit_due:
                allowed = attempt.grant()
                assert allowed == attempt.taken + window
            assert allowed - attempt.taken > window // 2

    asyncio.run(main())


def test_more_than_was_allowed_is_an_error() -> None:
    attempt = called(4)
    deliver(attempt, *(chunk(seq) for seq in range(5)))
    taken, error = drain(attempt)
    assert taken == [0, 1, 2, 3] and error is not None and error.code == "internal"


def test_ticks_without_a_message_are_a_silence_of_who_spoke_last() -> None:
    attempt = called()
    attempt.deliver("accept", Accepted().encode(), "")
    for _ in range(SILENT_TICKS - 1):
        attempt.tick()
    deliver(attempt, Heartbeat(0, 0, SERVER.lease_hex))
    for _ in range(SILENT_TICKS - 1):
        attempt.tick()
    assert not attempt.ended
    attempt.tick()
    _, error = drain(attempt)
    assert isinstance(error, ElsewhereError)
    assert (error.code, error.suspects) == ("stalled", (SERVER.lease_hex,))
    assert str(error) == "nothing came from gen.0 for 5 s"


def test_the_end_of_the_context_server_does_not_matter_after_the_first_chunk() -> None:
    attempt = called()
    deliver(attempt, chunk(0))
    attempt.vanished(CONTEXT_SERVER)
    assert not attempt.ended and attempt.awaited == (SERVER,)
    attempt.vanished(SERVER)
    taken, error = drain(attempt)
    assert taken == [0] and str(error) == "gen.0 is gone, after 1 chunk of the answer"


@pytest.mark.parametrize("kind", ["", "accept", "route"])
def test_what_cannot_be_read_ends_the_attempt(kind: str) -> None:
    attempt = Attempt("r", 0)
    attempt.deliver(kind, b"nonsense", "")
    _, error = drain(attempt)
    assert error is not None and error.code == "internal" and "request r" in str(error)


def test_a_route_for_another_request_is_refused() -> None:
    attempt = Attempt("r", 0)
    attempt.ask(Instance.of("ns", ROUTER, "generate", 3, "router"))
    attempt.deliver("route", Route("other", 0, None, SERVER, "").encode(), "")
    _, error = drain(attempt)
    assert error is not None and "attempt 0 of other" in str(error)


def test_a_deadline_tells_who_had_the_request_then() -> None:
    attempt = called()
    deliver(attempt, Heartbeat(0, 0, SERVER.lease_hex))
    attempt.late(2.0)
    _, error = drain(attempt)
    assert error is not None and error.server == SERVER.server
    assert str(error).endswith(f"within 2 s; {SERVER.server}, where it was then, had not answered a token of it")
