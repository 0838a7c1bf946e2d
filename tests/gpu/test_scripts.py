"""The task scripts that check_gpus.py runs are those that trtdist renders today."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.planning.topologies import section, topology
from trtdist.plan import to_json
from trtdist.planning import Target, plan
from trtdist.rendering import render_local
from trtdist.topology import Topology

SCRIPTS = Path(__file__).parent / "scripts"
UPDATE = "TRTDIST_UPDATE_GOLDEN"
# Of two servers that share GPU 0, the second one begins at an odd rank of the world.
CASES = {
    "one": topology(engine="tensorrt_llm"),
    "two": topology(
        engine="tensorrt_llm",
        context_servers=section(1, 1, fraction=0.3),
        generation_servers=section(1, 2, fraction=0.3),
        slurm={"gpus_per_node": 2},
    ),
}


def rendered(given: Topology) -> dict[str, str]:
    made = plan(given, Target.LOCAL)
    script = render_local(made, given)[f"{made.step('workers').stem}.task.sh"]
    return {"task.sh": script, "plan.json": to_json(made)}


@pytest.mark.parametrize("case", CASES)
def test_they_are_as_rendered(case: str) -> None:
    for name, text in rendered(CASES[case]).items():
        path = SCRIPTS / f"{case}.{name}"
        if UPDATE in os.environ:
            path.write_text(text)
        assert path.read_text() == text, f"{path.name} has changed; set {UPDATE}=1 if that is meant"
