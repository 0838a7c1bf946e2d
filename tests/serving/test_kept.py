"""KV caches that wait to be fetched are freed once, whatever comes first."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.scripted import until
from trtdist.engines.base import EngineError
from trtdist.serving import kept as keeping
from trtdist.serving.background import Background
from trtdist.serving.kept import KeptCaches

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "free"]), st.sampled_from("rs"), st.integers(0, 4)), min_size=1, max_size=20
)


@given(STEPS)
def test_every_cache_is_freed_once_and_the_newest_is_kept(steps: list[tuple[str, str, int]]) -> None:
    released: list[int] = []

    async def release(context_request_id: int) -> None:
        released.append(context_request_id)

    async def main() -> None:
        background = Background()
        kept = KeptCaches(release, background)
        newest: dict[str, int] = {}
        for number, (step, request, attempt) in enumerate(steps):
            if step == "add":
                kept.add(request, attempt, number, asyncio.get_running_loop().time() + 1000)
                newest[request] = max(attempt, newest.get(request, attempt))
            else:
                kept.free(request, attempt)
                if newest.get(request, 9) <= attempt:
                    del newest[request]
        assert len(kept) == len(newest)
        for request in "rs":
            kept.free(request, 9)
        await background.wait(60)
        assert sorted(released) == [number for number, (step, _, _) in enumerate(steps) if step == "add"]

    asyncio.run(main())


def test_none_is_kept_for_as_long_as_a_request_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEEP_S", 0.05)
    released: list[int] = []

    async def release(context_request_id: int) -> None:
        released.append(context_request_id)

    async def main() -> None:
        kept = KeptCaches(release, Background())
        kept.add("r", 0, 7, asyncio.get_running_loop().time() + 1000)
        await until(lambda: len(kept) == 0, 60)
        await until(lambda: released == [7], 60)

    asyncio.run(main())


def test_a_dead_engine_keeps_none(capfd: pytest.CaptureFixture[str]) -> None:
    async def release(context_request_id: int) -> None:
        raise EngineError("the engine does not run")

    async def main() -> None:
        background = Background()
        kept = KeptCaches(release, background)
        kept.add("r", 0, 7, asyncio.get_running_loop().time() + 1000)
        kept.free("r", 0)
        await kept.release(8)
        assert await background.wait(60)

    asyncio.run(main())
    assert capfd.readouterr().err == ""
