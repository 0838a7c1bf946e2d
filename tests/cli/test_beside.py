"""`trtdist url`, `exec`, `forward` and `status --gpus` beside a run on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.observe.fake_run import RUN_ID, FakeRun
from trtdist import chain
from trtdist.cli import forward, status, url
from trtdist.errors import InputError, TrtdistError
from trtdist.observe.snapshot import RunReader
from trtdist.plan import GpuLoad, to_json
from trtdist.rendering.site import site_files

TRTDIST = (sys.executable, "-m", "trtdist.cli")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """A run that is READY, with its NATS at a port of ours."""
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    made = FakeRun.create(tmp_path / "runs")
    made.ready()
    relay = made.run.site / "trtdist" / "supervisor" / "relay.py"
    relay.parent.mkdir(parents=True)
    relay.write_bytes(site_files()["trtdist/supervisor/relay.py"].read_bytes())
    return made


def resolve(fake: FakeRun, port: int = 1, **more: str) -> None:
    values = {
        "TRTDIST_NODES": "here",
        "TRTDIST_PYTHON": sys.executable,
        "NATS_SERVER": f"nats://127.0.0.1:{port}",
        "TRTDIST_NATS_PORT": str(port),
        "ETCD_ENDPOINTS": "http://etcd:2379",
        **more,
    }
    fake.run.resolved_env.write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def trtdist(*arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*TRTDIST, *arguments], env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def inside(command: click.Command, *arguments: str) -> str:
    """What a command prints that need not be a program of its own for the test."""
    return CliRunner().invoke(command, arguments, catch_exceptions=False).output


def test_url_names_addresses_and_files(fake: FakeRun) -> None:
    resolve(fake)
    (fake.run.secrets / "nats.user").write_text("u")
    found = json.loads(inside(url.command, "--json"))
    assert found["nats"] == "nats://127.0.0.1:1"
    assert found["user_file"] == str(fake.run.secrets / "nats.user") and found["password_file"] is None
    assert found["ca_file"] == str(fake.run.secrets / "ca.pem")
    assert found["http"] is found["http_node"] is None
    documented = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    assert all(f'"{key}"' in documented for key in found)
    lines = dict(line.split(maxsplit=1) for line in inside(url.command).splitlines())
    assert lines == {name: value for name, value in found.items() if value is not None}


def test_url_of_the_front_end_says_where_it_is_reached(fake: FakeRun) -> None:
    resolve(fake, TRTDIST_HTTP_PORT="4000", TRTDIST_HTTP_URL="http://10.1.2.3:4000")
    (fake.run.secrets / "http.keys").write_text("sk-1\n")
    done = trtdist("url", "--json")
    found = json.loads(done.stdout)
    assert (found["http"], found["http_node"], done.stderr) == ("http://10.1.2.3:4000", None, "")
    assert found["http_keys_file"] == str(fake.run.secrets / "http.keys")
    # Loopback of this machine, then of another.
    here = socket.gethostname()
    for node, hint in ((here, ""), ("n1", "http://127.0.0.1:4000 is reached on n1 alone: `trtdist forward --to http`")):
        resolve(fake, TRTDIST_NODES=f"'{node} n2'", TRTDIST_HTTP_PORT="4000", TRTDIST_HTTP_URL="http://127.0.0.1:4000")
        done = trtdist("url", "--json")
        assert json.loads(done.stdout)["http_node"] == node
        assert done.stderr.startswith(hint) and bool(done.stderr) == bool(hint)


def test_url_of_a_run_that_has_ended(fake: FakeRun) -> None:
    resolve(fake)
    fake.verdict()
    with pytest.raises(TrtdistError, match="is STOPPED: it has no address"):
        inside(url.command)


def test_exec_gives_the_environment_of_the_run_and_the_exit_code(fake: FakeRun) -> None:
    resolve(fake)
    script = 'echo "$NATS_SERVER ${PYTHONPATH%%:*} ${SLURM_STEP_ID-none} $1"; exit 7'
    done = trtdist("exec", "gen.0.0", "--", "bash", "-c", script, "x", "a  b", code=7, SLURM_STEP_ID="3")
    assert done.stdout == f"nats://127.0.0.1:1 {fake.run.site} none a  b\n"
    assert trtdist("exec", "nats", "echo", "-n", "it").stdout == "it"


def test_exec_of_what_is_not_there(fake: FakeRun) -> None:
    resolve(fake)
    assert "has no 'gen.7': name one of ctx.0, gen.0, nats" in trtdist("exec", "gen.7", "--", "true", code=2).stderr
    assert "cannot run nonsense" in trtdist("exec", "gen.0", "--", "nonsense", code=2).stderr
    fake.verdict()
    assert "nothing can be run beside it" in trtdist("exec", "gen.0", "--", "true", code=2).stderr


def test_gpus_beside_the_plan(fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(fake)
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/bash\necho "0, 17, 1000"\n')
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bash").symlink_to("/bin/bash")
    plan = replace(fake.plan, gpus=(GpuLoad(0, 0, 0.25, ("gen.0",)), GpuLoad(0, 1, 0.9, ("ctx.0",))))
    fake.run.plan.write_text(to_json(plan))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = json.loads(inside(status.command, "--gpus", "--json"))
    told = {"node": "here", "gpu": 0, "index": 0, "used": 17, "total": 1000, "planned": 0.25, "servers": ["gen.0"]}
    unknown = {"gpu": 1, "index": None, "used": None, "total": None, "planned": 0.9, "servers": ["ctx.0"]}
    assert found["gpus"] == [told, {**told, **unknown}]
    assert found["gpu_problems"] == []
    rows = [line.split() for line in inside(status.command, "--gpus").splitlines() if line.startswith("here")]
    assert " ".join(rows[0]) == "here 0 17 MiB 1000 MiB 25% (250 MiB) gen.0"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert inside(status.command, "--gpus").endswith("here: there is no nvidia-smi\n")


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that sends back what it gets, and closes when it has got it all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def test_forward_carries_connections_unchanged(fake: FakeRun, echo: int) -> None:
    resolve(fake, echo)
    process = subprocess.Popen([*TRTDIST, "forward"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        scheme, _, where = process.stdout.readline().strip().partition("://")
        assert scheme == "nats"
        host, port = where.split(":")
        content = os.urandom(300_000) + bytes(range(256))
        others = [socket.create_connection((host, int(port)), timeout=60) for _ in range(2)]
        for number, other in enumerate(others):
            other.sendall(b"no line end %d" % number)
        assert [other.recv(100) for other in others] == [b"no line end 0", b"no line end 1"]
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            sender = threading.Thread(target=lambda: (connection.sendall(content), connection.shutdown(1)))
            sender.start()
            assert b"".join(iter(lambda: connection.recv(65536), b"")) == content
            sender.join(60)
        process.terminate()
        assert process.wait(60) == 0
        assert others[0].recv(100) == b""
        for other in others:
            other.close()
    finally:
        process.kill()
        process.communicate()


def test_forward_says_why_a_connection_fails(fake: FakeRun) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        resolve(fake, nobody.getsockname()[1])
        process = subprocess.Popen([*TRTDIST, "forward"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stderr is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                assert connection.recv(1) == b""
            process.stderr.readline()
            assert "the head node cannot connect: Connection refused" in process.stderr.readline()
        finally:
            process.kill()
            process.communicate()


def test_forward_ends_with_its_run(fake: FakeRun, echo: int) -> None:
    resolve(fake, echo)
    process = subprocess.Popen([*TRTDIST, "forward"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            fake.verdict(time=time.time())
            assert connection.recv(1) == b""
        assert process.wait(60) == 1
        told = process.stderr.read().splitlines()[-1]
        assert told == f"trtdist: run {RUN_ID} is STOPPED: nothing is left to lead to; `trtdist status` says why"
    finally:
        process.kill()
        process.communicate()


def to_follow(fake: FakeRun) -> FakeRun:
    """Another run that is to take over."""
    after = FakeRun.create(fake.run.path.parent, run_id=f"{RUN_ID[:-4]}0000")
    shutil.copytree(fake.run.site, after.run.site)
    fake.run.next_run.write_text(f"{after.run.run_id}\n")
    after.run.previous_run.write_text(f"{RUN_ID}\n")
    return after


def asked_through(port: int) -> bytes:
    """What comes back through a forwarded port; nothing when the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"x")
        return connection.recv(1)


def test_forward_waits_for_the_run_that_is_to_take_over(fake: FakeRun, echo: int) -> None:
    resolve(fake, echo)
    after = to_follow(fake)
    process = subprocess.Popen([*TRTDIST, "forward"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        process.stderr.readline()
        fake.verdict(state="TIMEOUT", time=time.time())
        said = process.stderr.readline()
        assert f"{RUN_ID} has ended: new connections wait for {after.run.run_id}, which is to take over" in said
        answers: list[bytes] = []
        waiting = threading.Thread(target=lambda: answers.append(asked_through(port)))
        waiting.start()
        after.ready()
        resolve(after, echo)
        chain.take_over(after.run)
        waiting.join(60)
        assert answers == [b"x"]
        assert f"{after.run.run_id} has taken over" in process.stderr.readline()
        after.verdict(time=time.time())
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.communicate()


def test_forward_ends_when_the_run_that_was_to_take_over_does_not_come(fake: FakeRun, echo: int) -> None:
    resolve(fake, echo)
    after = to_follow(fake)
    process = subprocess.Popen([*TRTDIST, "forward"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stderr.readline()
        fake.verdict(state="TIMEOUT", time=time.time())
        assert "has ended: new connections wait" in process.stderr.readline()
        after.verdict(state="FAILED", time=time.time())
        assert process.wait(60) == 1
        assert "nothing is left to lead to" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_forward_says_so_when_a_connection_cannot_be_led_to_the_heir(fake: FakeRun, echo: int) -> None:
    """It has taken over and says that it has no such service."""
    resolve(fake, echo)
    after = to_follow(fake)
    after.ready()
    after.run.resolved_env.write_text("TRTDIST_NODES=here\n")
    way = forward._Way(RunReader(fake.run), "nats", forward.Forwarder.of(RunReader(fake.run).look(), "nats"))
    chain.take_over(after.run)

    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.ensure_future(forward._connection(way, asyncio.Semaphore(1), reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await asyncio.wait_for(reader.read(), 60) == b""
        await asyncio.gather(*tasks)
        writer.close()
        server.close()

    asyncio.run(main())


def test_forward_to_what_is_not_the_runs_own(fake: FakeRun) -> None:
    resolve(fake)
    with pytest.raises(InputError, match="connect to http://etcd:2379"):
        inside(forward.command, "--to", "etcd")
    with pytest.raises(InputError, match="has no http: see `trtdist url`"):
        inside(forward.command, "--to", "http")
