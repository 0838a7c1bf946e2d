"""What was seen of one request, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Record", "Reply", "Slo", "problem"]

# Reasons that explain an answer that is shorter than asked for.
EARLY_ENDS = frozenset({"stop", "content_filter", "tool_calls", "function_call"})


@dataclass(frozen=True)
class Reply:
    """What came back for a request; times are of `time.perf_counter`, in seconds.

    `pieces` has when each piece of the answer arrived that had a token. `counted` are the tokens in them where the
    stream tells (None where it does not), `usage` the counts for prompt and answer that the server gave at the end.
    `error` is one sentence, "" when the stream ended as it should.
    """

    sent: float
    ended: float
    pieces: Sequence[float] = ()
    counted: int | None = None
    usage: tuple[int, int] | None = None
    finish_reason: str = ""
    error: str = ""


@dataclass(frozen=True)
class Slo:
    """What a good answer keeps, in seconds: time to first token, mean time per token after it, the whole answer."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def kept_by(self, record: Record) -> bool:
        """Whether a request was answered within all limits that are set."""
        found = ((self.ttft, record.ttft), (self.tpot, record.tpot), (self.e2e, record.e2e))
        return not record.problem and all(limit is None or value <= limit for limit, value in found)


@dataclass(frozen=True)
class Record:
    """One request and its reply; `planned` and `begun` are seconds from the start of the load."""

    asked: int
    planned: float
    begun: float
    reply: Reply
    problem: str

    @property
    def ended(self) -> float:
        """When the answer was over, in seconds from the start of the load."""
        return self.begun + self.e2e

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first token."""
        return (self.reply.pieces[0] if self.reply.pieces else self.reply.ended) - self.reply.sent

    @property
    def e2e(self) -> float:
        """Seconds from sending to the end of the stream."""
        return self.reply.ended - self.reply.sent

    @property
    def tokens(self) -> int:
        """Tokens of the answer: what the server counted, else what the stream had."""
        if self.reply.usage is not None:
            return self.reply.usage[1]
        return self.reply.counted or 0

    @property
    def tpot(self) -> float:
        """Mean seconds per token after the first; 0 for an answer of one token."""
        pieces = self.reply.pieces
        return (pieces[-1] - pieces[0]) / (self.tokens - 1) if pieces and self.tokens > 1 else 0.0

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces that follow each other."""
        pieces = self.reply.pieces
        return [after - before for before, after in zip(pieces, pieces[1:], strict=False)]


def problem(reply: Reply, asked: int, exact: bool) -> str:
    """Why the figures of a reply cannot be trusted, "" when they can: a token that is missing makes them too good.

    `exact` is set when the server was told to go on to the last token that was asked for.
    """
    if reply.error:
        return reply.error
    if not reply.finish_reason:
        return "the stream ended without a finish reason"
    if reply.usage is None and reply.counted is None:
        return "the server gave no usage, so that missing tokens would not be noticed"
    tokens = reply.usage[1] if reply.usage is not None else reply.counted or 0
    if reply.usage is not None and reply.counted is not None and tokens != reply.counted:
        return f"the usage says {tokens} tokens and the stream had {reply.counted}"
    if len(reply.pieces) > tokens:
        return f"the usage says {tokens} tokens and the stream had {len(reply.pieces)} pieces with text"
    if tokens and not reply.pieces:
        return f"the usage says {tokens} tokens and the stream had none"
    if tokens > asked:
        return f"{tokens} tokens came and {asked} were asked for"
    early = not exact and reply.finish_reason in EARLY_ENDS
    if tokens < asked and not early:
        return f"{tokens} tokens came, {asked} were asked for, and the finish reason is {reply.finish_reason!r}"
    return ""
