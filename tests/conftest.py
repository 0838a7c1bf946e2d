"""What tests of several rooms share."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.cluster import Cluster, cluster_or_skip, locked, running, shared_folder

# Tests that a shell starts in the background ignore Ctrl-C, and so would everything that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What crashes, such as a daemon of the mini cluster, leaves no file where other tests look at all files.
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

# Launchers of other tests, and of runs on this machine, are not waited for.
os.environ["TRTDIST_LAUNCHES"] = f"-of-tests-{os.getpid()}"

# A busy machine may take its time over an example.
settings.register_profile("trtdist", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("trtdist")


@pytest.fixture(scope="session")
def _minicluster() -> Iterator[None]:
    """One mini cluster for the session, shared with its other workers."""
    cluster_or_skip()
    with running():
        yield


@pytest.fixture
def cluster(_minicluster: None) -> Iterator[Cluster]:
    """The mini cluster, whole, and shared with other tests: a test counts on no node to be free."""
    with locked("faults", fcntl.LOCK_SH), shared_folder() as folder:
        yield Cluster(folder)


@pytest.fixture
def own_cluster(_minicluster: None) -> Iterator[Cluster]:
    """The mini cluster, for a test that breaks it and mends it again while no other test uses it."""
    with locked("faults", fcntl.LOCK_EX), shared_folder() as folder:
        whole = Cluster(folder)
        try:
            yield whole
        finally:
            whole.mend()
