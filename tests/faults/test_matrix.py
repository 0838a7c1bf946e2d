"""The matrix of faults: each cell is complete, holds, and would be found if it did not."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.end_to_end.workplace import Workplace
from tests.faults.__main__ import draw, main, sum_up, tell
from tests.faults.attempts import Attempt, held, record
from tests.faults.inflict import PROCESS_FAULTS
from tests.faults.local_place import run_cell
from tests.faults.runner import Figures
from tests.faults.summary import summary
from tests.faults.table import DEADLY, DEPLOYMENTS, FAULTS, MOMENTS, PROCESSES, Cell, cells, expected

OUTCOMES = {"FAILED", "TIMEOUT", "INTERRUPTED", "STOPPED", "READY", "AGAIN"}
ABLE = [cell for cell in cells() if not expected(cell).cannot]


def test_each_cell_has_an_expectation_or_a_reason() -> None:
    every = list(cells())
    assert len(every) == len(set(every)) == len(DEPLOYMENTS) * len(PROCESSES) * len(MOMENTS) * len(FAULTS)
    for cell in every:
        want = expected(cell)
        assert bool(want.cannot) != (want.outcome in OUTCOMES), cell
        assert want.seconds > 0


def test_each_process_moment_and_fault_is_hit() -> None:
    for part in (PROCESSES, MOMENTS, FAULTS, DEPLOYMENTS):
        counted = Counter(word for cell in ABLE for word in (cell.deployment, cell.process, cell.moment, cell.fault))
        assert all(counted[word] > 0 for word in part)


def test_a_seed_draws_the_same_cells() -> None:
    assert draw(7, 20) == draw(7, 20) != draw(8, 20)
    assert set(draw(7, 10_000)) == set(ABLE)
    assert all(cell.fault == "KILL" for cell in draw(7, 30, ["KILL"]))


def test_what_held_is_left_out_and_counted(tmp_path: Path) -> None:
    killed, frozen = Cell("per_server", "nats", "ready", "KILL"), Cell("per_server", "shim of nats", "ready", "STOP")
    attempts = [
        Attempt(killed, None, "AssertionError: it went on", 9.0),
        Attempt(frozen, None, "AssertionError: it failed", 9.0),
        Attempt(killed, Figures(0.25, 3.5), "", 9.0),
    ]
    file = tmp_path / "figures"
    file.write_text("".join(map(record, attempts)))
    assert held([file, tmp_path / "none"]) == {killed}
    table = summary([file])
    assert "| FAILED, after a death | 0.2 s, 0.2 s | 3.5 s, 3.5 s | 1 of 1 |" in table
    assert "| the run stays, after a process hangs that nobody waits for |  |  | 0 of 1 |" in table
    assert f"1 of 2 held; {len(ABLE)} can be" in table


def test_what_came_of_cells_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    quiet, loaded = Cell("per_server", "nats", "ready", "KILL"), Cell("per_server", "gen.0.0", "load", "STOP")
    broken = Attempt(quiet, None, "AssertionError: it went on", 9.0)
    kept = [Attempt(quiet, Figures(0.25, 3.5), "", 12.4), Attempt(loaded, Figures(24.0, 25.0, 14, 1), "", 60.0)]
    for one in (*kept, broken):
        tell(one)
    assert capsys.readouterr().out.splitlines() == [
        "holds  per_server, nats, ready, KILL  told 0.25 s, clean 3.50 s  (12 s)",
        "holds  per_server, gen.0.0, load, STOP  told 24.00 s, clean 25.00 s, 14 requests answered, 1 failed  (60 s)",
        "BROKEN  per_server, nats, ready, KILL  AssertionError: it went on  (9 s)",
    ]
    codes = [sum_up(7, attempts) for attempts in (kept, kept[:1], [*kept, broken], [broken, broken])]
    told = [line for line in capsys.readouterr().out.splitlines() if "seed" in line]
    assert codes == [0, 0, 1, 1] and told == [
        "2 of 2 hold; seed 7",
        "1 of 1 holds; seed 7",
        "1 of 3 does not hold; seed 7",
        "2 of 2 do not hold; seed 7",
    ]


@pytest.mark.parametrize(("fault", "code"), [("KILL", -signal.SIGKILL), ("exit 0", 0), ("exit 1", 1)], ids=str)
@pytest.mark.parametrize("program", ["import time\ntime.sleep(100)", "while True:\n    pass"], ids=["waits", "works"])
def test_a_process_ends_as_it_is_made_to(program: str, fault: str, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", f"print(1, flush=True)\n{program}"], stdout=subprocess.PIPE) as hit:
        assert hit.stdout is not None
        hit.stdout.readline()
        PROCESS_FAULTS[fault](hit.pid)
        assert hit.wait(60) == code


def test_a_cell_that_is_drawn(place: Workplace) -> None:
    """One death without a restart, another each time."""
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    quick = [cell for cell in draw(seed, 10_000, ["per_server, ", "ready"]) if cell.fault in DEADLY]
    print(quick[0])
    run_cell(quick[0], place, patience=30.0)


@pytest.mark.long
@pytest.mark.parametrize("number", range(24))
def test_cells_that_are_drawn(place: Workplace, number: int) -> None:
    """All of them take hours: `python -m tests.faults`."""
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    (cell,) = draw(seed, 1)
    print(cell)
    run_cell(cell, place)


@pytest.mark.long
def test_cells_are_run_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--count", "1", "--only", "router, ready, KILL", "--only", "per_server, "]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("seed 3\nholds  per_server, router, ready, KILL")
    assert printed.endswith("\n1 of 1 holds; seed 3\n")
