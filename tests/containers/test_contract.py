"""What a run counts on, whichever runtime its containers are of: asked of the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.containers.places import Place
from trtdist.supervisor import shim

NASTY = 'it\'s "$HOME" `id`\nsecond line\t\\ é = ,'
NAMED = {
    "TRTDIST_NASTY": NASTY,
    "TRTDIST_EMPTY": "",
    "SLURM_PROCID": "3",
    "PMIX_RANK": "3",
    "PMI_FD": "7",
    "OMPI_COMM_WORLD_RANK": "3",
    "CUDA_VISIBLE_DEVICES": "2,3",
}
OF_SITE = {"UCX_TLS": "tcp", "OMPI_MCA_btl": "tcp", "LD_LIBRARY_PATH": "/site", "HF_HOME": "/site", "LANG": "xx_XX"}
BIN = ("bin", "sbin")
# What programs of their own accord set inside: bash, the runtime.
OF_SHELLS = {
    "PWD",
    "SHLVL",
    "_",
    "PATH",
    "HOME",
    "HOSTNAME",
    "TERM",
    "container",
    "CH_RUNNING",
    "USER",
    "LOGNAME",
    "SHELL",
}


def variables(text: str) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


def wait_for(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def living(mark: str) -> list[int]:
    """The processes of this machine that have a word on their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found += [int(name)] if mark.encode() in words else []
    return found


def test_exactly_the_named_variables_are_there(place: Place) -> None:
    seen = variables(place.output("env", "-0", **NAMED, **OF_SITE))
    assert {name: seen.get(name) for name in NAMED} == NAMED
    assert not set(OF_SITE) & set(seen)
    others = {name for name in seen if not name.startswith("TRTDIST_")} - set(NAMED) - OF_SHELLS
    # Of the job that a test itself may run in.
    assert {name for name in others if not name.startswith(("SLURM", "APPTAINER", "SINGULARITY", "ENROOT"))} == set()
    assert set(seen["PATH"].split(":")) <= {f"{above}/{name}" for above in ("", "/usr", "/usr/local") for name in BIN}
    assert seen["HOME"] == str(place.local / "home")


def test_folders_are_mounted_with_their_modes(place: Place) -> None:
    free, kept = place.make(place.folder / "free, two"), place.make(place.folder / "kept")
    options = (f"--mount={free}:/mnt/free", f"--mount={kept}:/mnt/kept:ro")
    script = (
        "echo 1 >/mnt/free/a && echo 2 >$TRTDIST_RUN_DIR/b && echo 3 >$TRTDIST_LOCAL_DIR/c || exit 9\n"
        "for where in /mnt/kept $TRTDIST_RUN_DIR/site /usr; do echo 4 >$where/d && exit 8; done\n"
        "exit 0"
    )
    done = place.enter("bash", "-c", script, options=options)
    assert done.returncode == 0, done.stderr
    assert (free / "a").read_text() == "1\n"
    assert (place.run / "b").read_text() == "2\n"
    assert (place.local / "c").read_text() == "3\n"
    assert (free / "a").stat().st_uid == place.folder.stat().st_uid
    assert not list(kept.iterdir()) and not list((place.run / "site").iterdir())


def test_a_mount_may_go_where_the_image_has_something_else(place: Place) -> None:
    """As the folders of PMIx do, which have another name for every step: what is there stays."""
    free = place.make(place.folder / "free")
    place.make(free / "a", "seen\n")
    there = place.output("ls", "/usr/share").splitlines()
    read = "cat /usr/share/of-a-site/step.1/a && ls /usr/share && cat /usr/share/base-files/dot.profile"
    options = (f"--mount={free}:/usr/share/of-a-site/step.1",)
    first, *said = place.output("bash", "-c", read, options=options).splitlines()
    assert first == "seen" and len(there) > 3
    assert sorted(said[: len(there) + 1]) == sorted(["of-a-site", *there])
    assert said[len(there) + 1 :] != []


def test_a_file_is_mounted_and_home_only_if_asked_for(place: Place) -> None:
    token = place.make(place.folder / "token", "secret\n")
    home = place.make(place.folder / "home")
    place.make(home / "mine", "here\n")
    read = "cat /mnt/token; [[ -e $1/mine ]] && cat $1/mine; echo $HOME"
    options = (f"--mount={token}:/mnt/token:ro",)
    program = ("bash", "-c", read, "bash", str(home))
    assert place.output(*program, options=options, HOME=str(home)) == f"secret\n{place.local}/home\n"
    assert place.output(*program, options=(*options, "--home"), HOME=str(home)) == f"secret\nhere\n{home}\n"


def test_process_ids_are_those_of_the_node_and_the_user_is_the_same(place: Place) -> None:
    """Liveness is judged from outside by them, and PMIx trusts nobody with another user id."""
    place.make(place.run / "seen", "")
    inside = 'echo $UID $$ >"$TRTDIST_RUN_DIR/seen"; until [[ -e $TRTDIST_RUN_DIR/enough ]]; do sleep 0.1; done'
    process = subprocess.Popen(place.argv("bash", "-c", inside), stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: (place.run / "seen").read_text(), "the program")
        uid, pid = (place.run / "seen").read_text().split()
        assert int(uid) == place.folder.stat().st_uid
        assert str(place.run) in place.outside("cat", f"/proc/{pid}/environ")
    finally:
        place.make(place.run / "enough", "")
        process.wait(60)


def test_the_exit_code_and_signals_pass(place: Place) -> None:
    assert place.enter("bash", "-c", "exit 37").returncode == 37
    said = place.run / "said"
    script = f'trap "echo TERM >>{said}; exit 5" TERM; echo up >{said}; while :; do sleep 0.1; done'
    process = subprocess.Popen(place.argv("bash", "-c", script), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: said.exists() and said.read_text(), "the program")
        place.signal_caller(signal.SIGTERM)
        assert process.wait(60) in (5, 128 + signal.SIGTERM, -signal.SIGTERM)
        assert said.read_text() == "up\nTERM\n"
    finally:
        process.kill()
        process.communicate()


def test_nothing_outlives_the_program_that_entered(place: Place) -> None:
    """Killed, it can clean nothing up: a container that its program does not take along ends by itself."""
    for folder in ("logs", "events"):
        place.make(place.run / folder)
    mark = f"31{os.getpid()}.5"
    program = place.make(place.run / "shim.py", Path(shim.__file__).read_text())
    words = ["python3", "-I", "-S", str(program), "--run-dir", str(place.run), "--step", "s", "--name", "n"]
    process = subprocess.Popen(place.argv(*words, "--", "sleep", mark), stdin=subprocess.DEVNULL)
    try:
        events = place.run / "events" / "task.n.jsonl"
        wait_for(lambda: events.exists() and "task_started" in events.read_text(), "the program")
        place.signal_caller(signal.SIGKILL)
        wait_for(lambda: not living(mark), "the end of the program")
    finally:
        for pid in living(mark):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def test_limits(place: Place) -> None:
    assert place.output("bash", "-c", "ulimit -n", options=("--ulimit=nofile=123",)) == "123\n"


def test_all_that_is_missing_is_named_at_once(place: Place) -> None:
    options = ("--mount=/nowhere/a:/a", "--mount=/nowhere/b:/b:ro")
    done = place.enter("true", options=options)
    assert done.returncode == 4
    node = "node1" if place.cluster is not None else os.uname().nodename
    assert f"node {node} has no /nowhere/a to mount" in done.stderr
    assert "; it has no /nowhere/b to mount" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("image", "words"), [("/nowhere/image", "there is no image"), ("/etc", "finds no bash")])
def test_an_image_that_cannot_be_used_is_named(place: Place, image: str, words: str) -> None:
    place.image = Path(image)
    done = place.enter("true")
    assert done.returncode == 4
    assert words in done.stderr and image in done.stderr and done.stderr.count("\n") == 1


def test_an_image_that_may_not_be_read_is_named(place: Place) -> None:
    """Root may read everything, and then it is told to be cut off."""
    place.image = place.make(place.folder / "closed.sqsh", "hsqs")
    place.image.chmod(0)
    done = place.enter("true")
    assert done.returncode == 4
    assert str(place.image) in done.stderr and done.stderr.count("\n") == 1
    assert ("cannot be read" if place.cluster is not None else "cut off") in done.stderr
