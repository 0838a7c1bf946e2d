"""Places for faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.workplace import Workplace, workplace


@pytest.fixture
def place() -> Iterator[Workplace]:
    """A place for the deployment of one cell."""
    with workplace() as found:
        yield found
