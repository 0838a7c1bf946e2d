"""A disk that is full: said in a sentence, by whoever meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.end_to_end.workplace import QUICKSTART, TRTDIST, Workplace

MOUNTED = 'mount -t tmpfs -o "size=$2k" none "${!1}" && shift 2 && exec "$@"'
OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")
LIMITED = 'ulimit -f "$2" && shift 2 && exec "$@"'


def own_mounts_are_allowed() -> bool:
    return subprocess.run([*OWN_MOUNTS, "true"], capture_output=True, check=False).returncode == 0


def on_a_small_disk(
    place: Workplace, kilobytes: int, *arguments: object, folder: str = "TRTDIST_RUNS"
) -> subprocess.CompletedProcess[str]:
    """Run a command for which the folder that a variable names has little room: a disk of its own where namespaces
    are allowed, else a limit."""
    way = [*OWN_MOUNTS, "bash", "-c", MOUNTED] if own_mounts_are_allowed() else ["bash", "-c", LIMITED]
    return subprocess.run(
        [*way, "bash", folder, str(kilobytes), TRTDIST, *map(str, arguments)],
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


def test_the_disk_of_the_node_runs_full(place: Workplace) -> None:
    """What died of it may not say so, as what gets SIGBUS does not; and its room is free again once the run left."""
    filler = place.folder / "fill-the-disk"
    filler.write_text('#!/bin/bash\ncat /dev/zero >"$TRTDIST_LOCAL_DIR/zero"\nexit 3\n')
    filler.chmod(0o755)
    settings = ("--set", f"services.nats.binary={filler}")
    done = on_a_small_disk(place, 1024, "up", QUICKSTART, "--local", *settings, folder="TMPDIR")
    assert done.returncode == 1, done.stderr
    assert "nats ended with exit code 3" in done.stderr
    assert f"; the disk of {place.folder}/tmp/trtdist-" in done.stderr or not own_mounts_are_allowed()
    place.nothing_left()
