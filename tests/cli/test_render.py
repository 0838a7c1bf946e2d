"""`trtdist render` as a user runs it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trtdist.cli.render import command
from trtdist.errors import InputError
from trtdist.plan import from_json
from trtdist.rundir import RunDir

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


@pytest.fixture(autouse=True)
def no_site_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRTDIST_SITE", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def render(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("suffix", "options"), [("srun", []), ("local", ["--local"])])
def test_it_writes_everything_and_says_what(tmp_path: Path, suffix: str, options: list[str]) -> None:
    out = tmp_path / "deep" / "out"
    done = render(QUICKSTART, out, *options)
    assert done.exit_code == 0
    run = RunDir(out)
    planned = from_json(run.plan.read_text())
    for step in planned.steps:
        for kind in (suffix, "task"):
            script = run.scripts / f"{step.stem}.{kind}.sh"
            assert str(script) in done.output
            assert stat.S_IMODE(script.stat().st_mode) == 0o700
    assert (run.scripts / "README.txt").is_file()
    assert str(run.topology) in done.output


def test_twice_gives_the_same(tmp_path: Path) -> None:
    render(QUICKSTART, tmp_path / "out")
    before = files(tmp_path / "out")
    assert render(QUICKSTART, tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == before


def test_what_is_no_longer_needed_goes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    render(QUICKSTART, out, "--set", "launch=per_server")
    (out / "scripts" / "mine.sh").write_text("mine")
    assert render(QUICKSTART, out).exit_code == 0
    names = {path.name for path in (out / "scripts").iterdir()}
    assert "03-workers.srun.sh" in names and "mine.sh" in names
    assert not any("ctx.0" in name for name in names)


@pytest.mark.parametrize("name", ["plan.json", "scripts/03-workers.task.sh", "scripts", "site"])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("somebody's")
    done = render(QUICKSTART, out)
    assert isinstance(done.exception, InputError)
    assert "is left alone" in str(done.exception)
    assert files(out) == {name: b"somebody's"}


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert render(QUICKSTART, tmp_path / "out").exit_code == 0
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes").write_text("mine")
    done = render(QUICKSTART, tmp_path / "work")
    assert str(done.exception).endswith("that render did not write, and is left alone: choose another OUT")
    assert files(tmp_path / "work") == {"notes": b"mine"}


def test_a_run_that_was_started_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    render(QUICKSTART, out)
    RunDir(out).event_file("supervisor").write_text("{}\n")
    before = files(out)
    done = render(QUICKSTART, out, "--set", "launch=per_server")
    assert str(done.exception) == f"in {out} a run was started, and it is left alone: choose another OUT, or remove it"
    assert files(out) == before


def test_what_was_changed_by_hand_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    render(QUICKSTART, out)
    changed = out / "scripts" / "03-workers.srun.sh"
    changed.write_text("changed")
    before = files(out)
    assert isinstance(render(QUICKSTART, out).exception, InputError)
    assert files(out) == before


def test_links_are_not_followed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").write_text("")
    (out / "plan.json").symlink_to(tmp_path / "elsewhere")
    assert isinstance(render(QUICKSTART, out).exception, InputError)
    assert (tmp_path / "elsewhere").read_text() == ""


def test_folders_that_are_links_are_not_followed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out / "site").symlink_to(tmp_path / "elsewhere")
    assert isinstance(render(QUICKSTART, out).exception, InputError)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_site_folder_is_enough_to_import_what_runs(tmp_path: Path) -> None:
    assert render(QUICKSTART, tmp_path / "out").exit_code == 0
    code = "import sys, trtdist.plan, trtdist.events, trtdist.serving.etcd, nats; print(trtdist.__file__)"
    site = RunDir(tmp_path / "out").site
    environ = {"PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-B", "-c", code]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(site / "trtdist" / "__init__.py")), done.stderr


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is no folder" in str(render(QUICKSTART, tmp_path / "file").exception)
    assert isinstance(render(QUICKSTART, "/proc/nothing/out").exception, InputError)


def test_secrets_stay_where_they_are_needed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    overrides = ["container.env.HF_TOKEN=hf_abc", "services.nats.external=nats://me:s3cret@broker:4222"]
    assert render(QUICKSTART, out, *(word for value in overrides for word in ("--set", value))).exit_code == 0
    assert [name for name, text in files(out).items() if b"s3cret" in text] == ["secrets/nats.password"]
    run = RunDir(out)
    assert [name for name, text in files(out).items() if b"hf_abc" in text] == ["secrets/env.HF_TOKEN"]
    assert all(not os.stat(path).st_mode & 0o077 for path in (*run.scripts.iterdir(), *run.secrets.iterdir()))


def test_credentials_stay_when_it_renders_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert render(QUICKSTART, out, "--local").exit_code == 0
    made = files(out / "secrets")
    certificates = {"ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"}
    assert set(made) == {"kv.key", "nats.user", "nats.password", "http.keys", *certificates}
    assert render(QUICKSTART, out, "--local").exit_code == 0
    assert files(out / "secrets") == made
    assert render(QUICKSTART, out).exit_code == 0
    assert files(out / "secrets") == made
    assert b"TRTDIST_LAUNCHER=slurm\n" in files(out)["given.env"]
