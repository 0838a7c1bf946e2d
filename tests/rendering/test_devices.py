"""The GPUs that a rank is shown, in the order in which its engine counts them."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.topologies import section, topology
from trtdist.planning import Target, plan
from trtdist.rendering import render_local

_TASK = re.compile(r"^ {4}(\d+)\) set -- (\S+) (\d+) \d+ \d+ (\d+) (\d+) (\S+) ;;$", re.MULTILINE)


@settings(max_examples=30, deadline=None)
@given(
    launch=st.sampled_from(["mpi_world", "per_server"]),
    context=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3])),
    generation=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 4])),
)
def test_the_rule_of_tensorrt_llm_gives_the_gpu_of_the_plan(
    launch: str, context: tuple[int, int], generation: tuple[int, int]
) -> None:
    given_ = topology(
        engine="tensorrt_llm",
        launch=launch,
        context_servers=section(*context, fraction=0.2),
        generation_servers=section(*generation, fraction=0.2),
    )
    made = plan(given_, Target.LOCAL)
    files = render_local(made, given_)
    steps = [files[f"{step.stem}.task.sh"] for step in made.steps if step.kind == "workers"]
    ranks = [task for text in steps for task in _TASK.findall(text)]
    assert len(ranks) == made.world_size
    shown: dict[str, str] = {}
    for number, server, _, gpu, _, devices in ranks:
        listed = devices.split(",")
        # `MPI.COMM_WORLD.rank % torch.cuda.device_count()`, and a step is a world.
        assert listed[int(number) % len(listed)] == gpu
        assert shown.setdefault(server, devices) == devices, "all ranks of a server on a node see the same list"


def test_a_server_that_begins_at_an_odd_rank() -> None:
    given_ = topology(engine="tensorrt_llm", context_servers=section(1, 1), generation_servers=section(1, 2))
    text = render_local(plan(given_, Target.LOCAL), given_)["03-workers.task.sh"]
    assert [task[-1] for task in _TASK.findall(text)] == ["0", "2,1", "2,1"]
