"""How full the GPUs of a run are, as nvidia-smi tells on each node, beside what the plan gives to its servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trtdist.plan import Plan

__all__ = ["QUERY", "SCRIPT", "GpuMemory", "GpuUse", "NodeGpus", "against_plan", "read_gpus"]

_DIGITS = 12

QUERY = ("nvidia-smi", "--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")

# Each line begins with the node, since the nodes of one step answer in any order.
SCRIPT = f"""\
node=${{SLURMD_NODENAME:-}}
printf '%s|devices|%s\\n' "$node" "${{CUDA_VISIBLE_DEVICES-all}}"
if ! command -v nvidia-smi >/dev/null; then
    printf '%s|problem|there is no nvidia-smi\\n' "$node"
elif ! found=$({" ".join(QUERY)} 2>&1); then
    printf '%s|problem|nvidia-smi: %s\\n' "$node" "${{found//$'\\n'/ }}"
else
    while IFS= read -r line; do printf '%s|gpu|%s\\n' "$node" "$line"; done <<<"$found"
fi
"""
"""Bash that prints what `read_gpus` reads."""


@dataclass(frozen=True)
class GpuMemory:
    """One GPU by its number on the node; memory in MiB, None where the driver does not tell."""

    index: int
    used: int | None
    total: int | None


@dataclass(frozen=True)
class NodeGpus:
    """What a node answered: its GPUs or why it has none to show. `devices` is CUDA_VISIBLE_DEVICES there, "all" when it
    is not set."""

    gpus: tuple[GpuMemory, ...] = ()
    problem: str = ""
    devices: str = "all"


@dataclass(frozen=True)
class GpuUse:
    """One GPU of the plan: `gpu` is its number there, `index` the node's own; memory in MiB, None when it is not known.
    `planned` is the sum of the shares of `servers`."""

    node: str
    gpu: int
    index: int | None
    used: int | None
    total: int | None
    planned: float
    servers: tuple[str, ...]


def read_gpus(text: str) -> dict[str, NodeGpus]:
    """The answers of nodes by name, "" for this machine; other lines are left out."""
    found: dict[str, NodeGpus] = {}
    for line in text.splitlines():
        parts = line.split("|", 2)
        if len(parts) != 3:
            continue
        node, kind, rest = parts
        known = found.get(node, NodeGpus())
        if kind == "devices":
            found[node] = NodeGpus(known.gpus, known.problem, rest.strip())
        elif kind == "problem":
            found[node] = NodeGpus(known.gpus, rest.strip(), known.devices)
        elif kind == "gpu" and (gpu := _gpu(rest)) is not None:
            found[node] = NodeGpus((*known.gpus, gpu), known.problem, known.devices)
    return found


def against_plan(plan: Plan, nodes: Sequence[str], answers: Mapping[str, NodeGpus]) -> list[GpuUse]:
    """Each GPU of the plan with what its node answered; `nodes` are the names of the plan's nodes."""
    uses = []
    for load in plan.gpus:
        name = nodes[load.node] if load.node < len(nodes) else f"node {load.node}"
        gpu = _planned_gpu(load.gpu, answers.get(name, NodeGpus()))
        index, used, total = (None, None, None) if gpu is None else (gpu.index, gpu.used, gpu.total)
        uses.append(GpuUse(name, load.gpu, index, used, total, load.fraction, load.servers))
    return uses


def _planned_gpu(number: int, answer: NodeGpus) -> GpuMemory | None:
    """The GPU that a task finds at this place of the list that it inherits."""
    there = {gpu.index: gpu for gpu in answer.gpus}
    listed = _listed(answer.devices, there)
    return there.get(listed[number]) if number < len(listed) else None


def _listed(devices: str, there: Iterable[int]) -> list[int]:
    if devices == "all":
        return list(there)
    names = [name.strip() for name in devices.split(",") if name.strip()]
    if all(_number(name) is not None for name in names):
        return [int(name) for name in names]
    # Named by their UUIDs, of which nvidia-smi in the same step shows as many.
    return list(there) if len(names) == len(list(there)) else []


def _gpu(text: str) -> GpuMemory | None:
    cells = [cell.strip() for cell in text.split(",")]
    index = _number(cells[0])
    if len(cells) != 3 or index is None:
        return None
    return GpuMemory(index, _number(cells[1]), _number(cells[2]))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
