"""KV caches that wait to be fetched are freed once, whatever comes first."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

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
        await background.wait(10)
        assert sorted(released) == [number for number, (step, _, _) in enumerate(steps) if step == "add"]

    asyncio.run(main())
