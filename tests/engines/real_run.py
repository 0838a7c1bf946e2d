"""Real MPI runs of an engine, driven from a test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.engines.topologies import KEY
from trtdist.plan import Plan, to_json

__all__ = ["DEADLINE_S", "STANDIN", "RealRun", "mpiexec", "until"]

ROOT = Path(__file__).parents[2]
# In place of TensorRT-LLM, for plans that name it.
STANDIN = ROOT / "tests" / "standin"
DEADLINE_S = 180.0


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """Wait until a condition holds; gives its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


def mpiexec(
    size: int, words: list[str], local: Path, log: Path, ways: str, inside: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """A Python program as so many ranks, which write to the end of `log`; `ways` are those of MPI between them, and
    `inside` is what a launch line stands behind."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "PRTE_", "SLURM_"))}
    environ |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": ways, "TMPDIR": str(local)}
    environ |= {"OMPI_MCA_btl_sm_backing_directory": str(local), "PYTHONPATH": f"{ROOT}:{STANDIN}"}
    options = ["--oversubscribe", "--bind-to", "none", "--stdin", "none"]
    options += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    argv = [*inside, str(Path(sys.executable).parent / "mpiexec"), *options, "-n", str(size), sys.executable, *words]
    with log.open("ab") as written:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=written, stderr=written, env=environ)


class RealRun:
    """The launchers of a plan, as the step files start them: one for all servers, or one for each.

    `ways` are those that MPI takes between ranks.
    """

    def __init__(self, plan: Plan, ways: str = "self,sm") -> None:
        self.plan = plan
        self._ways = ways
        self.path = Path(tempfile.mkdtemp(prefix="trt-engine-"))
        (self.path / "secrets").mkdir(mode=0o700)
        (self.path / "secrets" / "kv.key").write_text(KEY)
        (self.path / "plan.json").write_text(to_json(plan))
        self.launchers: dict[str, subprocess.Popen[bytes]] = {}
        self._calls: dict[str, Any] = {}

    def __enter__(self) -> RealRun:
        if self.plan.launch == "mpi_world":
            self.launch("", self.plan.world_size)
        else:
            for server in self.plan.servers:
                self.launch(server.name, server.size)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        left = self.processes()
        for launcher in self.launchers.values():
            launcher.terminate()
        _, alive = psutil.wait_procs(left, timeout=10)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for launcher in self.launchers.values():
            launcher.wait()
        for file, _socket in self._calls.values():
            file.close()
            _socket.close()
        if error is not None:
            print(self.log())
        shutil.rmtree(self.path)

    def launch(self, server: str, size: int) -> None:
        """Start ranks: those of one server, or of all with server ""."""
        local = self.path / f"mpi.{server}"
        local.mkdir()
        program = Path(__file__).with_name("rank_program.py")
        words = [str(program), str(self.path), *([server] if server else [])]
        self.launchers[server] = mpiexec(size, words, local, self.path / "log", self._ways)

    def processes(self) -> list[psutil.Process]:
        """All processes of the run that are there."""
        found = []
        for launcher in self.launchers.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(launcher.pid)
                found += [process, *process.children(recursive=True)]
        return found

    def log(self) -> str:
        """What all ranks wrote."""
        return (self.path / "log").read_text(errors="replace")

    def pid(self, server: str, rank: int = 0) -> int:
        """The process of a rank."""
        name = f"{server}.{rank}.pid" if rank else f"{server}.port"
        path = self.path / name
        until(lambda: path.exists() or self._check(), f"{name} of a rank")
        return int(path.read_text().split()[-1])

    def begin(self, server: str, command: str, argument: Any = None) -> None:
        """Send a command to a leader."""
        if server not in self._calls:
            self.pid(server)
            port = int((self.path / f"{server}.port").read_text().split()[0])
            connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
            self._calls[server] = (connection.makefile("rw"), connection)
        file, _ = self._calls[server]
        file.write(json.dumps([command, argument]) + "\n")
        file.flush()

    def answer(self, server: str) -> Any:
        """What a leader answers to the oldest command."""
        return json.loads(self._calls[server][0].readline())

    def call(self, server: str, command: str, argument: Any = None) -> Any:
        """A command and its answer."""
        self.begin(server, command, argument)
        return self.answer(server)

    def stop(self) -> float:
        """Stop all servers; gives the seconds until all their processes have ended, each with exit code 0."""
        began = time.monotonic()
        for server in self.plan.servers:
            self.begin(server.name, "stop")
        for launcher in self.launchers.values():
            assert launcher.wait(DEADLINE_S) == 0, self.log()
        return time.monotonic() - began

    def _check(self) -> bool:
        assert all(launcher.poll() is None for launcher in self.launchers.values()), self.log()
        return False
