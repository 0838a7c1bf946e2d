"""What Slurm prints is understood: recorded forms, arbitrary values, and the real programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.errors import MissingError
from trtdist.slurm import mpi, parse, states

CELL = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters="|"), max_size=12)
NAME = st.text(st.characters(blacklist_categories=("C", "Zl", "Zp")), max_size=20)
VALUE = st.from_regex(r"[A-Za-z0-9/=,:.*\[\]()-]{0,12}( [a-z0-9/.-]{1,6}){0,2}", fullmatch=True)
KEYS = ("JobId", "JobState", "CPUs/Task", "NtasksPerN:B:S:C", "TRES", "Command", "Reason")


@given(st.lists(st.tuples(st.integers(0, 10**9), CELL, CELL, NAME), max_size=5))
def test_a_job_is_read_whatever_it_is_called(rows: list[tuple[int, str, str, str]]) -> None:
    text = "\n".join(f"{number}|RUNNING|{reason}|17|N/A|{nodes}|me|{name}" for number, reason, nodes, name in rows)
    found = parse.jobs(text)
    assert [(job.id, job.name) for job in found] == [(str(number), name) for number, _, _, name in rows]
    assert all((job.start, job.end, job.user) == (17.0, None, "me") for job in found)


@given(st.dictionaries(st.sampled_from(KEYS), VALUE, min_size=1))
def test_fields_may_hold_blanks_and_equal_signs(values: dict[str, str]) -> None:
    line = " ".join(f"{key}={value}" for key, value in values.items())
    assert parse.fields(line) == {key: value.strip() for key, value in values.items()}


@given(st.text())
def test_nothing_that_is_printed_breaks_a_parser(text: str) -> None:
    parse.jobs(text)
    parse.past_jobs(text)
    parse.past_steps(text)
    parse.steps(text)
    parse.fields(text)
    parse.config(text)
    parse.mpi_types(text)
    parse.seconds(text)
    parse.first_killed(text, {14})


def test_how_steps_ended() -> None:
    text = "7|CANCELLED by 1000|0:0|1799999999|n[1-2]|tiny\n7.2|OUT_OF_MEMORY|0:125|1799999990|n2|workers\n"
    job, step = parse.past_steps(text)
    assert (job.id, job.state, job.nodes) == ("7", "CANCELLED", "n[1-2]")
    assert (step.id, step.state, step.exit_code, step.end, step.name) == (
        "7.2", "OUT_OF_MEMORY", "0:125", 1799999990.0, "workers",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (
            "srun: error: node2: task 5: Killed\nsrun: Terminating StepId=7.2\nsrun: error: node1: tasks 0-3: Killed\n",
            [5],
        ),
        ("srun: error: n1: tasks 0,4-6: Killed\r\n", [0, 4, 5, 6]),
        ("srun: error: node2: task 5: Out Of Memory\n", [5]),
        ("srun: error: node1: task 1: Exited with exit code 14\nsrun: error: node2: task 5: Killed", [5]),
        ("srun: error: node1: task 1: Exited with exit code 14\n", []),
        ("srun: error: node1: task 1: Exited with exit code 137\nsrun: error: node2: task 5: Killed\n", []),
        ("a rank says srun: error: node2: task 5: Killed\n", []),
        ("srun: error: node2: task -: Killed\n", []),
    ],
)
def test_who_was_killed_first(text: str, numbers: list[int]) -> None:
    assert parse.first_killed(text, {14}) == numbers


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_seconds(days: int, hours: int, minutes: int, rest: int) -> None:
    whole = float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
    assert parse.seconds(f"{days}-{hours:02}:{minutes:02}:{rest:02}") == whole
    assert parse.seconds("infinite") is None


def test_pending_with_a_reason() -> None:
    job = parse.jobs("7|PENDING|PartitionNodeLimit|1799999999|N/A||me|a|b\n")[0]
    assert (job.reason, job.start, job.nodes, job.name) == ("PartitionNodeLimit", 1799999999.0, "", "a|b")
    assert states.phase(job.state) == states.WAITING
    assert "slurm.nodes" in states.hopeless(job.reason)
    assert states.hopeless("Resources") == ""


def test_partitions() -> None:
    text = "batch|up|infinite|4|32|16000+|gpu:h100:8(S:0-1)\nshort|down|1-00:00:00|2|8+|4000|(null)\n"
    assert parse.partitions(text) == [
        parse.Partition("batch", True, None, 4, 32, 16000, 8, "h100"),
        parse.Partition("short", False, 86400.0, 2, 8, 4000, 0, ""),
    ]


@pytest.mark.parametrize(
    ("text", "types", "choice"),
    [
        (
            "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n",
            ["pmix", "none", "pmi2", "pmix_v4"],
            "pmix",
        ),
        (
            "srun: MPI types are...\nsrun: none\nsrun: pmix_v3\nsrun: pmix_v4\n",
            ["none", "pmix_v3", "pmix_v4"],
            "pmix_v4",
        ),
    ],
)
def test_mpi_types(text: str, types: list[str], choice: str) -> None:
    assert parse.mpi_types(text) == types
    assert mpi.choose(types) == choice


def test_without_pmix_there_is_no_choice() -> None:
    with pytest.raises(MissingError, match="shows none, pmi2"):
        mpi.choose(["none", "pmi2"])


@pytest.mark.parametrize(("text", "identity"), [("17\n", "17"), ("17;clusterb\n", "17")])
def test_job_id(text: str, identity: str) -> None:
    assert parse.job_id(text) == identity


@pytest.mark.parametrize("text", ["", "Submitted batch job 17"])
def test_no_job_id(text: str) -> None:
    with pytest.raises(ValueError, match="instead of a job id"):
        parse.job_id(text)


def test_every_state_has_a_phase_and_every_end_a_sentence() -> None:
    job = parse.Job("7", "NODE_FAIL", "NodeDown", None, None, "", "me", "x")
    assert states.ended_because(job) == "a node failed (NodeDown)"
    assert states.phase("COMPLETING") == states.ENDED
    assert states.phase("SOMETHING_NEW") == states.LIVE


@pytest.mark.parametrize(
    ("state", "down", "away"),
    [
        ("down", True, True),
        ("down*", True, True),
        ("fail", True, True),
        ("powering_down", True, True),
        ("allocated*", False, True),
        ("mixed*", False, True),
        ("failing", False, True),
        ("unknown", False, True),
        ("allocated", False, False),
    ],
)
def test_jobs_go_on_where_a_node_does_not_answer(state: str, down: bool, away: bool) -> None:
    assert (states.node_is_down(state), states.node_is_away(state)) == (down, away)
