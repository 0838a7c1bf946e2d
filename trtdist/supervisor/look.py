"""Writes down what the program of a task does, when the supervisor asks: `stacks/NAME.txt`, and an event for it.

    look.py RUN_DIR STEP NAME PID

A shim starts it beside its program, the process PID and its group. It watches the group for a second, has the stacks of
Python written by those that can do that (SIGRTMIN + 9, see `trtdist.serving.program`), and reads /proc for the rest.

Runs as `python -I -S look.py` and imports nothing of ours. Standard library, Python 3.9.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

__all__ = ["main"]

_STACKS = signal.SIGRTMIN + 9
_WATCHED_S = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
# Below that nothing but a timer goes round; a program that works touches more memory or files than a loop that waits.
_SOME_CPU, _SOME_FAULTS, _SOME_BYTES = 0.02, 20, 1 << 14
_STACK_BYTES = 1 << 16

Sample = dict[str, int]


def main(argv: list[str]) -> int:
    """Look once; returns the exit code."""
    run, step, name, leader = Path(argv[0]), argv[1], argv[2], int(argv[3])
    log = run / "logs" / f"{name}.log"
    before, began = _group(leader), time.monotonic()
    time.sleep(_WATCHED_S)
    after, took = _group(leader), time.monotonic() - began
    spent = {key: sum(s[key] for s in after.values()) - sum(s[key] for s in before.values()) for key in _ZERO}
    cpu = spent["ticks"] / _TICKS / took
    working = cpu >= _SOME_CPU and (spent["faults"] >= _SOME_FAULTS or spent["bytes"] >= _SOME_BYTES)
    stopped = _stopped(leader)
    doing = "is stopped by a signal" if stopped else _in_words(leader, cpu, working)
    text = f"{name}, pid {leader}, {time.strftime('%Y-%m-%d %H:%M:%S')}: {doing}\n\n"
    text += "\n".join(_process(pid) for pid in sorted(after)) + _python_stacks(log, list(after))
    _write(run / "stacks" / f"{name}.txt", text)
    _tell(
        run, {"step": step, "name": name, "working": working, "doing": doing, "cpu": round(cpu, 3), "stopped": stopped}
    )
    return 0


def _stopped(pid: int) -> bool:
    """Whether a process does not run until it gets SIGCONT, or whoever traces it lets it; see proc(5), state."""
    stat = _read(f"/proc/{pid}/stat")
    return stat[stat.rfind(")") + 2 :][:1] in ("T", "t")


def _in_words(leader: int, cpu: float, working: bool) -> str:
    """Finishes the sentence "gen.0.1 ..."."""
    if working:
        return f"works, with {cpu:.2f} of a core"
    if cpu >= 0.5:
        return f"turns in a loop, with {cpu:.2f} of a core, and waits"
    where = _read(f"/proc/{leader}/wchan").strip()
    return f"waits, with {cpu:.2f} of a core" + (f" (in {where})" if where not in ("", "0") else "")


_ZERO = {"ticks": 0, "faults": 0, "bytes": 0}


def _group(leader: int) -> dict[int, Sample]:
    """What each process of the program's group has used so far."""
    found = {}
    for name in os.listdir("/proc"):
        stat = _read(f"/proc/{name}/stat") if name.isdigit() else ""
        fields = stat[stat.rfind(")") + 2 :].split()
        # proc(5): fields 5 (group), 10 to 13 (page faults), 14 to 17 (ticks), counted from 3 here. They are also those
        # of children that have ended, as are the bytes: a program may work by short ones.
        if len(fields) > 20 and fields[2] == str(leader):
            sample = {"ticks": sum(map(int, fields[11:15])), "faults": sum(map(int, fields[7:11]))}
            found[int(name)] = {**sample, "bytes": _bytes(name)}
    return found


def _bytes(pid: str) -> int:
    lines = [line.split(": ") for line in _read(f"/proc/{pid}/io").splitlines()]
    return sum(int(value) for name, value in lines if name in ("rchar", "wchar"))


def _process(pid: int) -> str:
    """One process: what it is, and where each of its threads is in the kernel."""
    command = _read(f"/proc/{pid}/cmdline").split("\0")[0] or "?"
    lines = [f"process {pid} ({os.path.basename(command)})"]
    try:
        threads = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    except OSError:
        return lines[0] + " has ended\n"
    for thread in threads:
        place = f"/proc/{pid}/task/{thread}"
        status = dict(line.split(":\t", 1) for line in _read(f"{place}/status").splitlines() if ":\t" in line)
        wchan = _read(f"{place}/wchan").strip()
        lines.append(f"  thread {thread} {status.get('Name', '?')}: {status.get('State', '?')} {wchan}".rstrip(" 0"))
        lines += [f"    {frame}" for frame in _read(f"{place}/stack").splitlines()]
    return "\n".join(lines) + "\n"


def _python_stacks(log: Path, pids: list[int]) -> str:
    """What the programs that can write their stacks wrote into the log when told to; "" when none can."""
    able = [pid for pid in pids if _catches(pid)]
    if not able:
        return ""
    try:
        offset = log.stat().st_size
        for pid in able:
            os.kill(pid, _STACKS)
        time.sleep(_WATCHED_S)
        with open(log, "rb") as file:
            file.seek(offset)
            return "\n" + file.read(_STACK_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _catches(pid: int) -> bool:
    """Whether a process handles the signal; it would end by it otherwise."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (_STACKS - 1) & 1)
    return False


def _tell(run: Path, fields: dict[str, object]) -> None:
    """Write the event, as `trtdist.events.EventWriter` does."""
    writer = f"look.{fields['name']}"
    now = time.time() - float(os.environ.get("TRTDIST_CLOCK_AHEAD", "0"))
    line = json.dumps({"time": now, "writer": writer, "type": "task_seen", **fields}) + "\n"
    descriptor = os.open(run / "events" / f"{writer}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


def _read(path: str) -> str:
    """A file of /proc, "" when it may not be read or is gone."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
