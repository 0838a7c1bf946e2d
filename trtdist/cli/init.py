"""`trtdist init`: ask Slurm, and write a site profile and a first topology."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.cli.first_files import Found, cluster_text, differences, site_text
from trtdist.cli.progress import say
from trtdist.errors import InputError, TrtdistError
from trtdist.slurm import mpi, runner
from trtdist.slurm.survey import Offer, Survey, survey

if TYPE_CHECKING:
    from trtdist.topology import Topology

__all__ = ["command"]

_PATIENCE = 10.0
_RUNTIMES = ("enroot", "apptainer", "singularity")
_DIRECTIVES = ("gpus-per-node", "gres", "none")
_SMI_S = 20.0

# Chooses among words of which the first is the default: (what is asked, words) -> word.
_Choose = Callable[[str, Sequence[str]], str]


@click.command("init")
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option("--yes", is_flag=True, help="Take the defaults instead of asking.")
def command(folder: Path, yes: bool) -> None:
    """Ask Slurm what there is, and write a site profile and FOLDER/cluster.yaml, a first topology.

    On a terminal it asks what Slurm leaves open. The profile goes to $TRTDIST_SITE, else ~/.config/trtdist/site.yaml.
    A file that is there already is kept, and what it says otherwise is told. Without Slurm, cluster.yaml is for this
    machine alone.
    """
    choose = _ask if sys.stdin.isatty() and sys.stdout.isatty() and not yes else _first
    if shutil.which("sinfo") is None:
        say("there is no Slurm here (no sinfo on PATH): cluster.yaml is for this machine alone")
        found = _machine()
    else:
        found = _cluster(survey(lambda words: runner.run(words, _PATIENCE), getpass.getuser()), choose)
        _write(_profile_place(), site_text(found))
    file = folder / "cluster.yaml"
    _write(file, cluster_text(found))
    _tell_next(file, found)


def _first(what: str, words: Sequence[str]) -> str:
    return words[0]


def _ask(what: str, words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    return str(click.prompt(what, type=click.Choice(list(words)), default=words[0]))


def _cluster(there: Survey, choose: _Choose) -> Found:
    """What to use of a cluster; InputError when it has no partition that is up."""
    if not there.offers:
        raise InputError("this Slurm has no partition that is up: ask its administrators, or use `trtdist up --local`")
    offers = {offer.name: offer for offer in sorted(there.offers, key=_rank)}
    offer = offers[choose("Partition", list(offers))]
    account = choose("Account", there.accounts) if there.accounts else None
    directive = (
        choose("How GPUs are asked for", _with_first(there.gpu_directive, _DIRECTIVES)) if offer.gpus else "none"
    )
    _tell_mpi(there)
    runtimes = [*(["pyxis"] if there.pyxis else []), *(name for name in _RUNTIMES if shutil.which(name)), "none"]
    runtime = choose("Container runtime", runtimes)
    return Found(
        engine="tensorrt_llm" if offer.gpus else "reference",
        gpus=offer.gpus,
        cpus=offer.cpus,
        partition=offer.name,
        account=account,
        gpu_directive=directive,
        gpu_type=offer.gpu_type,
        limit=offer.limit,
        runtime=None if runtime == "none" else runtime,
        mpi_types=there.mpi_types,
    )


def _rank(offer: Offer) -> tuple[bool, bool]:
    """Partitions with GPUs first, among them Slurm's default."""
    return not offer.gpus, not offer.default


def _with_first(first: str, words: Sequence[str]) -> list[str]:
    return [first, *(word for word in words if word != first)]


def _tell_mpi(there: Survey) -> None:
    try:
        mpi.choose(there.mpi_types)
    except TrtdistError as error:
        say(f"warning: {error}")


def _machine() -> Found:
    gpus = _gpus_here()
    usable = gpus > 0 and find_spec("tensorrt_llm") is not None
    if gpus and not usable:
        say(f"{gpus} GPUs are here and the package tensorrt_llm is not: the topology uses the reference engine")
    return Found("tensorrt_llm" if usable else "reference", gpus if usable else 0, os.cpu_count() or 1)


def _gpus_here() -> int:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0


def _profile_place() -> Path:
    """Where the site profile is, or is to be written."""
    from trtdist.topology.site import site_path

    there = site_path(os.environ)
    if there is not None:
        return there
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config, "trtdist", "site.yaml")


def _write(path: Path, text: str) -> None:
    """Write a file that is not there yet; of one that is, tell what it says otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _tell_kept(path, text)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another FOLDER") from error
    else:
        click.echo(f"{path} is written")


def _tell_kept(path: Path, text: str) -> None:
    import yaml

    try:
        old: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} is there and cannot be read ({type(error).__name__}): correct or remove it"
        ) from error
    lines = differences(old, yaml.safe_load(text)) if isinstance(old, dict) else ["it holds no keys"]
    click.echo("\n".join([f"{path} is there already and is kept" + (":" if lines else ""), *(f"  {x}" for x in lines)]))


def _tell_next(file: Path, found: Found) -> None:
    from trtdist.planning import Target, plan

    planned = plan(_loaded(file), Target.LOCAL if found.partition is None else Target.SLURM)
    nodes = planned.allocation.nodes
    where = "this machine" if found.partition is None else f"{nodes} node{'' if nodes == 1 else 's'}"
    start = f"trtdist up {file} --local" if found.partition is None else f"trtdist submit {file} --wait"
    click.echo(f"{planned.world_size} ranks on {where}; start them with: {start}")


def _loaded(file: Path) -> Topology:
    from trtdist.topology import load

    return load(file, environ=os.environ)
