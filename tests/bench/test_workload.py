"""Traces and the requests that are made of them or of distributions."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.bench import workload
from trtdist.bench.lengths import Lengths
from trtdist.bench.trace import TraceLine, format_trace, parse_trace, read_trace
from trtdist.errors import InputError

LINES = st.builds(
    TraceLine,
    st.floats(0, 1e9),
    st.integers(1, 100_000),
    st.integers(1, 10_000),
    st.lists(st.integers(0, 2**40), max_size=8).map(tuple),
)


@settings(max_examples=50)
@given(st.lists(LINES, max_size=20))
def test_a_trace_is_read_as_it_was_written(lines: list[TraceLine]) -> None:
    assert parse_trace(format_trace(lines).splitlines()) == sorted(lines, key=lambda line: line.timestamp)


@settings(max_examples=50)
@given(st.text() | st.lists(st.integers() | st.text()).map(json.dumps))
def test_any_other_text_is_refused_with_its_line(text: str) -> None:
    line = " ".join(text.splitlines())
    if line.strip():
        with pytest.raises(InputError, match="trace:2: "):
            parse_trace(["", line])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input_length": 0}, "input_length"),
        ({"input_length": None}, "input_length"),
        ({"output_length": 1.5}, "output_length"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"hash_ids": [-1]}, "hash_ids"),
        ({"hash_ids": "x"}, "hash_ids"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, object], named: str) -> None:
    line = {"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1], **changes}
    with pytest.raises(InputError, match=f"trace:1: {named}"):
        parse_trace([json.dumps(line)])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("\n\n")
    for name in ("missing", "binary", "empty"):
        with pytest.raises(InputError, match=name):
            read_trace(tmp_path / name)


@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_requests(seed: int) -> None:
    made = [
        list(itertools.islice(workload.open_loop(5.0, Lengths("uniform", 1, 9), outputs, seed), 5))
        for outputs in (Lengths("fixed", 4), Lengths("fixed", 4), Lengths("uniform", 3, 5))
    ]
    assert made[0] == made[1]
    # Other lengths of answers leave prompts and times as they are.
    assert [(one.prompt, one.at) for one in made[0]] == [(one.prompt, one.at) for one in made[2]]


@given(st.integers(1, 300))
def test_a_prompt_has_a_word_for_each_token(tokens: int) -> None:
    request = next(workload.closed(Lengths("fixed", tokens), Lengths("fixed", 1), 0))
    assert len(request.prompt.split()) == tokens == request.prompt_tokens


def test_prompts_of_a_trace_share_what_their_ids_share() -> None:
    lines = [
        TraceLine(1000.0, 1300, 5, (1, 2, 3)),
        TraceLine(1500.0, 1100, 5, (1, 2, 4)),
        TraceLine(2000.0, 700, 5, (1,)),
    ]
    first, second, third = (request.prompt.split() for request in workload.replay(lines, speed=2.0))
    assert [len(first), len(second), len(third)] == [1300, 1100, 700]
    assert first[:1024] == second[:1024] and first[1024:1100] != second[1024:1100]
    assert third[:512] == first[:512] and third[512:] != first[512:700]
    assert [request.at for request in workload.replay(lines, speed=2.0)] == [0.0, 0.25, 0.5]
