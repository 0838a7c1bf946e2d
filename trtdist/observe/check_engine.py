"""What is wrong with a node for the engine: GPUs, shared memory, limits, stray variables. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trtdist.observe.findings import Finding
from trtdist.observe.gpus import NodeGpus, read_gpus
from trtdist.observe.node_facts import NodeFacts, Wanted

__all__ = ["check_engine"]

# A GPU that nobody uses shows up to some hundred MiB of the driver's own.
_GPU_IDLE_MIB = 1024
_SHM_LEFT, _SHM_FREE = 1 << 20, 1 << 30
_MOST_NAMED = 3
_FILES = 1024
# What NVIDIA starts its containers with: --ulimit memlock=-1 --ulimit stack=67108864.
_STACK = 64 << 20
_UNLIMITED = -1


def check_engine(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    """Every finding about what an engine needs of a node."""
    if wanted.gpus and node.gpus is not None:
        yield from _gpus(wanted, node, node.gpus)
        yield from _pinned(node)
    yield from _shared_memory(wanted, node)
    files = (node.limits or {}).get("nofile", _UNLIMITED)
    if files != _UNLIMITED and files < _FILES:
        what = f"allows {files} open files, which many clients at a time exceed"
        yield Finding("warning", "limits", node.node, what, f"raise it with `ulimit -n {_FILES}` or limits.conf")
    if node.leaking:
        what = f"sets {', '.join(node.leaking)}, which may bend MPI and the engine"
        remedy = "unset them in slurm.setup, or have them taken out of the prolog"
        yield Finding("warning", "environment", node.node, what, remedy)


def _gpus(wanted: Wanted, node: NodeFacts, answer: Mapping[str, Any]) -> Iterator[Finding]:
    lines = [f"|devices|{node.devices}", *(f"|gpu|{line}" for line in answer.get("lines", ()))]
    found = read_gpus("\n".join(lines)).get("", NodeGpus())
    if answer.get("problem"):
        remedy = "look at the driver there, or leave the node out with slurm.exclude"
        yield Finding("error", "gpu", node.node, answer["problem"], remedy)
        return
    if len(found.gpus) < wanted.gpus:
        what = f"shows {len(found.gpus)} GPUs, and {wanted.gpus} are needed"
        yield Finding("error", "gpu", node.node, what, "see slurm.gpus_per_node and slurm.gpu_directive")
        return
    busy = [gpu for gpu in found.gpus if (gpu.used or 0) >= _GPU_IDLE_MIB]
    for gpu in busy:
        used = f"{gpu.used:,} of {gpu.total:,} MiB" if gpu.total else f"{gpu.used:,} MiB"
        what = f"has {used} of GPU {gpu.index} in use already, and {wanted.planned:.0%} of it is planned for"
        remedy = "end what uses it (nvidia-smi on the node), or leave the node out with slurm.exclude"
        yield Finding("warning", "gpu.memory", node.node, what, remedy)
    if not busy:
        yield Finding("ok", "gpu", node.node, f"{len(found.gpus)} GPUs, none in use")


def _pinned(node: NodeFacts) -> Iterator[Finding]:
    """UCX and NCCL pin memory; engines have deep stacks."""
    limits = node.limits or {}
    remedy = "raise it in limits.conf and slurmd's unit, or with container.ulimits where the runtime takes them"
    if limits.get("memlock", _UNLIMITED) != _UNLIMITED:
        what = f"allows {limits['memlock'] >> 10:,} KiB of pinned memory (memlock), and transfers need all they ask for"
        yield Finding("warning", "limits", node.node, what, remedy)
    stack = limits.get("stack", _UNLIMITED)
    if stack != _UNLIMITED and stack < _STACK:
        what = f"allows a stack of {stack >> 10:,} KiB, and NVIDIA recommends {_STACK >> 10:,}"
        yield Finding("warning", "limits", node.node, what, remedy)


def _shared_memory(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    shm = node.shm or {}
    left = shm.get("left", {})
    size = sum(left.values())
    if size >= _SHM_LEFT:
        names = ", ".join(sorted(left, key=lambda name: -left[name])[:_MOST_NAMED])
        more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        what = f"has {size >> 20:,} MiB of yours in /dev/shm that nothing uses: {names}{more}"
        yield Finding("warning", "shm", node.node, what, "remove them: `rm /dev/shm/NAME` on the node")
    if wanted.gpus and shm and shm["free"] < _SHM_FREE:
        what = f"has {shm['free'] >> 20:,} MiB free in /dev/shm, over which the ranks of a node speak"
        yield Finding("warning", "shm", node.node, what, "have it made larger, or remove what is left there")
