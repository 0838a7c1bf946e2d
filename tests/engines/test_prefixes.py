"""Prompts that begin like earlier ones: fewer tokens are read, and the answers are the same to the bit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.oracle import answer
from tests.engines.simulated import Deployment
from tests.engines.topologies import monolithic, reusing
from trtdist.engines.base import EngineOutput, GenerateRequest, Sampling
from trtdist.engines.reference.cache import Cache
from trtdist.engines.reference.prefixes import BLOCK, Prefixes
from trtdist.engines.reference.shape import HEAD_WIDTH, LAYERS

SAMPLING = Sampling(max_tokens=6, temperature=0.7, seed=3)
SHARED = "You are a careful assistant. " * 20
PROMPTS = (SHARED + "What is a fern?", SHARED + "What is a fox?", SHARED[:200] + "Why?", SHARED, SHARED, "Short")


def answers(tp: int, together: bool, reuse: bool, run_dir: Path) -> list[EngineOutput]:
    """The last output of each prompt, with the text of all in it."""

    async def one(deployment: Deployment, number: int, prompt: str) -> EngineOutput:
        request = GenerateRequest(f"r{number}", SAMPLING, prompt)
        outputs = [output async for output in deployment.engines["srv.0"].generate(request)]
        last = outputs[-1]
        tokens = tuple(token for output in outputs for token in output.token_ids)
        return EngineOutput(tokens, "".join(output.text for output in outputs), last.finish_reason, usage=last.usage)

    async def main() -> list[EngineOutput]:
        async with Deployment(reusing(tp) if reuse else monolithic(tp), run_dir) as deployment:
            asked = [one(deployment, number, prompt) for number, prompt in enumerate(PROMPTS)]
            if together:
                return list(await asyncio.wait_for(asyncio.gather(*asked), 60))
            return [await asyncio.wait_for(each, 60) for each in asked]

    return asyncio.run(main())


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("tp", [1, 2])
def test_answers_are_the_same_to_the_bit_and_reused_tokens_are_told(tp: int, together: bool, tmp_path: Path) -> None:
    found = answers(tp, together, True, tmp_path)
    for output, prompt in zip(found, PROMPTS, strict=True):
        expected = answer(prompt, SAMPLING)
        assert (output.token_ids, output.text, output.finish_reason, output.usage["logits"]) == expected
        usage = output.usage
        assert usage["reused_tokens"] + usage["prefill_tokens"] == usage["prompt_tokens"] == len(prompt.encode()) + 1
    if not together:
        whole = (len(SHARED) + 1) // BLOCK * BLOCK
        assert [output.usage["reused_tokens"] for output in found] == [0, whole, BLOCK, whole, whole, 0]


def test_nothing_is_reused_unless_told(tmp_path: Path) -> None:
    assert not any(output.usage["reused_tokens"] for output in answers(1, False, False, tmp_path))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=20), st.integers(0, 8))
def test_what_is_held_is_what_was_kept_and_bounded(prompts: list[tuple[int, int]], most: int) -> None:
    prefixes = Prefixes(most)
    for kind, blocks in prompts:
        tokens = [kind] * (blocks * BLOCK) + [99]
        cache = Cache(1)
        cache.append(np.full((LAYERS, 2, 1, len(tokens), HEAD_WIDTH), kind, dtype="<i2"))
        held = prefixes.held(tokens)
        assert held < len(tokens)
        loaded = prefixes.load(tokens[:held], 1)
        assert loaded.length == held and (loaded.piece(0, held) == kind).all()
        prefixes.keep(tokens, cache)
        assert len(prefixes) <= most
        # The front of what was used last is there, as far as there is room.
        assert prefixes.held(tokens) == BLOCK * min(blocks, most)
