"""What is asked: requests with their lengths, prompts and points in time, the same ones for the same seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trtdist.bench import arrivals
from trtdist.bench.lengths import Lengths
from trtdist.bench.trace import BLOCK_TOKENS, TraceLine

__all__ = ["WORDS", "Request", "closed", "open_loop", "replay"]

# Short words, each one token in the vocabularies in use, so that a prompt has about as many tokens as words.
WORDS = tuple(
    word
    for line in (
        "the of and to in is was for that on as with by at from his it an are this which be or had not but have were",
        "one all new has more their they two other who its would time been first year may after into most only some",
        "about when out up over city used world can such made state where there no will if many these then years",
    )
    for word in line.split()
)


@dataclass(frozen=True)
class Request:
    """One request: `at` is when it is to be sent, in seconds from the start (0 in a closed loop)."""

    number: int
    prompt: str
    prompt_tokens: int
    output_tokens: int
    at: float = 0.0


def closed(prompts: Lengths, outputs: Lengths, seed: int) -> Iterator[Request]:
    """Requests without end that have no point in time."""
    draw_prompt, draw_output, words = _drawers(prompts, outputs, seed)
    for number in itertools.count():
        length = draw_prompt()
        yield Request(number, _text(length, words), length, draw_output())


def open_loop(rate: float, prompts: Lengths, outputs: Lengths, seed: int, evenly: bool = False) -> Iterator[Request]:
    """Requests without end that arrive as a Poisson process of `rate` per second, or `evenly`."""
    times = arrivals.constant(rate) if evenly else arrivals.poisson(rate, random.Random(f"arrivals {seed}"))
    for request, at in zip(closed(prompts, outputs, seed), times, strict=False):
        yield Request(request.number, request.prompt, request.prompt_tokens, request.output_tokens, at)


def replay(lines: list[TraceLine], speed: float = 1.0) -> Iterator[Request]:
    """The requests of a trace, `speed` times as fast as recorded; prompts that shared a prefix share one again."""
    start = lines[0].timestamp if lines else 0.0
    for number, line in enumerate(lines):
        at = (line.timestamp - start) / 1000.0 / speed
        yield Request(number, _traced_text(number, line), line.input_length, line.output_length, at)


def _drawers(
    prompts: Lengths, outputs: Lengths, seed: int
) -> tuple[Callable[[], int], Callable[[], int], random.Random]:
    """Streams of their own, so that another length of answers leaves the prompts as they are."""
    return (
        prompts.drawer(random.Random(f"prompts {seed}")),
        outputs.drawer(random.Random(f"outputs {seed}")),
        random.Random(f"words {seed}"),
    )


def _text(tokens: int, random_numbers: random.Random) -> str:
    return " ".join(random_numbers.choices(WORDS, k=tokens))


def _traced_text(number: int, line: TraceLine) -> str:
    """A block's words come from its id; what has no id is the request's own."""
    parts = []
    left = line.input_length
    for hash_id in line.hash_ids:
        if left <= 0:
            break
        # Cut from a whole block, so that a shorter one begins as the longer does.
        parts.append(" ".join(_text(BLOCK_TOKENS, random.Random(f"block {hash_id}")).split(" ")[:left]))
        left -= BLOCK_TOKENS
    if left > 0:
        parts.append(_text(left, random.Random(f"request {number}")))
    return " ".join(parts)
