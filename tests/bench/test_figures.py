"""From what was seen of requests to figures, and what makes them worthless."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.bench.figures import figures, goodput, problems
from trtdist.bench.record import Record, Reply, Slo, problem


def reply(*pieces: float, tokens: int | None = None, reason: str = "length", error: str = "") -> Reply:
    usage = (10, len(pieces) if tokens is None else tokens)
    return Reply(0.0, pieces[-1] if pieces else 1.0, pieces, None, usage, reason, error)


def record(made: Reply, begun: float = 0.0) -> Record:
    assert made.usage is not None
    return Record(made.usage[1], begun, begun, made, problem(made, made.usage[1], False))


def test_the_times_of_one_request() -> None:
    one = record(reply(0.5, 0.6, 0.8, 1.1))
    assert (one.ttft, one.e2e, one.tokens) == (0.5, 1.1, 4)
    assert one.tpot == pytest.approx(0.2)
    assert one.gaps == pytest.approx([0.1, 0.2, 0.3])


def test_several_tokens_in_a_piece_count_as_so_many() -> None:
    one = record(reply(0.5, 1.0, tokens=11))
    assert not one.problem
    assert one.tpot == pytest.approx(0.05)


def test_figures_of_two_requests() -> None:
    found = figures([record(reply(1.0, 2.0)), record(reply(1.0, 3.0), begun=1.0)], Slo(e2e=2.5), gpus=2)
    assert (found.seconds, found.requests, found.output_tokens, found.prompt_tokens) == (4.0, 2, 4, 20)
    assert (found.requests_per_s, found.tokens_per_s, found.gpu_tokens_per_s) == (0.5, 1.0, 0.5)
    assert (found.good, found.goodput) == (0.5, 0.25)
    assert found.user_tokens_per_s == pytest.approx(1 / 1.5)


@pytest.mark.parametrize(
    ("made", "asked", "exact", "says"),
    [
        (reply(1.0, 2.0), 2, True, ""),
        (reply(1.0, reason="stop"), 2, False, ""),
        (reply(1.0, reason="stop"), 2, True, "1 tokens came, 2 were asked for"),
        (reply(1.0), 2, False, "1 tokens came, 2 were asked for"),
        (reply(1.0, 2.0, 3.0), 2, False, "3 tokens came and 2 were asked for"),
        (reply(1.0, 2.0, tokens=1), 2, False, "2 pieces"),
        (reply(tokens=2), 2, False, "the stream had none"),
        (reply(1.0, reason=""), 1, False, "without a finish reason"),
        (reply(1.0, error="it broke"), 1, False, "it broke"),
        (Reply(0, 1, (1.0,), None, None, "stop"), 1, False, "no usage"),
        (Reply(0, 1, (1.0,), 3, (1, 4), "stop"), 4, False, "usage says 4 tokens and the stream had 3"),
        (Reply(0, 1, (1.0,), 3, None, "length"), 3, False, ""),
    ],
)
def test_what_cannot_be_trusted_is_told(made: Reply, asked: int, exact: bool, says: str) -> None:
    found = problem(made, asked, exact)
    assert says in found
    assert bool(found) == bool(says)


TIMES = st.lists(st.floats(0.001, 10), min_size=1, max_size=6).map(sorted)


@given(st.lists(TIMES.map(lambda times: record(reply(*times))), max_size=8), st.floats(0.001, 10), st.floats(0, 10))
def test_goodput_grows_with_the_limit(records: list[Record], limit: float, more: float) -> None:
    strict, loose = (goodput(records, Slo(ttft=one), 2.0) for one in (limit, limit + more))
    assert 0 <= strict[0] <= loose[0] <= 1
    assert strict[1] * 2.0 == pytest.approx(sum(one.ttft <= limit for one in records))
    assert goodput(records, Slo(), 2.0)[1] * 2.0 == pytest.approx(len(records))


def test_an_answer_with_a_problem_is_never_good() -> None:
    failed = record(reply(0.1, error="it broke"))
    assert not Slo().kept_by(failed)
    assert problems([failed, failed, record(reply(1.0))]) == {"it broke": 2}
