"""Results as files, tables, pages and comparisons."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.bench import compare, report, result
from trtdist.bench.figures import figures
from trtdist.bench.meter import ClientUse
from trtdist.bench.record import Record, Reply, Slo
from trtdist.bench.result import Point, Result
from trtdist.bench.svg import Series, plot, ticks
from trtdist.errors import InputError


def point(concurrency: int, first: float, saturated: str = "") -> Point:
    reply = Reply(0.0, first + 0.2, (first, first + 0.1, first + 0.2), None, (5, 3), "length")
    found = figures([Record(3, 0.0, 0.0, reply, "")], Slo(), 2)
    return Point("concurrency", float(concurrency), found, ClientUse(0.25, 6.0, 1.0, saturated))


def made(name: str = "one", *firsts: float) -> Result:
    points = tuple(point(4**number, first) for number, first in enumerate(firsts or (0.1, 0.3)))
    return Result(name, "http://host:1/v1", 2, 1795512900.0, Slo(ttft=0.2), points, {"seed": "0"})


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result.write(made(), tmp_path / "a.json")
    assert result.read(tmp_path / "a.json") == made()


def test_keys_of_a_later_version_of_the_program_are_ignored() -> None:
    raw = json.loads(result.to_json(made()))
    raw["points"][0]["figures"]["latencies"]["ttft"]["p50_of_tomorrow"] = 1
    raw["weather"] = "fine"
    assert result.from_json(json.dumps(raw)) == made()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no result of trtdist bench"),
        ("{", "cannot read"),
        ('{"kind": "trtdist-bench", "version": 2}', "version is 2"),
        ('{"kind": "trtdist-bench", "version": 1, "points": [], "slo": {}}', "not complete"),
        ('{"kind": "trtdist-bench", "version": 1, "points": [3], "slo": {}}', "not complete"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=says):
        result.read(tmp_path / "a.json")


def test_a_comparison_says_what_got_better_and_worse() -> None:
    changes = {
        (one.value, one.figure): one.verdict(0.05)
        for one in compare.compare(made("a", 0.1, 0.3), made("b", 0.2, 0.3, 0.4))
    }
    assert changes[1.0, "ttft_p50_ms"] == "worse"
    assert changes[1.0, "requests_per_s"] == "worse"
    assert changes[1.0, "itl_p50_ms"] == "same"
    assert {value for value, _ in changes} == {1.0, 4.0}
    better = compare.compare(made("b", 0.2), made("a", 0.1))
    assert {one.figure: one.verdict(0.05) for one in better}["ttft_p50_ms"] == "better"
    assert "better" in compare.text(better, 0.05)


def test_results_without_a_common_load_cannot_be_compared() -> None:
    other = replace(made(), points=(replace(point(1, 0.1), load="rate"),))
    with pytest.raises(InputError, match="no load in common"):
        compare.compare(made(), other)


def test_a_page_stands_alone_and_shows_each_point() -> None:
    page = report.html([made("<one>"), made("two", 0.2)])
    assert not re.search(r"(src|href)=|@import|<script", page)
    assert "<one>" not in page and "&lt;one&gt;" in page
    drawings = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert len(drawings) == 2
    # p50 and p99 of three points over load, and the three once more for the Pareto plot.
    titles = [title.text for drawing in drawings for title in drawing.iter("title")]
    assert len(titles) == 9 and titles.count("concurrency 4") == 3


def test_a_table_tells_when_the_client_was_the_limit() -> None:
    doubtful = replace(made(), points=(point(1, 0.1, "the client used 99 % of its core"),))
    assert "concurrency 1: the client used 99 %" in report.text(doubtful)
    assert "99 %" in report.html([doubtful])


@given(st.floats(1e-9, 1e12))
def test_ticks_are_round_and_reach_the_largest_value(most: float) -> None:
    found = ticks(most)
    assert found[0] == 0 and found[-1] >= most * (1 - 1e-6)
    assert 2 <= len(found) <= 8
    assert math.isclose(found[1] * (len(found) - 1), found[-1])


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=9).map(tuple), st.text())
def test_a_plot_is_well_formed_and_within_its_frame(points: tuple[tuple[float, float], ...], name: str) -> None:
    clean = re.sub(r"[^\x20-\x7e]", "", name)
    drawn = ElementTree.fromstring(plot([Series(clean, points)], clean, clean))
    for circle in drawn.iter("circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 640 and 0 <= float(circle.attrib["cy"]) <= 380
