"""What the local launcher cannot carry out is said, not ignored."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planning.topologies import topology
from trtdist.planning import Target, plan
from trtdist.rendering import RenderError, render_local, render_slurm

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"container": {"runtime": "pyxis", "image": "x"}}, "pyxis is a part of Slurm and starts nothing on this machine"),
    ({"container": {"runtime": "enroot", "image": "x", "shm_size": "1G"}}, "leave shm_size out"),
    ({"container": {"ulimits": {"memlock": -1}}}, "with container.runtime none the limits of the job hold"),
    ({"container": {"env_files": {"A": "/a:b"}}}, "no path may have a colon"),
    ({"container": {"env_files": {"TRTDIST_A": "/a"}}}, "container.env cannot set TRTDIST_A"),
    ({"container": {"env": {"UID": "1"}}}, "container.env cannot set UID"),
    ({"container": {"env": {"TRTDIST_RANK": "1"}}}, "container.env cannot set TRTDIST_RANK"),
    ({"container": {"env": {"NATS_SERVER": "x"}}}, "services.nats.external"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_refusals(values: dict[str, Any], message: str) -> None:
    given = topology(**values)
    with pytest.raises(RenderError, match=message):
        render_local(plan(given, Target.LOCAL), given)


THROUGH_SLURM: list[tuple[dict[str, Any], str]] = [
    (
        {"container": {"runtime": "pyxis", "image": "x"}, "slurm": {"extra_srun": ["--container-mounts=/a:/a"]}},
        "srun keeps one --container-mounts alone",
    ),
    ({"container": {"runtime": "docker", "image": "x"}}, "docker is for one machine"),
    ({"container": {"runtime": "podman", "image": "x"}}, "podman is for one machine"),
]


@pytest.mark.parametrize(("values", "message"), THROUGH_SLURM)
def test_refusals_through_slurm(values: dict[str, Any], message: str) -> None:
    given = topology(**values)
    with pytest.raises(RenderError, match=message):
        render_slurm(plan(given, Target.SLURM), given)
