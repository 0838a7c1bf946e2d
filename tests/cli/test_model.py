"""`trtdist model`, and that a model that is not whole is found before anything is queued."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.hub import Hub, hub
from tests.engines.models import contents, make_model
from trtdist.cli import submit, validate
from trtdist.cli.model import command
from trtdist.cli.model_paths import model_problem
from trtdist.errors import InputError, MissingError
from trtdist.planning import Target, plan
from trtdist.rendering import render_local
from trtdist.topology import InvalidTopologyError, load

SHARD = "model-00002-of-00002.safetensors"
TOPOLOGY = "name: demo\nmodel: {model}\nservers: {{}}\nslurm: {{gpus_per_node: 1}}\n"


def model(*arguments: object) -> str:
    return CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False).output


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny")


def test_stage_and_check(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTDIST_MODELS", str(tmp_path / "models"))
    place = tmp_path / "models" / "tiny"
    assert model("stage", whole) == f"{place}\n" == model("stage", f"{whole}/")
    assert contents(place) == contents(whole)
    assert model("stage", whole, "--to", tmp_path / "others", "--name", "t") == f"{tmp_path}/others/t\n"
    assert model("check", place, "--digests") == f"{place} is complete\n"
    (place / SHARD).write_bytes((place / SHARD).read_bytes()[:-1] + b"\0")
    assert "is complete" in model("check", place)
    with pytest.raises(InputError, match=f"{SHARD} has another digest"):
        model("check", place, "--digests")
    (place / SHARD).unlink()
    with pytest.raises(InputError, match=f"no complete model: {SHARD}"):
        model("check", place)


def test_what_cannot_be_staged(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(InputError, match="--revision is for models on the hub"):
        model("stage", whole, "--revision", "main", "--to", tmp_path)
    with pytest.raises(InputError, match="cannot be the name"):
        model("stage", whole, "--name", "../x", "--to", tmp_path)
    with pytest.raises(InputError, match="run it inside salloc"):
        model("stage", whole, "--node-local", "--to", tmp_path)
    with pytest.raises(InputError, match="is no complete model"):
        model("stage", tmp_path / "none", "--to", tmp_path)


def stage_from(there: Hub, target: Path, *more: str, code: int = 0) -> str:
    """Stage the hub's model in a process of its own, as huggingface_hub reads its settings once; what it says."""
    environ = {"HF_ENDPOINT": there.url, "HF_HOME": str(target / "home"), "HF_HUB_DISABLE_XET": "1"}
    argv = [sys.executable, "-m", "trtdist.cli", "model", "stage", *(more or (there.model,)), "--to", str(target)]
    done = subprocess.run(argv, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stderr if code else done.stdout


def test_a_model_is_downloaded_from_the_hub(whole: Path, tmp_path: Path) -> None:
    (whole / "pytorch.gguf").write_text("the weights a second time")
    with hub(whole, "org/tiny") as there:
        assert stage_from(there, tmp_path / "models") == f"{tmp_path}/models/org--tiny\n"
        place = tmp_path / "models" / "org--tiny"
        files = {name: data for name, data in contents(place).items() if not name.startswith(".cache")}
        (whole / "pytorch.gguf").unlink()
        assert files == contents(whole)
        # Once is enough.
        asked = len(there.asked)
        assert asked >= len(files)
        stage_from(there, tmp_path / "models")
        assert len(there.asked) == asked


@pytest.mark.long
def test_a_download_that_breaks_off_goes_on(whole: Path, tmp_path: Path) -> None:
    with hub(whole, "org/tiny") as there:
        there.lie.add(SHARD)
        there.cut.add("config.json")
        said = stage_from(there, tmp_path, code=1)
        assert f"the digest of {SHARD} is wrong: stage it again" in said
        assert not (tmp_path / "org--tiny").exists()
        first = {name for name, _ in there.asked}
        there.lie.clear()
        there.asked.clear()
        stage_from(there, tmp_path)
        # What was whole is not fetched again.
        assert {name for name, _ in there.asked} == {SHARD} < first


@pytest.mark.long
def test_what_the_hub_does_not_give(whole: Path, tmp_path: Path) -> None:
    with hub(whole, "org/tiny") as there:
        said = stage_from(there, tmp_path, "org/other", code=1)
        assert "the hub does not give org/other" in said and "HF_TOKEN" in said
        assert "the hub does not give" in stage_from(there, tmp_path, "org/tiny", "--revision", "none", code=1)
        (whole / SHARD).unlink()
        assert f"no complete model: {SHARD}" in stage_from(there, tmp_path, code=2)
    assert "the hub does not give org/tiny" in stage_from(there, tmp_path, code=1)


def test_a_download_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingError, match="pip install huggingface_hub"):
        model("stage", "org/model", "--to", tmp_path)


def test_an_id_is_looked_for_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no model of that id"):
        model("check", "org/tiny")
    home = tmp_path / "hub" / "models--org--tiny"
    make_model(home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc\n")
    assert model("check", "org/tiny").endswith("snapshots/abc is complete\n")


def test_a_partial_model_is_found_at_its_line(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(TOPOLOGY.format(model="./tiny"))
    assert CliRunner().invoke(validate.command, [str(file)]).exit_code == 0
    (whole / SHARD).unlink()
    told = f"{file}:2:8: error[TRT028]: the model {whole} is not complete: {SHARD}"
    assert told in CliRunner().invoke(validate.command, [str(file)]).output
    with pytest.raises(InvalidTopologyError, match=re.escape(told)):
        CliRunner().invoke(submit.command, [str(file), "--dry-run"], catch_exceptions=False)
    argv = [sys.executable, "-m", "trtdist.cli", "up", str(file), "--local"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and told in done.stderr
    file.write_text(TOPOLOGY.format(model="./none"))
    shown = CliRunner().invoke(validate.command, [str(file), "--json"])
    (diagnostic,) = json.loads(shown.output)["diagnostics"]
    assert diagnostic["code"] == "TRT028" and f"the model {tmp_path}/none is not there" in diagnostic["message"]


def problem(tmp_path: Path, text: str) -> str:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    try:
        load(file, environ={"TRTDIST_SITE": ""}, model_check=model_problem)
    except InvalidTopologyError as error:
        (diagnostic,) = error.diagnostics
        assert diagnostic.code == "TRT028"
        return diagnostic.message
    return ""


def test_what_cannot_be_seen_from_here_is_trusted(whole: Path, tmp_path: Path) -> None:
    assert problem(tmp_path, TOPOLOGY.format(model="/no-such-file-system/model")) == ""
    assert problem(tmp_path, TOPOLOGY.format(model="org/model")) == ""
    assert problem(tmp_path, "engine: reference\n" + TOPOLOGY.format(model=f"{tmp_path}/none")) == ""
    container = f"container: {{runtime: docker, image: i, mounts: ['{tmp_path}:/models']}}\n"
    assert problem(tmp_path, TOPOLOGY.format(model="/models/tiny") + container) == ""
    assert "not there" in problem(tmp_path, TOPOLOGY.format(model="/models/none") + container)
    assert problem(tmp_path, TOPOLOGY.format(model="/opt/in-the-image") + container) == ""


def test_an_id_is_checked_when_the_hub_is_not_asked(tmp_path: Path) -> None:
    env = "container: {{env: {{HF_HOME: {}, HF_HUB_OFFLINE: '{}'}}}}\n"
    text = TOPOLOGY.format(model="org/tiny")
    (tmp_path / "hub").mkdir()
    assert problem(tmp_path, text + env.format(tmp_path, 0)) == ""
    assert "is not in" in problem(tmp_path, text + env.format(tmp_path, 1))


def test_jobs_with_a_staged_model_run_offline(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"

    def variables(text: str) -> list[str]:
        file.write_text(text)
        topology = load(file, environ={"TRTDIST_SITE": ""})
        files = render_local(plan(topology, Target.LOCAL), topology)
        (task,) = (text for name, text in files.items() if name.endswith("workers.task.sh"))
        return [line for line in task.splitlines() if "OFFLINE" in line]

    assert variables(TOPOLOGY.format(model="/models/tiny")) == [
        "export HF_HUB_OFFLINE=1", "export TRANSFORMERS_OFFLINE=1",
    ]  # fmt: skip
    assert variables(TOPOLOGY.format(model="org/tiny")) == []
    assert variables(TOPOLOGY.format(model="/models/tiny") + "container: {env: {HF_HUB_OFFLINE: '0'}}\n")[0].endswith(
        "=0"
    )
