"""Figures from samples, against definitions that are written down elsewhere."""

from __future__ import annotations

import itertools
import random
import statistics

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.bench import arrivals
from trtdist.bench.lengths import MAX_LENGTH, Lengths
from trtdist.bench.statistics import Summary, percentile, summary
from trtdist.errors import InputError

SAMPLES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(SAMPLES, st.floats(0, 100))
def test_percentiles_are_those_of_numpy(samples: list[float], percent: float) -> None:
    assert percentile(sorted(samples), percent) == pytest.approx(numpy.percentile(samples, percent), rel=1e-9, abs=1e-6)


@given(SAMPLES)
def test_a_summary_is_in_order_whatever_the_order_of_the_samples(samples: list[float]) -> None:
    found = summary(samples)
    assert found == summary(sorted(samples, reverse=True))
    assert found.min <= found.p50 <= found.p90 <= found.p95 <= found.p99 <= found.max
    assert found.min <= found.mean <= found.max
    assert (found.min, found.max, found.count) == (min(samples), max(samples), len(samples))


def test_there_is_nothing_to_say_of_nothing() -> None:
    assert summary([]) == Summary()
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


@given(st.floats(0.1, 1000), st.integers(0, 2**32))
def test_poisson_arrivals_ascend_and_repeat_with_their_seed(rate: float, seed: int) -> None:
    found = list(itertools.islice(arrivals.poisson(rate, random.Random(seed)), 50))
    assert found == sorted(found) and found[0] >= 0
    assert found == list(itertools.islice(arrivals.poisson(rate, random.Random(seed)), 50))


def test_poisson_arrivals_have_the_distances_of_a_poisson_process() -> None:
    times = list(itertools.islice(arrivals.poisson(20.0, random.Random(1)), 20_000))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # Mean and deviation are both 1/rate; their own deviation over 20,000 is below 1 %.
    assert statistics.fmean(gaps) == pytest.approx(0.05, rel=0.04)
    assert statistics.stdev(gaps) == pytest.approx(0.05, rel=0.04)


def test_constant_arrivals() -> None:
    assert list(itertools.islice(arrivals.constant(4.0), 3)) == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [("128", 128, 0), ("uniform:10:20", 15, 3.16), ("normal:500:50", 500, 50), ("lognormal:300:150", 300, 150)],
)
def test_lengths_have_the_mean_and_deviation_they_name(text: str, mean: float, deviation: float) -> None:
    draw = Lengths.parse(text).drawer(random.Random(7))
    drawn = [draw() for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.03)
    assert statistics.pstdev(drawn) == pytest.approx(deviation, rel=0.06)


@given(st.sampled_from(["normal", "lognormal"]), st.floats(1, 1000), st.floats(0, 5000), st.integers())
def test_no_length_is_below_one(kind: str, mean: float, deviation: float, seed: int) -> None:
    draw = Lengths(kind, mean, deviation).drawer(random.Random(seed))
    assert all(1 <= draw() <= MAX_LENGTH for _ in range(20))


@pytest.mark.parametrize(
    "text",
    ["", "many", "fixed", "fixed:0", "fixed:1.5", "uniform:5", "uniform:9:3", "normal:10:-1", "normal:nan:1",
     "lognormal:inf:1", "lognormal:10:nan", "fixed:99999999", "gamma:1:2", "normal:1:2:3"],
)  # fmt: skip
def test_a_length_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="length"):
        Lengths.parse(text)


@given(st.sampled_from(["fixed:3", "uniform:3:9", "normal:100:12.5", "lognormal:64:32"]))
def test_lengths_are_written_as_they_are_read(text: str) -> None:
    assert str(Lengths.parse(text)) == text
