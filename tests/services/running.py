"""A run directory with just enough in it for head services, started as a step starts them: through the shim."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trtdist
from trtdist.rundir import RunDir
from trtdist.services.authority import make_certificates
from trtdist.services.health import Health, probe
from trtdist.supervisor import shim
from trtdist.supervisor.resolve import resolve

ROOT = Path(trtdist.__file__).parents[1]


def wait_for(holds: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The first true value of a condition; fails when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return value


@dataclass
class Services:
    """The services of one run."""

    run: RunDir
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in (self.run.logs, self.run.events, self.run.secrets):
            folder.mkdir(parents=True)
        (self.run.secrets / "nats.user").write_text("someone")
        (self.run.secrets / "nats.password").write_text('pass"word\\$HOME')
        for name, text in make_certificates(time.time()).items():
            (self.run.secrets / name).write_text(text)
        self.env = resolve(self.run, os.environ)

    @property
    def local(self) -> Path:
        return Path(self.env["TRTDIST_LOCAL_DIR"])

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service; its shim is the process that is returned."""
        argv = [sys.executable, "-I", "-S", shim.__file__, "--run-dir", str(self.run.path), "--step", service]
        argv += ["--name", service, "--ignore-first-term", "--"]
        argv += [sys.executable, "-m", "trtdist.services", service, str(self.run.path)]
        process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def up(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service and wait until it is healthy."""
        process = self.start(service)
        wait_for(lambda: self.health(service).healthy or process.poll() is not None, f"{service}: {self.log(service)}")
        assert process.poll() is None, self.log(service)
        return process

    def health(self, service: str, **changes: str) -> Health:
        return asyncio.run(probe(service, {**self.env, **changes}))

    def log(self, service: str) -> str:
        path = self.run.log(service)
        return path.read_text(errors="replace") if path.exists() else ""

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
