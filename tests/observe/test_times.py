"""Times as a person writes and reads them."""

from __future__ import annotations

import pytest

from trtdist.errors import InputError
from trtdist.observe.times import parse_since, span


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 970.0),
        ("5m", 700.0),
        ("1h", -2600.0),
        ("1m30s", 910.0),
        ("0.5m", 970.0),
        ("1795512900", 1795512900.0),
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10+01:00", 10.0),
    ],
)
def test_since(text: str, expected: float) -> None:
    assert parse_since(text, 1000.0) == expected


@pytest.mark.parametrize("text", ["", "x", "5 m", "-5m", "2026-13-01", "yesterday", "9" * 400, "5mm"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"write how long ago \(30s, 5m"):
        parse_since(text, 1000.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (8.24, "8.2 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
