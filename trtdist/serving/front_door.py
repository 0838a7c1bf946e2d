"""Which instance is asked first: a router, or a server that does everything itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from trtdist.serving.attempt import RequestError
from trtdist.serving.discovery import Instance, Snapshot
from trtdist.serving.slug import CONTEXT, GENERATION, MONOLITHIC, ROUTER

__all__ = ["FrontDoor", "component_name"]


def component_name(word: str) -> str:
    """A component as it is registered; documents of Triton Distributed also write `tensorrt_llm`."""
    return word.replace("_", "-")


class FrontDoor:
    """Takes turns over the instances of a component."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._turns: Counter[str] = Counter()

    def choose(self, component: str, server: str, exclude: Collection[str], snapshot: Snapshot) -> Instance:
        """The instance whose turn it is; `server` pins one by its name in the plan, `exclude` has lease ids (hex).

        RequestError: `bad_request` for a component that cannot be asked, `unavailable` when nobody is there.
        """
        name = component_name(component)
        found = snapshot.of(name)
        if name not in (ROUTER, MONOLITHIC) or not found:
            self._refuse(component, snapshot)
        pinned = [one for one in found if (one.server == server if server else one.proven)]
        if not pinned:
            known = ", ".join(one.server for one in found)
            raise RequestError("bad_request", f"run {self._namespace} has no server {server!r}, it has {known}")
        left = [one for one in pinned if one.lease_hex not in exclude]
        if not left:
            raise RequestError("unavailable", f"no other {name} of run {self._namespace} is registered")
        self._turns[name] += 1
        return left[(self._turns[name] - 1) % len(left)]

    def _refuse(self, component: str, snapshot: Snapshot) -> None:
        name = component_name(component)
        registered = sorted({one.component for one in snapshot.instances})
        disaggregated = bool({CONTEXT, GENERATION} & set(registered))
        if disaggregated and name in (MONOLITHIC, CONTEXT, GENERATION):
            raise RequestError(
                "bad_request",
                f"run {self._namespace} is disaggregated, so {component} alone gives no answer: use the router",
            )
        known = ", ".join(registered) or "nobody"
        stale = f" ({snapshot.stale})" if snapshot.stale else ""
        code = "unavailable" if name in (ROUTER, MONOLITHIC) else "bad_request"
        raise RequestError(code, f"run {self._namespace} has no component {component!r}; registered is {known}{stale}")
