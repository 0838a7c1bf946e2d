"""What can go wrong with the mini cluster on request: nodes, networks, clocks, the controller, files that come late."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mini.machine import (
    BRIDGE,
    STATE,
    SUBMIT,
    SUBNET,
    MiniclusterError,
    Record,
    idle,
    in_mounts_of,
    node_names,
    node_of,
    run,
    saved_shape,
    slurm,
    start,
    wait_until,
)
from mini.nodes import CLOCK, start_controller, start_node

# As much room as there is taken; a size of 0 would be no limit.
FULL = 'used=$(df --block-size=1 --output=used /tmp | tail -n 1); mount -o "remount,size=$((used ? used : 4096))" /tmp'
REASON = "bad fan"
LATE_FILES = Path(__file__).with_name("late_files.py")


def fail(options: argparse.Namespace) -> None:
    """Fail a node at once, as if its power went off, or its network, its disk (/tmp) or slurmd alone; or take it away
    in Slurm."""
    name = node_of(options.node)
    if options.slurmd:
        (STATE / "headless" / name).touch()
        init = ["nsenter", "--target", str(Record().inside(name)), "--mount", "--pid"]
        run([*init, "bash", "-c", f"kill -KILL $(<{STATE}/node/slurmd.pid)"])
    elif options.network:
        run(["ip", "-n", f"{BRIDGE}-{name}", "link", "set", "eth0", "down"])
    elif options.disk:
        in_mounts_of(Record(), name, ["bash", "-ec", FULL])
    elif options.down or options.drain:
        state = "down" if options.down else "drain"
        slurm("scontrol", "update", f"NodeName={name}", f"State={state}", f"Reason={REASON}")
    else:
        Record().kill(name, signal.SIGKILL)


def recover(options: argparse.Namespace) -> None:
    """Bring a failed node back."""
    name = node_of(options.node)
    record = Record()
    run(["ip", "-n", f"{BRIDGE}-{name}", "link", "set", "eth0", "up"])
    routes = run(["ip", "-n", f"{BRIDGE}-{name}", "route"])
    if "default" not in routes:
        run(["ip", "-n", f"{BRIDGE}-{name}", "route", "add", "default", "via", f"{SUBNET}.1"])
    if (STATE / "headless" / name).exists():
        record.kill(name, signal.SIGKILL)
        (STATE / "headless" / name).unlink()
    if record.alive(name):
        in_mounts_of(record, name, ["mount", "-o", "remount,size=50%", "/tmp"])
    else:
        start_node(record, name)
        wait_until((STATE / "up" / name).exists, 10, f"{name} does not start; see {STATE}/log/{name}.out")
        for kept in sorted(STATE.glob("late/*")):
            in_mounts_of(record, name, ["mount", "--bind", str(kept / name), (kept / "path").read_text()])
    # Slurm refuses it where the node was not taken away.
    slurm("scontrol", "update", f"NodeName={name}", "State=resume")
    wait_until(lambda: idle([name]), 60, f"{name} does not become idle; see {STATE}/log/{name}.log")


def clock(options: argparse.Namespace) -> None:
    """Set a node's clock some seconds ahead of this machine's, or behind (negative), or right (0), for new tasks.

    Its slurmd keeps the right time: it starts nothing when its clock is wrong by more than two minutes.
    """
    name = node_of(options.node)
    path, library = STATE / "clock" / name, STATE / "clock.so"
    if options.seconds == 0:
        path.unlink(missing_ok=True)
    else:
        library.with_suffix(".c").write_text(CLOCK)
        run(["cc", "-shared", "-fPIC", "-fno-builtin", "-o", str(library), str(library.with_suffix(".c"))])
        path.write_text(f"LD_PRELOAD={library}\nMINICLUSTER_CLOCK={options.seconds}\n")


def controller(options: argparse.Namespace) -> None:
    """Stop or start slurmctld, to see what a run does meanwhile."""
    saved_shape()
    record = Record()
    if options.action == "stop":
        record.kill("controller", signal.SIGTERM)
    elif not record.alive("controller"):
        start_controller(record)


def late(options: argparse.Namespace) -> None:
    """Let each node, the submit host and this machine see late what the others write below a folder."""
    hosts, record, folder = [SUBMIT, *node_names(saved_shape())], Record(), options.folder.resolve()
    name = "late" + str(folder).replace("/", "-")
    kept = STATE / "late" / name
    if options.end:
        end_late(record, kept, hosts)
        return
    if not folder.is_dir() or kept.exists():
        raise MiniclusterError(f"{folder} is no folder, or files are late there already")
    kept.mkdir(parents=True)
    (kept / "path").write_text(str(folder))
    for host in hosts:
        (kept / host).mkdir()
        os.chown(kept / host, folder.stat().st_uid, folder.stat().st_gid)
        shutil.copymode(folder, kept / host)
        in_mounts_of(record, host, ["mount", "--bind", str(kept / host), str(folder)])
    copies = [str(folder), *(str(kept / host) for host in hosts)]
    record.add(name, start([sys.executable, str(LATE_FILES), str(options.seconds), *copies], STATE / f"log/{name}.log"))


def end_late(record: Record, kept: Path, hosts: Sequence[str]) -> None:
    """Undo it: everybody sees what this machine sees."""
    if not kept.exists():
        raise MiniclusterError("no files are late there")
    record.end(kept.name)
    for host in hosts:
        if record.alive(host):
            in_mounts_of(record, host, ["umount", "--lazy", (kept / "path").read_text()])
    shutil.rmtree(kept)
