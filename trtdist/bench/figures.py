"""From the records of one load to the figures that are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trtdist.bench.record import Record, Slo
from trtdist.bench.statistics import Summary, summary

__all__ = ["Figures", "Latencies", "figures", "goodput", "problems"]


@dataclass(frozen=True)
class Latencies:
    """Times in ms: to the first token, between pieces, per token after the first, and of whole answers."""

    ttft: Summary
    itl: Summary
    tpot: Summary
    e2e: Summary


@dataclass(frozen=True)
class Figures:
    """What was measured under one load.

    `seconds` runs from the first measured request to the end of the last. `user_tokens_per_s` is what one user sees
    after the first token (the inverse of the median time per token); `gpu_tokens_per_s` is for one GPU. `good` is the
    share of requests within the SLO and `goodput` their number per second; 1 and all of them without an SLO.
    """

    requests: int
    seconds: float
    prompt_tokens: int
    output_tokens: int
    pieces: int
    requests_per_s: float
    tokens_per_s: float
    gpu_tokens_per_s: float
    user_tokens_per_s: float
    good: float
    goodput: float
    latencies: Latencies


def problems(records: Sequence[Record]) -> Counter[str]:
    """What is wrong with how many of the records."""
    return Counter(record.problem for record in records if record.problem)


def goodput(records: Sequence[Record], slo: Slo, seconds: float) -> tuple[float, float]:
    """The share of requests within the SLO, and how many of them there were per second."""
    good = sum(slo.kept_by(record) for record in records)
    return good / len(records) if records else 0.0, good / seconds if seconds > 0 else 0.0


def figures(records: Sequence[Record], slo: Slo, gpus: int) -> Figures:
    """The figures of measured records without a problem."""
    begun = min((record.begun for record in records), default=0.0)
    seconds = max((record.ended for record in records), default=0.0) - begun
    rate = 1.0 / seconds if seconds > 0 else 0.0
    tokens = sum(record.tokens for record in records)
    latencies = _latencies(records)
    good = goodput(records, slo, seconds)
    return Figures(
        requests=len(records),
        seconds=seconds,
        prompt_tokens=sum(record.reply.usage[0] for record in records if record.reply.usage is not None),
        output_tokens=tokens,
        pieces=sum(len(record.reply.pieces) for record in records),
        requests_per_s=len(records) * rate,
        tokens_per_s=tokens * rate,
        gpu_tokens_per_s=tokens * rate / gpus,
        user_tokens_per_s=1000.0 / latencies.tpot.p50 if latencies.tpot.p50 > 0 else 0.0,
        good=good[0],
        goodput=good[1],
        latencies=latencies,
    )


def _latencies(records: Sequence[Record]) -> Latencies:
    return Latencies(
        ttft=summary(1000 * record.ttft for record in records),
        itl=summary(1000 * gap for record in records for gap in record.gaps),
        tpot=summary(1000 * record.tpot for record in records if record.tokens > 1),
        e2e=summary(1000 * record.e2e for record in records),
    )
