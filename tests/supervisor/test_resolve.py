"""resolved.env: what is in it, that bash reads it, and what goes wrong with one sentence."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trtdist.errors import InputError, TrtdistError
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env, write_env
from trtdist.supervisor.ports import PortClaims
from trtdist.supervisor.resolve import main, resolve, service_ports

ROOT = Path(__file__).parents[2]
EVERYTHING = {
    "TRTDIST_RUN_ID", "TRTDIST_RUN_DIR", "TRTDIST_LOCAL_DIR", "TRTDIST_PYTHON", "TRTDIST_NODES", "TRTDIST_ADDRESSES",
    "TRTDIST_HEAD_ADDRESS", "TRTDIST_MPIEXEC", "TRTDIST_NATS_BINARY", "TRTDIST_ETCD_BINARY", "TRTDIST_NATS_PORT",
    "TRTDIST_ETCD_PORT", "TRTDIST_ETCD_PEER_PORT", "NATS_SERVER", "ETCD_ENDPOINTS",
    "TRTDIST_STAMP",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run directory with a name that needs quoting, and a temporary folder of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = tmp_path / 'it\'s $(a) "run" é' / "tiny-20260101-000000-abcd"
    path.mkdir(parents=True)
    return RunDir(path)


def test_everything_is_found(run: RunDir) -> None:
    values = resolve(run, os.environ)
    assert set(values) == EVERYTHING
    assert read_env(run.resolved_env) == values
    assert values["TRTDIST_RUN_ID"] == "tiny-20260101-000000-abcd"
    assert values["NATS_SERVER"] == f"tls://127.0.0.1:{values['TRTDIST_NATS_PORT']}"
    assert values["ETCD_ENDPOINTS"] == f"https://127.0.0.1:{values['TRTDIST_ETCD_PORT']}"
    assert len({*service_ports("nats", values), *service_ports("etcd", values)}) == 3
    for name in ("TRTDIST_MPIEXEC", "TRTDIST_NATS_BINARY", "TRTDIST_ETCD_BINARY", "TRTDIST_PYTHON"):
        assert os.access(values[name], os.X_OK)
    local = Path(values["TRTDIST_LOCAL_DIR"])
    assert local.stat().st_mode & 0o777 == local.parent.stat().st_mode & 0o777 == 0o700
    assert run.resolved_env.stat().st_mode & 0o777 == 0o600


def test_bash_reads_the_same(run: RunDir) -> None:
    values = resolve(run, os.environ)
    script = f"set -aeu; . {shlex.quote(str(run.resolved_env))}; exec env -0"
    done = subprocess.run(["bash", "-c", script], capture_output=True, env={}, check=True)
    seen = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    assert {name: seen[name] for name in values} == values


def test_again_changes_one_service(run: RunDir) -> None:
    before = resolve(run, os.environ)
    after = resolve(run, os.environ, "nats")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"TRTDIST_NATS_PORT", "NATS_SERVER", "TRTDIST_STAMP"}
    assert not set(service_ports("nats", before)) & set(service_ports("nats", after))


def test_claims_are_kept_for_the_servers(run: RunDir) -> None:
    claims = PortClaims()
    values = resolve(run, os.environ, claims=claims)
    other = PortClaims()
    with pytest.raises(TrtdistError):
        other.claim("127.0.0.1", 1, service_ports("etcd", values))
    again = resolve(run, os.environ, "etcd", claims)
    assert sorted(other.claim("127.0.0.1", 2, service_ports("etcd", values))) == sorted(service_ports("etcd", values))
    assert service_ports("etcd", again) != service_ports("etcd", values)
    claims.close()
    other.close()


def test_ports_lie_in_the_given_range(run: RunDir) -> None:
    write_env(run.given_env, {"TRTDIST_PORT_RANGE": "21000-21199", "TRTDIST_HTTP_HOST": "127.0.0.1"})
    ports: set[int] = set()
    for again in ("", "nats", "etcd"):
        values = resolve(run, os.environ, again)
        ports |= {*service_ports("nats", values), *service_ports("etcd", values), int(values["TRTDIST_HTTP_PORT"])}
    assert len(ports) >= 6 and ports <= set(range(21000, 21200))
    write_env(run.given_env, {"TRTDIST_PORT_RANGE": "21000-21000"})
    with pytest.raises(TrtdistError, match="among 1: end what uses them, or widen network"):
        resolve(run, os.environ)


def test_external_services_have_no_ports(run: RunDir) -> None:
    run.given_env.write_text("NATS_SERVER=nats://broker:4222\n")
    values = resolve(run, os.environ)
    assert values["NATS_SERVER"] == "nats://broker:4222"
    missing = {"TRTDIST_NATS_PORT", "TRTDIST_NATS_BINARY"}
    assert EVERYTHING - set(values) == missing
    with pytest.raises(InputError, match="nats is external"):
        resolve(run, os.environ, "nats")


def test_http_front_end_gets_a_port_of_its_own_or_the_one_that_was_asked_for(run: RunDir) -> None:
    run.given_env.write_text("TRTDIST_HTTP_HOST=0.0.0.0\n")
    values = resolve(run, os.environ)
    assert values["TRTDIST_HTTP_URL"] == f"http://127.0.0.1:{values['TRTDIST_HTTP_PORT']}"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        run.given_env.write_text(f"TRTDIST_HTTP_HOST=127.0.0.1\nTRTDIST_HTTP_PORT={port}\n")
        with pytest.raises(TrtdistError, match=f"port {port} of 127.0.0.1 is in other hands"):
            resolve(run, os.environ)
    assert resolve(run, os.environ)["TRTDIST_HTTP_PORT"] == str(port)


def test_a_given_program_is_used(run: RunDir, tmp_path: Path) -> None:
    program = tmp_path / "my etcd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    run.given_env.write_text(f"TRTDIST_ETCD_BINARY={shlex.quote(str(program))}\n")
    assert resolve(run, os.environ)["TRTDIST_ETCD_BINARY"] == str(program)


def test_the_program_says_what_is_wrong(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.path), "--again", "nats"]) == 1
    assert capsys.readouterr().err == (
        f"trtdist: {run.resolved_env} cannot be read: No such file or directory; bring the run up again\n"
    )
    run.given_env.write_text("TRTDIST_NATS_BINARY=/nonexistent/nats\n")
    assert main([str(run.path)]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    run.given_env.write_text("'\n")
    assert main([str(run.path)]) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_local_folder_of_somebody_else_is_refused(run: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "tmp" / "trtdist-0"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(TrtdistError, match="belongs to somebody else"):
        resolve(run, os.environ)


def test_a_link_in_the_place_of_the_local_folder_is_refused(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tmp" / f"trtdist-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrtdistError, match="belongs to somebody else"):
        resolve(run, os.environ)


def test_it_runs_as_a_program(run: RunDir) -> None:
    subprocess.run([sys.executable, "-m", "trtdist.supervisor.resolve", str(run.path)], cwd=ROOT, check=True)
    assert set(read_env(run.resolved_env)) == EVERYTHING
