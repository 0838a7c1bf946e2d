"""Spare nodes in place of those that are down. Standard library, Python 3.9.

The plan numbers the nodes of a run, and resolved.env has the name, the address and the clock of each number; the
launch lines read them there. So a server moves by what stands at its number, and a task still refuses any other node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trtdist.plan import Plan
from trtdist.supervisor import stamp

__all__ = ["LISTS", "moved", "placed"]

LISTS = ("TRTDIST_NODES", "TRTDIST_ADDRESSES", "TRTDIST_CLOCKS")


def placed(plan: Plan) -> int:
    """How many nodes have something placed on them: those above are spares."""
    return 1 + max(node for step in plan.steps for node in step.nodes)


def moved(
    env: Mapping[str, str], wanted: Collection[int], used: int, down: Collection[str]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """resolved.env with spares at the numbers `wanted` whose nodes are `down`, and the pairs of names that changed.

    The first `used` numbers have something placed on them, those above are spares. Node 0, on which the services run,
    stays. A node that is replaced is not in the lists any more; one without a spare stays where it is.
    """
    rows = list(zip(*(env[name].split() for name in LISTS)))
    spares = [row for row in rows[used:] if row[0] not in down]
    changed: list[tuple[str, str]] = []
    for number in sorted(set(wanted) - {0}):
        if number < used and rows[number][0] in down and spares:
            spare = spares.pop(0)
            changed.append((rows[number][0], spare[0]))
            rows[number] = spare
    gone = {spare for _, spare in changed}
    rows = rows[:used] + [row for row in rows[used:] if row[0] not in gone]
    lists = {name: " ".join(column) for name, column in zip(LISTS, zip(*rows))}
    return {**env, **lists, stamp.STAMP: stamp.changed(env[stamp.STAMP])}, changed
