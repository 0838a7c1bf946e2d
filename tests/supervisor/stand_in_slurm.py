"""Programs in the place of Slurm's that do as a test says, for what a real controller does too rarely."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

__all__ = ["StandInSlurm"]


class StandInSlurm:
    """A folder of programs that comes first on PATH; each notes its words, and runs lines of shell."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        monkeypatch.delenv("SLURM_CONF", raising=False)
        for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"):
            self.does(name, "exit 0")

    def does(self, name: str, script: str) -> None:
        """From now on a program does this."""
        path = self._folder / name
        part = self._folder / f".{name}"
        part.write_text(f'#!/bin/sh\necho "$*" >>{self._folder}/{name}.calls\n{script}\n')
        part.chmod(part.stat().st_mode | stat.S_IXUSR)
        part.replace(path)

    def calls(self, name: str) -> list[str]:
        """The words with which a program was started, oldest first."""
        noted = self._folder / f"{name}.calls"
        return noted.read_text().splitlines() if noted.exists() else []
