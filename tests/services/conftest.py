"""Real services for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.running import Services
from trtdist.rundir import RunDir


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """NATS and etcd, both healthy, for tests that leave them so."""
    folder = tmp_path_factory.mktemp("services")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        found = Services(RunDir(folder / "quick_start-20260101-000000-abcd"))
    try:
        for service in ("nats", "etcd"):
            found.up(service)
        yield found
    finally:
        found.end()


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """The services of a run of its own, none started; its folders have names that need quoting."""
    folder = tmp_path / "a $b \"c\\d'e é"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    found = Services(RunDir(folder / "tiny-20260101-000000-abcd"))
    yield found
    found.end()
