"""The site profile: found in the right place, strict, and only a default."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdist.topology import InvalidTopologyError, SiteProfile, check, load, load_site
from trtdist.topology.site import site_path

TOPOLOGY = "name: demo\nmodel: org/model\nservers: {}\n"
SITE = """\
slurm: {account: lab, partition: gpu, gpu_directive: gres, gpus_per_node: 4}
container: {runtime: apptainer}
network: {interface: ib0}
runs: runs
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with a site profile."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "site.yaml").write_text(SITE)
    return {"TRTDIST_SITE": str(tmp_path / "site" / "site.yaml")}


def topology_file(tmp_path: Path, more: str = "") -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(TOPOLOGY + more)
    return path


def test_defaults_are_filled_in(tmp_path: Path, environ: dict[str, str]) -> None:
    topology = load(topology_file(tmp_path, "container: {image: /x.sif}\n"), environ=environ)
    assert (topology.slurm.account, topology.slurm.partition) == ("lab", "gpu")
    assert (topology.slurm.gpu_directive, topology.slurm.gpus_per_node) == ("gres", 4)
    assert topology.container.runtime == "apptainer"
    assert topology.network.interface == "ib0"


def test_the_topology_and_overrides_win(tmp_path: Path, environ: dict[str, str]) -> None:
    more = "slurm: {account: mine}\nnetwork: {subnet: 10.0.0.0/8}\n"
    topology = load(topology_file(tmp_path, more), environ=environ, overrides=["slurm.partition=test"])
    assert (topology.slurm.account, topology.slurm.partition) == ("mine", "test")
    assert topology.network.interface is None
    assert topology.container.runtime == "none"


def test_a_key_without_a_value_takes_the_default(tmp_path: Path, environ: dict[str, str]) -> None:
    topology = load(topology_file(tmp_path, "slurm: {account: }\nnetwork:\n"), environ=environ)
    assert topology.slurm.account == "lab"
    assert topology.network.interface == "ib0"


def test_problems_have_the_place_in_the_profile(tmp_path: Path, environ: dict[str, str]) -> None:
    site = environ["TRTDIST_SITE"]
    Path(site).write_text("slurm:\n  acount: x\n  gpus_per_node: 0\n  time: 60\nnme: x\nname: x\n")
    found = check(topology_file(tmp_path, "zzz: 1\n"), environ=environ)
    assert found.topology is None
    lines = [str(diagnostic) for diagnostic in found.diagnostics]
    assert lines[0].startswith(f"{tmp_path}/cluster.yaml:4:1: error[TRT012]")
    assert lines[1:] == [
        f"{site}:2:3: error[TRT012]: unknown key 'acount' in slurm; did you mean 'account'?",
        f"{site}:3:18: error[TRT016]: gpus_per_node in slurm must be at least 1, not 0",
        f"{site}:4:3: error[TRT012]: unknown key 'time' in slurm; it belongs into a topology, not into a site profile",
        f"{site}:5:1: error[TRT012]: unknown key 'nme'; known here: slurm, container, network, runs, images",
        f"{site}:6:1: error[TRT012]: unknown key 'name'; it belongs into a topology, not into a site profile",
    ]
    with pytest.raises(InvalidTopologyError, match="acount"):
        load_site(environ)


def test_runs_are_relative_to_the_profile(tmp_path: Path, environ: dict[str, str]) -> None:
    assert load_site(environ).runs == f"{tmp_path}/site/runs"


def test_an_empty_profile_says_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    Path(environ["TRTDIST_SITE"]).write_text("# nothing yet\n")
    assert load_site(environ) == SiteProfile()


def test_a_named_profile_must_be_there(tmp_path: Path) -> None:
    found = check(topology_file(tmp_path), environ={"TRTDIST_SITE": str(tmp_path / "nowhere.yaml")})
    assert [diagnostic.code for diagnostic in found.diagnostics] == ["TRT001"]


def test_where_the_profile_is_looked_for(tmp_path: Path) -> None:
    system = tmp_path / "system.yaml"
    home = tmp_path / "home"
    user = home / ".config" / "trtdist" / "site.yaml"
    environ = {"HOME": str(home)}
    assert site_path(environ, system) is None
    system.touch()
    assert site_path(environ, system) == system
    user.parent.mkdir(parents=True)
    user.touch()
    assert site_path(environ, system) == user
    assert site_path({**environ, "TRTDIST_SITE": "/x.yaml"}, system) == Path("/x.yaml")
    assert site_path({**environ, "TRTDIST_SITE": ""}, system) is None
    assert site_path({**environ, "XDG_CONFIG_HOME": str(tmp_path)}, system) == system
