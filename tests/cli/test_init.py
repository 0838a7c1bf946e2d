"""`trtdist init`: whatever is found, what it writes is valid, plans, and fits; what is there is kept."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtdist.cli import init
from trtdist.cli.first_files import Found, cluster_text, differences, site_text
from trtdist.cli.slurm_fit import misfit
from trtdist.errors import InputError, SlurmDownError, SlurmError
from trtdist.planning import Target, plan
from trtdist.rendering import render_slurm
from trtdist.rendering.slurm import job_options
from trtdist.slurm import parse
from trtdist.slurm.survey import Offer, Survey, survey
from trtdist.topology import check, load_site

NAME = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters="/,"), min_size=1, max_size=12)
OFFERS = st.builds(
    Offer,
    name=NAME,
    default=st.booleans(),
    nodes=st.integers(1, 4),
    cpus=st.integers(2, 256),
    memory=st.integers(2048, 2_000_000),
    gpus=st.sampled_from([0, 1, 2, 8]),
    gpu_type=st.one_of(st.just(""), NAME),
    limit=st.one_of(st.none(), st.floats(60, 1e6)),
)
SURVEYS = st.builds(
    Survey,
    offers=st.lists(OFFERS, min_size=1, max_size=3, unique_by=lambda offer: offer.name).map(tuple),
    accounts=st.lists(NAME, max_size=2).map(tuple),
    mpi_types=st.sampled_from([(), ("pmix", "none"), ("pmi2",)]),
    gpu_directive=st.sampled_from(["gpus-per-node", "gres", "none"]),
    pyxis=st.booleans(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(SURVEYS)
def test_what_is_written_is_valid_and_fits(tmp_path: Path, there: Survey) -> None:
    found = init._cluster(there, init._first)
    site, file = tmp_path / "site.yaml", tmp_path / "cluster.yaml"
    site.write_text(site_text(found))
    file.write_text(cluster_text(found))
    environ = {"TRTDIST_SITE": str(site)}
    assert load_site(environ).slurm.partition == found.partition
    checked = check(file, environ=environ)
    assert checked.topology is not None and checked.diagnostics == ()
    topology = checked.topology
    assert topology.slurm.account == found.account
    assert topology.engine == ("tensorrt_llm" if found.gpus else "reference")
    rows = [parse.Partition(o.name, True, o.limit, o.nodes, o.cpus, o.memory, o.gpus, o.gpu_type) for o in there.offers]
    planned = plan(topology, Target.SLURM)
    assert misfit(job_options(planned, topology), rows) == ""
    render_slurm(planned, topology)
    assert check(file, environ={"TRTDIST_SITE": ""}).topology is not None


@pytest.mark.parametrize("engine, gpus", [("reference", 0), ("tensorrt_llm", 1), ("tensorrt_llm", 4)])
def test_a_machine_without_slurm(tmp_path: Path, engine: str, gpus: int) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(cluster_text(Found(engine, gpus, 4)))
    checked = check(file, environ={"TRTDIST_SITE": ""})
    assert checked.topology is not None and checked.diagnostics == ()
    plan(checked.topology, Target.LOCAL)


def answers(**said: str) -> Survey:
    """A survey of a Slurm that says this; what is not said, it refuses."""

    def ask(words: list[str]) -> str:
        key = words[0] if words[0] != "scontrol" else words[-1]
        key = "mpi" if words == ["srun", "--mpi=list"] else key
        if key not in said:
            raise SlurmError(f"{words[0]}: refused")
        return said[key]

    return survey(ask, "me")


CPU, GPU = "cpu|up|1:00:00|9|64|1000|(null)\n", "gpu|up|infinite|4|32|16000|gpu:h100:8(S:0-1)\n"
SHOWN = "PartitionName=cpu Default=YES State=UP\nPartitionName=gpu Default=NO State=UP\n"


def test_each_peculiarity_of_a_cluster() -> None:
    tres = "SelectType              = select/cons_tres\n"
    found = answers(config=tres, partition=SHOWN, sinfo=GPU + CPU, sacctmgr="b|a\nb|b\n", mpi="none\npmix\n")
    assert [(offer.name, offer.default) for offer in found.offers] == [("cpu", True), ("gpu", False)]
    assert (found.accounts, found.mpi_types, found.gpu_directive) == (("b", "a"), ("none", "pmix"), "gpus-per-node")
    assert init._cluster(found, init._first).partition == "gpu"
    old = answers(config="SelectType = select/cons_res\n", partition=SHOWN, sinfo=GPU)
    assert (old.gpu_directive, old.accounts, old.mpi_types, old.pyxis) == ("gres", (), (), False)
    none = answers(config=tres, partition=SHOWN, sinfo=CPU, srun="  --container-image=IMAGE\n")
    assert (none.gpu_directive, none.pyxis) == ("none", True)
    assert init._cluster(none, init._first).engine == "reference"
    down = answers(config=tres, partition=SHOWN, sinfo=CPU.replace("|up|", "|down|"))
    with pytest.raises(InputError, match="no partition that is up"):
        init._cluster(down, init._first)
    with pytest.raises(SlurmError):
        answers(config=tres)


def test_a_controller_that_is_down_is_no_site_without_accounts() -> None:
    def ask(words: list[str]) -> str:
        raise SlurmDownError("unable to contact slurm controller")

    with pytest.raises(SlurmDownError):
        survey(ask, "me")


def test_on_a_terminal_it_asks_what_is_open() -> None:
    two = answers(config="SelectType = select/cons_tres\n", partition=SHOWN, sinfo=GPU + CPU, sacctmgr="b|a\nb|b\n")
    seen: list[Found] = []

    @click.command()
    def ask() -> None:
        seen.append(init._cluster(two, init._ask))

    done = CliRunner().invoke(ask, input="cpu\nnonsense\na\n\n", catch_exceptions=False)
    assert "'nonsense' is not one of" in done.output
    assert (seen[0].partition, seen[0].account, seen[0].gpu_directive, seen[0].engine) == (
        "cpu",
        "a",
        "none",
        "reference",
    )


def test_differences_name_each_value() -> None:
    lines = differences({"slurm": {"partition": "a"}, "runs": "/r"}, {"slurm": {"partition": "b", "account": "x"}})
    assert lines == [
        "slurm.partition: a, and b would be written",
        "slurm.account: nothing, and x would be written",
        "runs: /r, and nothing would be written",
    ]


def run(*arguments: str) -> str:
    return CliRunner().invoke(init.command, arguments, catch_exceptions=False).output


def test_without_slurm_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TRTDIST_SITE", "")
    monkeypatch.chdir(tmp_path)
    first = run("--yes", "new")
    assert "there is no Slurm here" in first
    assert "2 ranks on this machine; start them with: trtdist up new/cluster.yaml --local" in first
    file = tmp_path / "new" / "cluster.yaml"
    written = file.read_text()
    assert yaml.safe_load(written)["engine"] == "reference"
    assert "is there already and is kept\n" in run("new")
    file.write_text(written.replace("name: first", "name: mine"))
    assert "is kept:\n  name: mine, and first would be written" in run("new")
    file.write_text("{")
    with pytest.raises(InputError, match="correct or remove it"):
        run("new")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another FOLDER"):
        run("file/new")
