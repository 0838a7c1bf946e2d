"""Places from which programs are started in containers, as a run starts them: by somebody, on some machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster import PYTHON, ROOT, USER, Cluster, locked
from tests.images import image_or_skip
from trtdist.containers import RUNTIMES, runtime

__all__ = ["Place", "available", "chosen", "image", "own_image", "podman_settings", "refuse_or_skip"]

CHOICE = "TRTDIST_TEST_RUNTIMES"
# What has to be there in CI, where nothing may be skipped.
USUAL = ("charliecloud", "podman")


def chosen() -> tuple[str, ...]:
    """The runtimes to test: those of $TRTDIST_TEST_RUNTIMES, else the usual ones and what else is installed."""
    named = os.environ.get(CHOICE, "")
    if named:
        return tuple(named.split(","))
    return tuple(name for name in RUNTIMES if name in USUAL or available(name))


def image() -> Path:
    """The image to test with: that of $TRTDIST_TEST_IMAGE, else the bare one."""
    named = os.environ.get("TRTDIST_TEST_IMAGE")
    return Path(named) if named else image_or_skip()


def available(name: str) -> bool:
    """Whether a runtime can be used here; docker also needs its daemon."""
    program = runtime(name).program
    if name == "pyxis":
        if shutil.which("srun") is None:
            return False
        shown = subprocess.run(["srun", "--help"], capture_output=True, text=True, check=False)
        return "--container-image" in shown.stdout
    if not program or shutil.which(program) is None:
        return False
    return name != "docker" or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def refuse_or_skip(name: str) -> None:
    """Skip where a runtime is not installed; in CI, and for one that was asked for, that is a failure."""
    if available(name):
        return
    reason = f"{runtime(name).program or name} not found: `scripts/container-tools` installs what Debian has"
    if os.environ.get("CI") == "true" or name in os.environ.get(CHOICE, "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Place:
    """A run's folders; `cluster` to be a normal user on its first node, None to be who runs the tests, here."""

    folder: Path
    runtime: str
    image: Path
    cluster: Cluster | None
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run, self.local = self.folder / "run", self.folder / "local"
        for path in (self.run / "site", self.run / "scripts", self.local):
            path.mkdir(parents=True)
        given = {"TRTDIST_RUN_DIR": str(self.run), "TRTDIST_LOCAL_DIR": str(self.local), "PYTHONPATH": str(ROOT)}
        self.environ = {**given, **(podman_settings() if self.runtime == "podman" else {}), **self.environ}
        if self.cluster is not None:
            self.cluster.own(self.folder)

    def argv(self, *program: str, options: tuple[str, ...] = (), **environ: str) -> list[str]:
        """The command line that runs a program inside."""
        variables = [f"{name}={value}" for name, value in {**self.environ, **environ}.items()]
        python = PYTHON if self.cluster is not None else sys.executable
        enter = [python, "-m", "trtdist.supervisor.enter", f"--runtime={self.runtime}", f"--image={self.image}"]
        # Not every machine has /dev/mqueue, without which podman does not share what ranks in other containers need.
        enter += ["--shm-size=64M"] if self.runtime == "podman" else []
        note = ["bash", "-c", 'echo $$ >"$0"; exec "$@"', str(self.folder / "caller")]
        words = ["env", *variables, *note, *enter, *options, "--", *program]
        return words if self.cluster is None else self.cluster.argv(*words, host="node1")

    def enter(self, *program: str, options: tuple[str, ...] = (), **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end."""
        return subprocess.run(
            self.argv(*program, options=options, **environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def output(self, *program: str, options: tuple[str, ...] = (), **environ: str) -> str:
        """What a program prints that ends well."""
        done = self.enter(*program, options=options, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def signal_caller(self, number: int) -> None:
        """Signal the process that entered the newest container, as Slurm signals a task. Nodes number their own."""
        words = ["kill", f"-{number}", (self.folder / "caller").read_text().strip()]
        done = self.cluster.run(*words, host="node1") if self.cluster is not None else subprocess.run(words, check=True)
        assert done.returncode == 0, done.stderr

    def outside(self, *command: str) -> str:
        """What a command prints on the same node, outside of any container."""
        if self.cluster is not None:
            return self.cluster.output(*command, host="node1")
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def make(self, path: Path, text: str | None = None) -> Path:
        """Make a folder, or a file, of the user's."""
        if text is None:
            path.mkdir()
        else:
            path.write_text(text)
        if self.cluster is not None:
            self.cluster.own(path)
        return path


def podman_settings() -> dict[str, str]:
    """Settings with which podman runs without systemd and with any kind of cgroups.

    Its folders are the same for all tests: those of one user on one machine share locks, whatever their folders.
    """
    home = Path(f"~{USER}").expanduser() / "podman"
    with locked("podman", fcntl.LOCK_EX):
        if not home.exists():
            for folder in (home, home / "data", home / "runtime"):
                folder.mkdir(mode=0o700)
            (home / "containers.conf").write_text('[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n')
            for path in (home, *home.iterdir()):
                shutil.chown(path, USER, USER)
    return {
        "CONTAINERS_CONF": str(home / "containers.conf"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_RUNTIME_DIR": str(home / "runtime"),
    }


def own_image() -> Path:
    """A copy of the bare image that belongs to the user, which podman needs; it goes with the user."""
    bare = image_or_skip()
    copy = Path(f"~{USER}").expanduser() / bare.name
    with locked("own-image", fcntl.LOCK_EX):
        if not copy.exists():
            part = copy.with_name(f"{bare.name}.part")
            subprocess.run(["cp", "--recursive", "--no-dereference", str(bare), str(part)], check=True)
            subprocess.run(["chown", "--recursive", "--no-dereference", f"{USER}:{USER}", str(part)], check=True)
            part.rename(copy)
    return copy
