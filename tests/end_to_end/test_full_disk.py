"""A disk that is full: said in a sentence, by whoever meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.end_to_end.workplace import QUICKSTART, TRTDIST, Workplace

MOUNTED = 'mount -t tmpfs -o "size=$1k" none "$TRTDIST_RUNS" && shift && exec "$@"'
LIMITED = 'ulimit -f "$1" && shift && exec "$@"'


def on_a_small_disk(place: Workplace, kilobytes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command whose runs folder has little room: a disk of its own where namespaces are allowed, else a limit."""
    own_mounts = ["unshare", "--map-root-user", "--mount"]
    allowed = subprocess.run([*own_mounts, "true"], capture_output=True, check=False).returncode == 0
    way = [*own_mounts, "bash", "-c", MOUNTED] if allowed else ["bash", "-c", LIMITED]
    return subprocess.run(
        [*way, "bash", str(kilobytes), TRTDIST, *map(str, arguments)],
        env=place.environ, cwd=place.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_no_room_for_the_run_directory(place: Workplace) -> None:
    done = on_a_small_disk(place, 8, "up", QUICKSTART, "--local")
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.count("\n") == 1
    assert "no space is left for a run under" in done.stderr or "File too large" in done.stderr
    assert list((place.folder / "runs").iterdir()) == []


def test_the_disk_runs_full_while_it_comes_up(place: Workplace) -> None:
    filler = place.folder / "fill-the-disk"
    server = Path(sys.executable).with_name("nats-server")
    filler.write_text(f'#!/bin/bash\ncat /dev/zero >"$TRTDIST_RUN_DIR/logs/zero.log"\nexec {server} "$@"\n')
    filler.chmod(0o755)
    done = on_a_small_disk(place, 4096, "up", QUICKSTART, "--local", "--set", f"services.nats.binary={filler}")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot write to the run directory" in done.stderr or "disk" in done.stderr
    place.nothing_left()
