"""Where everything goes: pure functions from a topology to a plan."""

from __future__ import annotations

from trtdist.planning.picture import picture
from trtdist.planning.planner import Target, plan
from trtdist.planning.refusal import PlanError, Remedy

__all__ = ["PlanError", "Remedy", "Target", "picture", "plan"]
