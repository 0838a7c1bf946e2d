"""Hand-made runs for tests of the supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.runs import HandMade


@pytest.fixture
def made(tmp_path: Path) -> Iterator[HandMade]:
    """A run directory whose steps sleep."""
    run = HandMade(tmp_path)
    yield run
    run.clean()
