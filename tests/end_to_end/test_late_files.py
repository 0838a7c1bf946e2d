"""A whole run whose files show up late on every other machine, as those of shared file systems do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.end_to_end.test_through_slurm import EXAMPLE, SHARED, User

LATE_S = 3.0


@pytest.fixture
def late(cluster: Cluster) -> Iterator[User]:
    """A user whose runs folder is one."""
    user = User(cluster)
    user.runs.mkdir()
    cluster.own(user.runs)
    cluster.admin("late", "--seconds", str(LATE_S), str(user.runs))
    yield user
    cluster.admin("late", "--end", str(user.runs))


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [["submit", "--wait"], ["submit", "--wait", "--set", "launch=per_server"], ["up", "--detach"]],
    ids=["submit", "per_server", "up"],
)
def test_up_and_down(late: User, words: list[str]) -> None:
    done = late.trtdist(*words, EXAMPLE, *SHARED)
    assert done.returncode == 0, done.stderr + late.crashes()
    state = late.state()
    assert (state["state"], {rank["state"] for rank in state["ranks"]}) == ("READY", {"READY"})
    logs = late.trtdist("logs", "gen.0")
    assert (logs.returncode, logs.stdout != "") == (0, True), logs.stderr
    down = late.trtdist("down")
    assert down.returncode == 0, down.stderr
    assert late.job_state(str(state["slurm_job_id"])) in ("COMPLETED", "gone")
    assert late.state()["state"] == "STOPPED"
    assert late.left() == []
