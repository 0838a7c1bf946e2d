"""`trtdist drain` on a real supervisor over a hand-made run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.runs import HandMade
from trtdist.cli.drain import command
from trtdist.errors import InputError


@pytest.fixture
def made(tmp_path: Path) -> Iterator[HandMade]:
    run = HandMade(tmp_path)
    yield run
    run.clean()


def test_a_server_that_cannot_leave_alone_is_not_said_to_be_asked(
    made: HandMade, capsys: pytest.CaptureFixture[str]
) -> None:
    made.up()
    with pytest.raises(InputError, match=r"gen\.0 cannot leave alone: its MPI world ends with it"):
        command.main([str(made.run.path), "gen.0"], standalone_mode=False)
    assert "is asked" not in capsys.readouterr().err
