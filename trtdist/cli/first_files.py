"""The texts of a first site profile and a first topology, made for what was found. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["Found", "cluster_text", "differences", "site_text"]

_HOUR = 3600.0
_MODEL = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
_MOST_CPUS = 8


@dataclass(frozen=True)
class Found:
    """What is to be used. `partition` is None on a machine without Slurm; of its nodes `gpus` and `cpus` are told, and
    its time `limit` in seconds, None for none. `engine` is tensorrt_llm or reference."""

    engine: str
    gpus: int
    cpus: int
    partition: str | None = None
    account: str | None = None
    gpu_directive: str = "gpus-per-node"
    gpu_type: str = ""
    limit: float | None = None
    runtime: str | None = None
    mpi_types: tuple[str, ...] = ()


def site_text(found: Found) -> str:
    """A site profile: the defaults of all topologies on this cluster."""
    gpus = {"gpus_per_node": found.gpus} if found.gpus else {}
    slurm = {"account": found.account, "partition": found.partition, **gpus, "gpu_directive": found.gpu_directive}
    lines = [
        "# What is true of this cluster for every topology; a topology that says otherwise wins.",
        f"# MPI types of this Slurm: {_word(' '.join(found.mpi_types) or 'none found')}",
        *([f"# GPUs of these nodes: {_word(found.gpu_type)}"] if found.gpu_type else []),
        "slurm:",
        *(f"  {key}: {_word(value)}" for key, value in slurm.items() if value is not None),
        "  # also: qos, constraint, exclusive",
    ]
    if found.runtime is not None:
        lines += ["container:", f"  runtime: {found.runtime}    # of topologies that name an image"]
    return "\n".join(
        [
            *lines,
            "# network: {interface: ib0}    # or: {subnet: 10.1.0.0/16}, {port_range: 20000-29999}",
            "# runs: /shared/me/trtdist    # where all nodes see it; ~/.local/share/trtdist/runs without it",
            "",
        ]
    )


def cluster_text(found: Found) -> str:
    """A first topology; it is valid, and fits on the nodes that were found."""
    ranks = 1 if found.engine != "reference" and found.gpus == 1 else 2
    lines = [*_head(found), *_servers(ranks), *(_slurm(found, ranks) if found.partition is not None else _here(found))]
    if found.engine != "reference":
        lines += ["# container:", "#   image: /images/tensorrt-llm.sqsh", '#   mounts: ["/shared:/shared"]']
    return "\n".join([*lines, ""])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a file that is kept says otherwise than the one that would be written, a line for each value."""
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**after, **before} if before.get(key) != after.get(key)]
    return [f"{key}: {_told(before, key)}, and {_told(after, key)} would be written" for key in keys]


def _head(found: Found) -> list[str]:
    how = "trtdist up cluster.yaml --local" if found.partition is None else "trtdist submit cluster.yaml --wait"
    lines = [f"# A first deployment:   {how}", "name: first"]
    if found.engine == "reference":
        return [
            *lines,
            "model: reference/tiny",
            "engine: reference    # a tiny real transformer in numpy, since no GPU was found; or: tensorrt_llm",
        ]
    return [*lines, f"model: {_MODEL}    # or the folder of a model, see `trtdist model stage`", "engine: tensorrt_llm"]


def _servers(ranks: int) -> list[str]:
    if ranks == 1:
        return ["servers:", "  num_instances: 1", "  tensor_parallel_size: 1"]
    one = ["  num_instances: 1", "  tensor_parallel_size: 1"]
    return ["context_servers:       # read prompts", *one, "generation_servers:    # write answers", *one]


def _here(found: Found) -> list[str]:
    return ["slurm:", f"  gpus_per_node: {found.gpus}    # of this machine"] if found.gpus else []


def _slurm(found: Found, ranks: int) -> list[str]:
    """The job; what the site profile says is not repeated. A topology has to be valid without that, too."""
    # Slurm counts whole minutes.
    seconds = max(60, math.floor(min(found.limit or _HOUR, _HOUR) / 60) * 60)
    lines = ["slurm:    # account, partition and GPUs are in the site profile", f'  time: "{_clock(seconds)}"']
    lines += [f"  cpus_per_task: {max(1, min(_MOST_CPUS, found.cpus // ranks))}"] if found.engine != "reference" else []
    return lines + (["  mem: 2G"] if found.engine == "reference" else [])


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _word(value: object) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, width=math.inf, allow_unicode=True).removesuffix("\n").removesuffix("\n...")


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(_flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value})
    return found


def _told(values: Mapping[str, Any], key: str) -> str:
    return _word(values[key]) if key in values else "nothing"
