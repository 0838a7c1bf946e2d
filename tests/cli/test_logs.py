"""`trtdist logs` over run directories that no run wrote, by the command itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.observe.fake_run import RUN_ID, FakeRun
from trtdist.cli.logs import command
from trtdist.errors import InputError
from trtdist.observe.logs import ByTime, follow
from trtdist.observe.tail import Tail

_PROGRAM = [sys.executable, "-c", "from trtdist.cli.main import main; main()", "logs"]


@pytest.fixture(params=["mpi_world", "per_server"])
def fake(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path))
    made = FakeRun.create(tmp_path, request.param)
    for name in ("nats", "ctx.0.0", "ctx.0.1", "gen.0.0", "router", "supervisor"):
        made.run.log(name).write_text(f"first of {name}\nlast of {name}\n")
    launch = "launch.workers" if request.param == "mpi_world" else "launch.gen.0"
    made.run.log(launch).write_text("mpiexec says\n")
    return made


def logs(*args: str) -> Result:
    return CliRunner().invoke(command, args, catch_exceptions=False)


@pytest.mark.parametrize("args", [["gen.0"], ["gen.0.0"], ["gen"], ["gen.*"], ["tiny", "gen.0"], [RUN_ID, "gen.0"]])
def test_one_log_in_both_launch_modes(fake: FakeRun, args: list[str]) -> None:
    found = logs(*args)
    assert found.exit_code == 0
    assert found.output == "first of gen.0.0\nlast of gen.0.0\n"


def test_several_logs_are_named(fake: FakeRun) -> None:
    assert logs("ctx.0", "--tail", "1").output == "ctx.0.0 | last of ctx.0.0\nctx.0.1 | last of ctx.0.1\n"


def test_a_rank(fake: FakeRun) -> None:
    assert logs("--rank", "1").output == "first of ctx.0.1\nlast of ctx.0.1\n"
    with pytest.raises(InputError, match=r"rank 7.*ctx\.0 has 2, gen\.0 has 1"):
        logs("--rank", "7")


def test_what_the_launcher_printed(fake: FakeRun) -> None:
    assert "mpiexec says" in logs("workers").output


def test_an_empty_log_is_said_to_be_empty(fake: FakeRun) -> None:
    fake.run.log("etcd").write_text("")
    found = logs("etcd", "router")
    assert found.stderr == "nothing has been written to etcd\n"
    assert "first of router" in found.stdout
    assert logs("router").stderr == ""


def test_without_selector_everything(fake: FakeRun) -> None:
    names = {line.split(" | ")[0].strip() for line in logs().output.splitlines()}
    assert {"nats", "ctx.0.0", "ctx.0.1", "gen.0.0", "router", "supervisor"} < names


def test_a_name_that_means_nothing_is_answered_with_those_that_exist(fake: FakeRun) -> None:
    with pytest.raises(InputError, match=r"no log named 'gen\.7'.*ctx\.0, .*gen\.0"):
        logs(RUN_ID, "gen.7")
    with pytest.raises(InputError, match=r"'nix' is no log of .*it has .*gen\.0.* and no run matches 'nix'"):
        logs("nix")


def test_grep(fake: FakeRun) -> None:
    assert logs("ctx.0", "--grep", "^last.*1$").output == "ctx.0.1 | last of ctx.0.1\n"
    with pytest.raises(InputError, match=r"is no regular expression: .*position 0"):
        logs("--grep", "(")


def test_merged_by_time(fake: FakeRun) -> None:
    for name, times in (("ctx.0.0", (10, 30)), ("ctx.0.1", (20, 40))):
        fake.run.log(name).with_suffix(".idx").write_text(f"0 {times[0]}\n17 {times[1]}\n")
    assert [line.split(" | ")[1] for line in logs("ctx.0", "--merge").output.splitlines()] == [
        "first of ctx.0.0",
        "first of ctx.0.1",
        "last of ctx.0.0",
        "last of ctx.0.1",
    ]


def test_lines_that_are_added_come_by_time_too(tmp_path: Path) -> None:
    """Also one that was written before another and is found after it, as the logs are read one after the other."""
    logs = {name: tmp_path / f"{name}.log" for name in "ab"}

    def write(name: str, time: float) -> None:
        start = logs[name].stat().st_size if logs[name].exists() else 0
        for path, text in ((logs[name].with_suffix(".idx"), f"{start} {time}"), (logs[name], f"{name} at {time}")):
            with open(path, "a") as file:
                file.write(f"{text}\n")

    rounds = iter([[("b", 1.02)], [("a", 1.0), ("a", 1.04), ("b", 1.03)], [], [("a", 1.06), ("b", 1.05)]])

    def ended() -> bool:
        for name, time in next(rounds, []):
            write(name, time)
        return rounds.__length_hint__() == 0

    reading = ByTime([(name, Tail(log)) for name, log in logs.items()])
    found = [line.text.split()[2] for line in follow(reading, ended, lambda: None) if line]
    assert found == ["1.0", "1.02", "1.03", "1.04", "1.05", "1.06"]


def test_since(fake: FakeRun) -> None:
    fake.run.log("gen.0.0").with_suffix(".idx").write_text("0 1000\n17 2000\n")
    assert logs("gen.0", "--since", "2000").output == "last of gen.0.0\n"
    assert logs("gen.0", "--since", "1500").output == "last of gen.0.0\n"
    assert logs("gen.0", "--since", "999").output.startswith("first")
    with pytest.raises(InputError, match="--since 'soon' is no time"):
        logs("--since", "soon")


def test_json(fake: FakeRun) -> None:
    found = [json.loads(line) for line in logs("gen.0", "--json").output.splitlines()]
    assert found[0] == {"name": "gen.0.0", "line": "first of gen.0.0"}


def test_a_last_line_without_end_is_shown(fake: FakeRun) -> None:
    fake.run.log("gen.0.0").write_text("dying wor")
    assert logs("gen.0").output == "dying wor\n"


def test_bytes_that_are_no_text_on_a_terminal_that_is_no_utf8(fake: FakeRun) -> None:
    fake.run.log("gen.0.0").write_bytes(b"caf\xe9 \xf0\x9f\x98\x80\n")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    found = subprocess.run([*_PROGRAM, "gen.0"], env=env, capture_output=True, check=True)
    assert found.stdout.decode() == "caf� 😀\n"
    assert found.stderr == b""


def test_nobody_reads_any_more(fake: FakeRun) -> None:
    fake.run.log("gen.0.0").write_text("a line\n" * 200_000)
    child = subprocess.Popen([*_PROGRAM, "gen.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) == 0


@pytest.fixture
def following(fake: FakeRun) -> Iterator[subprocess.Popen[str]]:
    fake.ready()
    fake.run.log("gen.0.0").unlink()
    child = subprocess.Popen(
        [*_PROGRAM, "gen.0", "router", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield child
    child.kill()
    child.communicate()


def test_following_until_the_run_ends(fake: FakeRun, following: subprocess.Popen[str]) -> None:
    assert following.stdout is not None
    assert following.stdout.readline() == "router  | first of router\n"
    assert following.stdout.readline() == "router  | last of router\n"
    fake.run.log("gen.0.0").write_text("appeared late\n")
    assert following.stdout.readline() == "gen.0.0 | appeared late\n"
    os.replace(fake.run.log("gen.0.0"), fake.run.logs / "gen.0.0.old")
    fake.run.log("gen.0.0").write_text("rotated\nend")
    assert following.stdout.readline() == "gen.0.0 | rotated\n"
    fake.verdict()
    assert following.stdout.read() == "gen.0.0 | end\n"
    assert following.wait(60) == 0


def test_ctrl_c_while_following(fake: FakeRun, following: subprocess.Popen[str]) -> None:
    assert following.stdout is not None and following.stderr is not None
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    assert following.wait(60) == 130
    assert following.stderr.read().strip() == ""
