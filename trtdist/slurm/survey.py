"""What a Slurm cluster offers a user, asked of its own programs. Standard library, Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from trtdist.errors import SlurmError
from trtdist.slurm import argv, parse

__all__ = ["Offer", "Survey", "survey"]

_DIRECTIVES = {"select/cons_tres": "gpus-per-node"}


@dataclass(frozen=True)
class Offer:
    """A partition by its best nodes: those with the most GPUs, then the most CPUs; memory in MiB, `limit` in seconds
    (None for none)."""

    name: str
    default: bool
    nodes: int
    cpus: int
    memory: int
    gpus: int
    gpu_type: str
    limit: float | None


@dataclass(frozen=True)
class Survey:
    """`offers` with the default partition first; `accounts` with the user's default first, none where Slurm keeps no
    accounts; `gpu_directive` is how this Slurm counts GPUs: `gpus-per-node`, `gres` or `none`."""

    offers: tuple[Offer, ...]
    accounts: tuple[str, ...]
    mpi_types: tuple[str, ...]
    gpu_directive: str
    pyxis: bool


def survey(ask: Callable[[list[str]], str], user: str) -> Survey:
    """Ask Slurm; `ask` runs a command line and returns what it printed. SlurmError when it does not tell its
    partitions."""
    config = parse.config(ask(argv.scontrol_show("config")))
    known = [parse.fields(line) for line in ask(argv.scontrol_show("partition")).splitlines()]
    defaults = {shown.get("PartitionName", "") for shown in known if shown.get("Default") == "YES"}
    best: dict[str, parse.Partition] = {}
    for kind in parse.partitions(ask(argv.sinfo())):
        if kind.up and (kind.name not in best or _worth(kind) > _worth(best[kind.name])):
            best[kind.name] = kind
    offers = [_offer(kind, kind.name in defaults) for kind in best.values()]
    return Survey(
        tuple(sorted(offers, key=lambda offer: not offer.default)),
        tuple(parse.accounts(_if_told(ask, argv.sacctmgr_accounts(user)))),
        tuple(parse.mpi_types(_if_told(ask, argv.srun_mpi_list()))),
        _directive(config, offers),
        "--container-image" in _if_told(ask, argv.srun_help()),
    )


def _worth(kind: parse.Partition) -> tuple[int, int]:
    return kind.gpus, kind.cpus


def _offer(kind: parse.Partition, default: bool) -> Offer:
    return Offer(kind.name, default, kind.nodes, kind.cpus, kind.memory, kind.gpus, kind.gpu_type, kind.limit)


def _directive(config: dict[str, str], offers: list[Offer]) -> str:
    """--gpus-per-node is select/cons_tres' alone (sbatch(1)); --gres works with every other that counts GPUs."""
    if not any(offer.gpus for offer in offers):
        return "none"
    return _DIRECTIVES.get(config.get("SelectType", ""), "gres")


def _if_told(ask: Callable[[list[str]], str], words: list[str]) -> str:
    """What a program prints that not every site lets users run, "" if it does not."""
    try:
        return ask(words)
    except SlurmError:
        return ""
