"""The run directory: the one owner of its file names. Standard library, Python 3.9."""

from __future__ import annotations

import binascii
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LATEST", "RunDir", "runs_root", "write_atomic"]

LATEST = "latest"
"""The link in the folder of runs that leads to the newest."""


def runs_root(environ: Mapping[str, str]) -> Path:
    """Where runs are kept: `$TRTDIST_RUNS`, else `~/.local/share/trtdist/runs`."""
    given = environ.get("TRTDIST_RUNS")
    return Path(given) if given else Path.home() / ".local" / "share" / "trtdist" / "runs"


def write_atomic(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader sees all of it or the file of before."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunDir:
    """The names of everything that a run keeps; nothing here touches the disk."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.path.name

    @property
    def local(self) -> Path:
        """The folder of the run on the disk of the node itself: etcd's data, sockets, MPI session files.

        Runs of one name in different folders, such as `out`, do not share it.
        """
        own = f"{self.run_id}-{binascii.crc32(os.fsencode(self.path)):08x}"
        return Path(tempfile.gettempdir()) / f"trtdist-{os.getuid()}" / own

    @property
    def topology(self) -> Path:
        """The topology as resolved, secrets redacted."""
        return self.path / "topology.yaml"

    @property
    def plan(self) -> Path:
        """The plan, as `trtdist.plan` writes it."""
        return self.path / "plan.json"

    @property
    def scripts(self) -> Path:
        """The rendered step files, which are what runs."""
        return self.path / "scripts"

    @property
    def resolved_env(self) -> Path:
        """Hosts, addresses and ports found in the allocation, as shell assignments."""
        return self.path / "resolved.env"

    @property
    def given_env(self) -> Path:
        """What the topology says about programs and external services, as shell assignments."""
        return self.path / "given.env"

    @property
    def logs(self) -> Path:
        """One log per rank and per program."""
        return self.path / "logs"

    @property
    def events(self) -> Path:
        """One append-only file of events per writer."""
        return self.path / "events"

    @property
    def site(self) -> Path:
        """The Python that the programs of the run import."""
        return self.path / "site"

    @property
    def stacks(self) -> Path:
        """What the programs of a run that does not come up were seen to do, and the question for it."""
        return self.path / "stacks"

    @property
    def control(self) -> Path:
        """Requests to the supervisor, one file each."""
        return self.path / "control"

    def patience(self, step: str) -> Path:
        """How many seconds a step that is told to end may take to finish its work."""
        return self.control / f"{step}.patience"

    @property
    def secrets(self) -> Path:
        """Credentials of the run, mode 0700."""
        return self.path / "secrets"

    @property
    def verdict(self) -> Path:
        """How the run ended and why; created once."""
        return self.path / "verdict.json"

    @property
    def given_up(self) -> Path:
        """How the run ends, told by who is about to kill a supervisor that hangs."""
        return self.path / "given-up.json"

    def earlier_verdict(self, attempt: int) -> Path:
        """How an attempt ended after which Slurm has queued the job again, counted from 1."""
        return self.path / f"verdict.{attempt}.json"

    @property
    def slurm_job(self) -> Path:
        """The id of the run's own job, written when it is submitted."""
        return self.path / "slurm.job"

    @property
    def borrowed_job(self) -> Path:
        """The id of a job that was there before the run and outlives it."""
        return self.path / "slurm.borrowed"

    @property
    def submission(self) -> Path:
        """How the run's own job was submitted, so that another one can be like it."""
        return self.path / "submission.json"

    @property
    def next_run(self) -> Path:
        """The id of the run, beside this one, that is to take over before this one's job reaches its time limit."""
        return self.path / "run.next"

    @property
    def called_off(self) -> Path:
        """The id of the run that was to take over from this one, and shall not any more."""
        return self.path / "run.called-off"

    @property
    def previous_run(self) -> Path:
        """The id of the run that this one is to take over from."""
        return self.path / "run.previous"

    @property
    def handed_over(self) -> Path:
        """The id of the run that has taken over, created once."""
        return self.path / "run.heir"

    def log(self, name: str) -> Path:
        """The log of `gen.0.1` (server and rank), `nats`, `router`, ..."""
        return self.logs / f"{name}.log"

    def event_file(self, writer: str) -> Path:
        """The events of one writer."""
        return self.events / f"{writer}.jsonl"
