"""Places for containers, for each runtime that can be had and each kind of user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.containers.places import Place, chosen, image, own_image, refuse_or_skip

# Where podman runs as root it does so as any container program does; here it is the user's.
PLACES = [
    (name, user)
    for name in chosen()
    if name not in ("none", "pyxis")
    for user in ("user", "root")
    if (name, user) != ("podman", "root")
]


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place in which a container of the bare image can be entered."""
    name, user = request.param
    refuse_or_skip(name)
    if user == "root":
        yield Place(tmp_path, name, image(), None)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    there = own_image() if name == "podman" else image()
    yield Place(cluster.folder, name, there, cluster)
