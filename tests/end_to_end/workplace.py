"""A place for real deployments through the real command line, in which whatever a run leaves behind is found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end.seen_run import SeenRun
from tests.supervisor.runs import wait_for

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
TRTDIST = str(Path(sys.executable).with_name("trtdist"))
UP_SECONDS = 180.0

TENSOR_PARALLEL = """\
name: e2e
model: reference/tiny
engine: reference
launch: {launch}
context_servers: {{num_instances: 1, tensor_parallel_size: 2}}
generation_servers: {{num_instances: 1, tensor_parallel_size: 2}}
"""


@dataclass
class Workplace:
    """Folders and environment of a few runs; `processes` finds whatever a run of it left behind.

    `inside` is what enters the namespaces in which commands run, `root` the root folder that is seen there.
    """

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    fronts: list[subprocess.Popen[str]] = field(default_factory=list)
    inside: tuple[str, ...] = ()
    root: str = ""

    def __post_init__(self) -> None:
        for name in ("runs", "tmp", "home"):
            (self.folder / name).mkdir()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("TRTDIST_", "OMPI_"))}
        self.environ = {
            **inherited,
            "TRTDIST_RUNS": str(self.folder / "runs"),
            "TMPDIR": str(self.folder / "tmp"),
            "HOME": str(self.folder / "home"),
        }

    def topology(self, text: str) -> Path:
        """A topology file with this text."""
        path = self.folder / "cluster.yaml"
        path.write_text(text)
        return path

    def trtdist(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, which must be with this exit code."""
        done = subprocess.run(
            [*self.inside, TRTDIST, *map(str, arguments)],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=2 * UP_SECONDS,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: object, **environ: str) -> subprocess.Popen[str]:
        """Start one command in a process group of its own, as a shell does."""
        front = subprocess.Popen(
            [*self.inside, TRTDIST, *map(str, arguments)],
            env={**self.environ, **environ},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.fronts.append(front)
        return front

    def up(self, topology: Path, *options: object) -> str:
        """Bring a deployment up in the background; what the command printed."""
        return self.trtdist("up", topology, "--local", "--detach", *options).stdout

    def up_in_front(self, topology: Path) -> subprocess.Popen[str]:
        """Bring a deployment up and stay with it."""
        front = self.start("up", topology, "--local")
        self.wait_for_state("READY", front)
        return front

    def wait_for_state(self, state: str, front: subprocess.Popen[str]) -> None:
        """Wait until the newest run is in a state; fails as soon as the command in front has ended."""

        def there() -> bool:
            if front.poll() is not None:
                raise AssertionError(f"ended with {front.returncode}: {front.communicate()[0]}")
            return bool(self.runs()) and self.told(f'"state": "{state}"')

        wait_for(there, UP_SECONDS, state)

    def status(self, run: str = "latest") -> dict[str, Any]:
        """What `status --json` says of a run."""
        found: dict[str, Any] = json.loads(self.trtdist("status", run, "--json").stdout)
        return found

    def runs(self) -> list[Path]:
        """The run directories, the newest last."""
        found = (
            path for path in Path(f"{self.root}{self.folder}/runs").iterdir() if path.is_dir() and not path.is_symlink()
        )
        return sorted(path for path in found if path.name[0] != ".")

    def newest(self) -> SeenRun:
        """What the newest run tells."""
        return SeenRun(self.runs()[-1])

    def told(self, text: str) -> bool:
        """Whether an event of the newest run has this text in it."""
        return self.newest().told(text)

    def log(self, name: str) -> str:
        """What a program of the newest run has printed, "" while there is nothing."""
        path = self.runs()[-1] / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def events(self, kind: type) -> list[Any]:
        """The events of a kind of the newest run."""
        return self.newest().events(kind)

    def verdict(self) -> dict[str, Any] | None:
        """The verdict of the newest run, None while there is none."""
        return self.newest().verdict()

    def processes(self) -> list[int]:
        """All processes whose environment names this workplace."""
        return processes_of(self.folder / "runs")

    def nothing_left(self) -> None:
        """Fail if a process, or a file outside the run directories, is left."""
        wait_for(lambda: not self.processes(), 60, f"the end of {[_command(pid) for pid in self.processes()]}")
        assert list(Path(f"{self.root}{self.folder}/tmp").rglob("*")) == []

    def clean(self) -> None:
        """End what a failed test left."""
        for front in self.fronts:
            front.kill()
            front.communicate()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder)


def processes_of(runs: Path) -> list[int]:
    """All processes whose environment names this folder of runs, on nodes of the mini cluster too."""
    mark = f"TRTDIST_RUNS={runs}".encode()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if mark in _environ(pid)]


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A workplace with a short path, since MPI keeps sockets below its TMPDIR; at its end nothing may be left."""
    place = Workplace(Path(tempfile.mkdtemp(prefix="e2e-", dir="/tmp")))
    try:
        yield place
        for run in place.runs():
            place.trtdist("down", run.name)
        place.nothing_left()
    finally:
        place.clean()


def _environ(pid: int) -> list[bytes]:
    """The environment of a process; empty for a zombie and for what is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"{pid} (gone)"
