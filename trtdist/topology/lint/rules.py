"""All rules, in the order of a topology."""

from __future__ import annotations

from collections.abc import Callable

from trtdist.topology.lint.arguments import argument_rules, version_rules
from trtdist.topology.lint.case import Case
from trtdist.topology.lint.memory import memory_rules
from trtdist.topology.lint.parallel import parallel_rules
from trtdist.topology.lint.surroundings import surroundings_rules
from trtdist.topology.lint.transfer import transfer_rules

__all__ = ["lint"]

_RULES: tuple[Callable[[Case], None], ...] = (
    version_rules,
    argument_rules,
    transfer_rules,
    parallel_rules,
    memory_rules,
    surroundings_rules,
)


def lint(case: Case) -> None:
    """Note what will fail, or may, when TensorRT-LLM is started as the topology says."""
    for rule in _RULES:
        rule(case)
