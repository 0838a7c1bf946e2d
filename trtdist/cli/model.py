"""`trtdist model`: copy a model to where jobs read it, and check it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from trtdist.cli.progress import say
from trtdist.engines.model_files import SUMS, hub_snapshot, is_hub_id, missing, read_sums
from trtdist.engines.staging import Fill, copied, stage, wrong_sums
from trtdist.errors import InputError, TrtdistError

__all__ = ["command"]


@click.group("model")
def command() -> None:
    """Copy a model to where jobs read it, and check it."""


@command.command("stage")
@click.argument("source")
@click.option(
    "--to", "folder", metavar="DIR", help="Where models are kept.  [default: $TRTDIST_MODELS, else beside the runs]"
)
@click.option("--name", help="The name of the model's folder in it.  [default: from SOURCE]")
@click.option("--revision", help="The revision of a model on the hub.  [default: the newest]")
@click.option("--node-local", is_flag=True, help="Copy to the disks of all nodes of this job.")
def _stage(source: str, folder: str | None, name: str | None, revision: str | None, node_local: bool) -> None:
    """Have a model where jobs read it, whole, and print its folder.

    SOURCE is the folder of a model, or an id on the hub. However often and by however many it is asked for, it is
    copied once; nobody sees half of it, and what an interrupted copy has finished stays for the next. Digests are
    compared where the model, or the hub, gives them.
    """
    name = _name(source, name)
    if node_local:
        _on_nodes(source, folder, name)
        return
    target = Path(os.path.abspath(folder or _models()))
    click.echo(stage(_fill(source, revision), target, name, say))


@command.command("check")
@click.argument("model")
@click.option("--digests", is_flag=True, help=f"Also read all files and compare the digests that {SUMS} gives.")
def _check(model: str, digests: bool) -> None:
    """Say what is missing of a model.

    MODEL is its folder, or an id on the hub, which is looked for in the cache ($HF_HOME). The exit code is 2 when it is
    not complete.
    """
    folder = _folder(model)
    problems = missing(folder)
    if digests:
        sums = read_sums(folder)
        if not sums:
            raise InputError(f"{folder} has no {SUMS}: its digests are not known")
        problems += [f"{name} has another digest than {SUMS} gives" for name in wrong_sums(folder, sums)]
    if problems:
        raise InputError(f"{folder} is no complete model: {'; '.join(problems)}")
    click.echo(f"{folder} is complete")


def _models() -> str:
    from trtdist.rundir import runs_root

    return os.environ.get("TRTDIST_MODELS") or str(runs_root(os.environ).parent / "models")


def _name(source: str, given: str | None) -> str:
    name = given or (source.replace("/", "--") if is_hub_id(source) else os.path.basename(os.path.abspath(source)))
    if not name or name.startswith(".") or "/" in name:
        raise InputError(f"{name!r} cannot be the name of a model's folder: give another with --name")
    return name


def _fill(source: str, revision: str | None) -> Fill:
    if is_hub_id(source):
        from trtdist.cli.hub import downloaded

        return downloaded(source, revision)
    if revision is not None:
        raise InputError(f"{source} is a folder, and --revision is for models on the hub: leave it out")
    return copied(Path(os.path.abspath(source)))


def _folder(model: str) -> Path:
    if not is_hub_id(model):
        return Path(os.path.abspath(model))
    from trtdist.cli.model_paths import hub_cache

    cache = hub_cache(os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"))
    found = hub_snapshot(cache, model)
    if found is None:
        raise InputError(f"{model} is no folder, and no model of that id is in {cache}: stage it, or set HF_HOME")
    return found


def _on_nodes(source: str, folder: str | None, name: str) -> None:
    """Copy on each node of the job in which this runs, through a step."""
    import trtdist
    from trtdist.slurm import argv, runner

    job, listed = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NODELIST")
    if not job or not listed:
        raise InputError("--node-local copies to the nodes of a job, and this is none: run it inside salloc or sbatch")
    if folder is None or is_hub_id(source):
        raise InputError("--node-local needs a model that all nodes see, as SOURCE, and --to with a folder of theirs")
    nodes = runner.run(argv.scontrol_hostnames(listed)).split()
    words = ["-m", "trtdist.engines.staging", os.path.abspath(source), folder, name]
    environ = argv.without_outer_task(os.environ)
    path = [str(Path(trtdist.__file__).parents[1]), *filter(None, [environ.get("PYTHONPATH")])]
    step = argv.srun_beside(job, nodes, [sys.executable, *words], name="stage")
    sys.stdout.flush()
    done = subprocess.run(step, env={**environ, "PYTHONPATH": os.pathsep.join(path)}, check=False)
    if done.returncode:
        raise TrtdistError(f"the model is not on all nodes of job {job}: see above")
