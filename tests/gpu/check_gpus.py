"""What only a machine with GPUs can tell: which GPU each rank gets, and whether its memory shows where it should.

    python3 tests/gpu/check_gpus.py          needs NVIDIA GPUs and PyTorch; no TensorRT-LLM, no MPI, no network

The task scripts under scripts/ run as a launcher would run them, one process for each rank, with the real shim; in the
worker's place is a program that takes its GPU as the TensorRT-LLM engine does (`choose_device`), fills a GiB of it, and
says which GPU that was by its UUID. Meanwhile `status --gpus`' own question is asked. With two GPUs the second server
begins at an odd rank, where counting from 0 would give the wrong GPU. Prints a line for each check; exits with 1 when
one fails.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from trtdist.observe.gpus import SCRIPT, NodeGpus, against_plan, read_gpus  # noqa: E402
from trtdist.plan import Plan, from_json  # noqa: E402

GIB = 1 << 30
WAIT_S = 120.0
# In the place of trtdist/serving/worker.py.
WORKER = """\
import json, os, sys, time
from pathlib import Path
from trtdist.engines.base import EngineConfig
from trtdist.engines.tensorrt_llm.device import choose_device
from trtdist.plan import from_json
import torch

folder = Path(sys.argv[1])
plan = from_json((folder / "plan.json").read_text())
server, rank = os.environ["TRTDIST_SERVER"], int(os.environ["TRTDIST_RANK"])
device = choose_device(EngineConfig(plan, plan.server(server), rank, folder))
assert torch.cuda.current_device() == device
filled = torch.ones(1 << 30, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
found = {"uuid": f"GPU-{torch.cuda.get_device_properties(device).uuid}", "device": device,
         "visible": os.environ["CUDA_VISIBLE_DEVICES"], "planned": int(os.environ["TRTDIST_GPU"])}
part = folder / f"{server}.{rank}.part"
part.write_text(json.dumps(found))
part.rename(folder / f"{server}.{rank}.json")
while not (folder / "done").exists():
    time.sleep(0.1)
"""


class Checks:
    """What was found right and wrong."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, right: bool, what: str) -> None:
        """Say one thing."""
        self.failed += not right
        print(f"{'ok  ' if right else 'FAIL'}  {what}", flush=True)


def gpus() -> list[str]:
    """The UUIDs of the machine's GPUs, as nvidia-smi counts them."""
    question = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    return subprocess.run(question, check=True, capture_output=True, text=True).stdout.split()


def run_folder(folder: Path, case: str) -> Plan:
    """A run directory whose workers are the program above."""
    text = (HERE / "scripts" / f"{case}.plan.json").read_text()
    (folder / "plan.json").write_text(text)
    for name in ("scripts", "logs", "events", "local", "site/trtdist/serving"):
        (folder / name).mkdir(parents=True)
    (folder / "scripts" / "task.sh").write_text((HERE / "scripts" / f"{case}.task.sh").read_text())
    for path in (ROOT / "trtdist").iterdir():
        if path.name not in ("serving", "__pycache__"):
            (folder / "site" / "trtdist" / path.name).symlink_to(path)
    (folder / "site" / "trtdist" / "serving" / "__init__.py").write_text("")
    (folder / "site" / "trtdist" / "serving" / "worker.py").write_text(WORKER)
    values = {
        "TRTDIST_RUN_ID": "gpus",
        "TRTDIST_RUN_DIR": str(folder),
        "TRTDIST_LOCAL_DIR": str(folder / "local"),
        "TRTDIST_PYTHON": sys.executable,
        "TRTDIST_NODES": "here",
        "TRTDIST_ADDRESSES": "127.0.0.1",
    }
    (folder / "resolved.env").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
    return from_json(text)


def environment(devices: str | None, **more: str) -> dict[str, str]:
    """That of a task whose launcher shows it these devices, None for all."""
    names = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "TRTDIST_", "OMPI_"))}
    return {**names, **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}), **more}


def start(folder: Path, number: int, devices: str | None) -> subprocess.Popen[str]:
    """One task of the step."""
    return subprocess.Popen(
        ["bash", str(folder / "scripts" / "task.sh")],
        env=environment(devices, OMPI_COMM_WORLD_RANK=str(number)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(folder: Path, tasks: list[subprocess.Popen[str]], names: list[str]) -> dict[str, dict[str, Any]]:
    """What each rank says, once all have said it; {} when one of them has ended instead."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and all(task.poll() is None for task in tasks):
        if all((folder / f"{name}.json").exists() for name in names):
            return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
        time.sleep(0.1)
    return {}


def check_case(checks: Checks, case: str, devices: str | None, inherited: list[str]) -> None:
    """Run the ranks of a case with these devices to inherit, whose UUIDs are `inherited`."""
    shown = "CUDA_VISIBLE_DEVICES not set" if devices is None else f"CUDA_VISIBLE_DEVICES={devices}"
    with tempfile.TemporaryDirectory(prefix="trtdist-gpus-") as name:
        folder = Path(name)
        plan = run_folder(folder, case)
        ranks = [(f"{server.name}.{rank.rank}", rank) for server in plan.servers for rank in server.ranks]
        tasks = [start(folder, rank.world_rank, devices) for _, rank in ranks]
        try:
            said = wait_for(folder, tasks, [rank_name for rank_name, _ in ranks])
            checks.that(bool(said), f"{case}, {shown}: all {len(ranks)} ranks took a GPU")
            for rank_name, rank in ranks if said else []:
                found = said[rank_name]
                text = f"{case}, {shown}: {rank_name} is on GPU {rank.gpu} of the plan (device {found['device']} of"
                checks.that(found["uuid"] == inherited[rank.gpu], f"{text} {found['visible']}: {found['uuid']})")
            # Some of several GPUs by their UUIDs: nvidia-smi's answer does not say which of them those are.
            if said and (devices is None or devices.replace(",", "").isdigit() or len(inherited) == len(gpus())):
                check_memory(checks, f"{case}, {shown}", plan, devices)
        finally:
            (folder / "done").touch()
            for task, (rank_name, _) in zip(tasks, ranks):
                output, _ = task.communicate(timeout=WAIT_S)
                log = folder / "logs" / f"{rank_name}.log"
                if task.returncode:
                    print(output, log.read_text() if log.exists() else "", sep="\n")


def check_memory(checks: Checks, what: str, plan: Plan, devices: str | None) -> None:
    """`status --gpus` sees at least a GiB for each rank on the GPU where the plan has it."""
    done = subprocess.run(["bash", "-c", SCRIPT], env=environment(devices), capture_output=True, text=True, check=True)
    answer = read_gpus(done.stdout).get("", NodeGpus())
    for use in against_plan(plan, ["here"], {"here": answer}):
        ranks = sum(rank.gpu == use.gpu for server in plan.servers for rank in server.ranks)
        right = use.used is not None and use.total is not None and use.total >= use.used >= ranks * GIB >> 20
        checks.that(
            right, f"{what}: GPU {use.gpu} (index {use.index}) has {use.used} of {use.total} MiB used, by {ranks}"
        )


def check_refusal(checks: Checks, there: int) -> None:
    """A task that is shown too few GPUs says so."""
    with tempfile.TemporaryDirectory(prefix="trtdist-gpus-") as name:
        run_folder(Path(name), "two")
        task = start(Path(name), 2, ",".join(map(str, range(there))))
        output, _ = task.communicate(timeout=WAIT_S)
        checks.that(task.returncode == 1 and f"and {there} are there" in output, f"too few GPUs: {output.strip()}")


def main() -> int:
    """All checks that this machine has the GPUs for."""
    found, checks = gpus(), Checks()
    print(f"{len(found)} GPUs: {' '.join(found)}")
    check_case(checks, "one", None, found)
    check_case(checks, "one", found[-1], found[-1:])
    check_refusal(checks, 1)
    if len(found) > 1:
        check_case(checks, "two", None, found)
        check_case(checks, "two", "1,0", [found[1], found[0]])
        check_case(checks, "two", ",".join(found), found)
    else:
        print("      one GPU: that of servers which share GPUs and begin at an odd rank was not checked")
    print("all right" if not checks.failed else f"{checks.failed} checks failed")
    return int(bool(checks.failed))


if __name__ == "__main__":
    sys.exit(main())
