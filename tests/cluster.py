"""One mini cluster for all tests that need Slurm, whichever worker or checkout they run in, and a user to run them as.

Locks are files that the kernel gives back when their holder dies: `gate` is held to start or end the cluster, `users`
by everybody who uses it, `faults` alone by a test that breaks it and shared by all others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]
MINICLUSTER = ROOT / "scripts" / "minicluster"
STATE = Path("/run/trtdist-minicluster")
MARK = STATE / "started-by-tests"
LOCKS = Path("/run/lock")
USER = "trtdist-test"
NODES, GPUS = 4, 8
PYTHON = sys.executable
# A step beside others, all of whose tasks end with the first that fails.
SRUN = ("srun", "--overlap", "--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=1", "--export=ALL", "--input=none")


@dataclass(frozen=True)
class Cluster:
    """The mini cluster as a normal user of its submit host sees it; `folder` is shared by all nodes."""

    folder: Path

    def argv(self, *command: str, host: str = "submit") -> list[str]:
        """What runs a command as the user, on the submit host or a node."""
        return [sys.executable, str(MINICLUSTER), "exec", "--user", USER, host, *command]

    def run(self, *command: str, host: str = "submit", timeout: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run a command as the user in the shared folder, to its end."""
        return subprocess.run(
            self.argv(*command, host=host),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def output(self, *command: str, host: str = "submit", timeout: float = 180.0) -> str:
        """What a command that succeeds prints."""
        done = self.run(*command, host=host, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def admin(self, *arguments: str) -> str:
        """Run `minicluster`, as root."""
        argv = [sys.executable, str(MINICLUSTER), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def settings(self, **values: int) -> Iterator[None]:
        """Other settings of Slurm's while in `with`."""
        config = STATE / "slurm.conf"
        before = after = config.read_text()
        for name, value in values.items():
            after = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", after)
        try:
            config.write_text(after)
            self.admin("exec", "submit", "scontrol", "reconfigure")
            yield
        finally:
            config.write_text(before)
            self.admin("exec", "submit", "scontrol", "reconfigure")

    def mend(self) -> None:
        """Bring back what a test has broken."""
        self.admin("controller", "start")
        for wrong in (STATE / "clock").glob("*"):
            self.admin("clock", wrong.name, "0")
        for number in range(1, NODES + 1):
            state = self.run("sinfo", "--noheader", "--nodes", f"node{number}", "--format=%t").stdout.split()
            if not set(state) & {"idle", "mix", "alloc"}:
                self.admin("recover", f"node{number}")

    def own(self, path: Path) -> None:
        """Give a file or folder, with all in it, to the user."""
        for each in (path, *path.rglob("*")):
            shutil.chown(each, USER, USER)


def why_not() -> str:
    """Why no mini cluster can be had here; "" if it can."""
    if os.geteuid() != 0:
        return "the mini cluster needs root"
    missing = [program for program in ("slurmctld", "slurmd", "srun", "munged") if shutil.which(program) is None]
    return f"{', '.join(missing)} not found: `scripts/minicluster install` installs them" if missing else ""


def cluster_or_skip() -> None:
    """Skip where no cluster can be had; in CI that is a failure."""
    reason = why_not()
    if reason:
        give_up(reason)


def give_up(reason: str) -> NoReturn:
    """Skip a test for which something is missing here; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def locked(name: str, how: int) -> Iterator[int]:
    """Hold a lock; BlockingIOError when `how` says not to wait and somebody else has it."""
    descriptor = os.open(LOCKS / f"trtdist-minicluster.{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """The cluster is up; whoever leaves last takes it down."""
    with contextlib.ExitStack() as stack:
        with locked("gate", fcntl.LOCK_EX):
            if nobody_uses_it():
                end_leftover()
                start()
            stack.enter_context(locked("users", fcntl.LOCK_SH))
        try:
            yield
        finally:
            with locked("gate", fcntl.LOCK_EX):
                stack.close()
                if nobody_uses_it():
                    end()


def nobody_uses_it() -> bool:
    """Whether no test session uses the cluster."""
    try:
        with locked("users", fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False


def end_leftover() -> None:
    """Take down what a killed test session left; a cluster that somebody started by hand is theirs."""
    if MARK.exists():
        end()
    if STATE.exists():
        pytest.fail("a mini cluster that no test started is up: take it down with `scripts/minicluster down`")


def start() -> None:
    """Start the cluster and make the user."""
    exposed = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, ROOT)}
    argv = [sys.executable, str(MINICLUSTER), "up", f"--nodes={NODES}", f"--gpus-per-node={GPUS}", "--kill-wait=5"]
    before = json.dumps(machine())
    argv += ["--cut-off-submit-host", *(f"--expose={path}" for path in sorted(exposed))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.fail(done.stderr)
    MARK.write_text(before)
    if not user_exists():
        subprocess.run(["useradd", "--create-home", USER], capture_output=True, check=True)


def end() -> None:
    """Take the cluster down and remove the user with all that is theirs; the machine must be as it was before."""
    before = json.loads(MARK.read_text())
    subprocess.run([sys.executable, str(MINICLUSTER), "down"], capture_output=True, timeout=300, check=True)
    if user_exists():
        subprocess.run(["userdel", "--remove", USER], capture_output=True, timeout=60, check=True)
    after = machine()
    changed = {what: (before[what], after[what]) for what in after if after[what] != before[what]}
    assert not changed, f"the mini cluster left traces (before, after): {changed}"


def machine() -> dict[str, list[str]]:
    """What of this machine a cluster could change or leave behind."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "links": sorted(os.listdir("/sys/class/net")),
        "mounts": sorted(line.split()[4] for line in mounts),
        "run": sorted(name for name in os.listdir("/run") if name in ("netns", STATE.name)),
        "hosts": Path("/etc/hosts").read_text().splitlines(),
        "programs": sorted(name for name in map(_program, os.listdir("/proc")) if name.startswith(("slurm", "munge"))),
        "name": [os.uname().nodename],
    }


def _program(pid: str) -> str:
    """The program of a process; "" for what is none, or has ended and waits to be reaped."""
    try:
        command = Path("/proc", pid, "cmdline").read_bytes().split(b"\0") if pid.isdigit() else [b""]
    except OSError:
        return ""
    return os.path.basename(os.fsdecode(command[0]))


def user_exists() -> bool:
    """Whether the user is there, from this or an earlier session."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder of the user's that all nodes see, as they do not see /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir=Path("~" + USER).expanduser()))
    shutil.chown(folder, USER, USER)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
