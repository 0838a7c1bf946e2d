"""Placeholder until services are there."""

from __future__ import annotations

from trtdist.rundir import RunDir

__all__ = ["LocalHead"]


class LocalHead:
    """The head services of a run on this machine."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    async def resolve(self, service: str) -> None:
        """Nothing."""

    async def healthy(self, service: str) -> str | None:
        """Nothing."""
        return None

    def port_taken(self, service: str) -> bool:
        """Nothing."""
        return False
