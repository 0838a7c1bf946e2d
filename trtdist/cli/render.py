"""`trtdist render`: write all scripts of a deployment to a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.errors import InputError, TrtdistError
from trtdist.rundir import RunDir, write_atomic

if TYPE_CHECKING:
    from trtdist.cli.given import Given
    from trtdist.plan import Plan
    from trtdist.topology import Topology

__all__ = ["command"]

# What an earlier `render` wrote, by path and digest: only that may be replaced.
_MANIFEST = ".rendered.json"


@click.command("render")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.argument("out", type=click.Path(path_type=Path, readable=False))
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
@click.option("--local", is_flag=True, help="For this machine alone, as `up --local` does.")
def command(file: Path, out: Path, overrides: tuple[str, ...], local: bool) -> None:
    """Write all scripts of the topology in FILE to the folder OUT.

    They are the files that `submit` and `up` would start through Slurm, with OUT/job.sbatch for sbatch, or with --local
    those of `up --local`; OUT/scripts/README.txt says how to start them by hand. OUT/trtllm has the same deployment as
    TensorRT-LLM's own files: disagg_config.yaml, extra_llm_api_options.yaml of each role, and model.json.

    A folder that is there already must be empty or from an earlier `render`, and without a run that was started. Only
    what `render` wrote is replaced, and only if nobody changed it; credentials in OUT/secrets stay.
    """
    from trtdist.topology import load

    topology = load(file, overrides=overrides, environ=os.environ)
    given = _given(topology, local)
    files = _files(out, topology, given, local)
    try:
        _write(out, files)
        _write_secrets(RunDir(out), given.secrets, made=topology.services.nats.external is None)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = TrtdistError if full else InputError
        raise kind(f"cannot write to {out}: {error.strerror or error}") from error
    run = RunDir(out)
    shown = [out / name for name in sorted(files) if run.site not in (out / name).parents]
    click.echo("\n".join(map(str, [*shown, f"{run.secrets}/", f"{run.site}/"])))
    click.echo(f"{run.scripts / 'README.txt'} says how to run them", err=True)


def _given(topology: Topology, local: bool) -> Given:
    from trtdist.cli.given import given_local, given_slurm

    now = time.time()
    return given_local(topology, os.environ, now) if local else given_slurm(topology, now)


def _files(out: Path, topology: Topology, given: Given, local: bool) -> dict[str, str]:
    """Everything that is written, by path within the folder, but for the secrets."""
    from trtdist.plan import to_json
    from trtdist.planning import Target, plan
    from trtdist.rendering import site_files
    from trtdist.rendering.trtllm_files import trtllm_files
    from trtdist.services.envfile import format_env
    from trtdist.topology import dump, redacted

    planned = plan(topology, Target.LOCAL if local else Target.SLURM)
    run = RunDir(out)
    files = {
        run.topology: dump(redacted(topology)),
        run.plan: to_json(planned),
        run.given_env: format_env(given.variables),
    }
    files |= {out / name: text for name, text in _scripts(planned, topology, local).items()}
    if topology.engine == "tensorrt_llm":
        files |= {out / "trtllm" / name: text for name, text in trtllm_files(planned, _release(topology)).items()}
    files |= {run.site / name: source.read_text(encoding="utf-8") for name, source in site_files().items()}
    return {str(path.relative_to(out)): text for path, text in files.items()}


def _release(topology: Topology) -> str | None:
    """The release of TensorRT-LLM, as the topology or the tag of its image says it."""
    from trtdist.topology.lint.versions import of_image

    tagged = of_image(topology.container.image)
    return topology.tensorrt_llm or (tagged.text if tagged is not None else None)


def _scripts(planned: Plan, topology: Topology, local: bool) -> Mapping[str, str]:
    from trtdist.rendering import render_local, render_slurm

    if not local:
        return render_slurm(planned, topology)
    return {f"scripts/{name}": text for name, text in render_local(planned, topology).items()}


def _write_secrets(run: RunDir, secrets: Mapping[str, str], *, made: bool) -> None:
    """Write the credentials; those that were `made` up stay when all are there, since something may run with them."""
    if made and all((run.secrets / name).exists() for name in secrets):
        return
    for name, text in secrets.items():
        write_atomic(run.secrets / name, text)


def _write(out: Path, files: Mapping[str, str]) -> None:
    """Write all files, or none when one of them would replace something that is not ours."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is no folder: choose another OUT")
    earlier, run = _earlier(out), RunDir(out)
    if not earlier and out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} has something in it that render did not write, and is left alone: choose another OUT")
    if run.events.is_dir() and any(run.events.iterdir()):
        raise InputError(f"in {out} a run was started, and it is left alone: choose another OUT, or remove it")
    if foreign := [name for name in files if _foreign(out, name, earlier.get(name))]:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(f"{out / foreign[0]}{more} is not as render wrote it and is left alone: choose another OUT")
    for folder in (out, run.logs, run.events, run.control, run.secrets):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, digest in earlier.items():
        if name not in files and not _foreign(out, name, digest):
            (out / name).unlink(missing_ok=True)
    manifest = {name: _digest(text.encode()) for name, text in files.items()}
    write_atomic(out / _MANIFEST, json.dumps({**earlier, **manifest}, indent=1) + "\n")
    for name, text in files.items():
        path = out / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, text, 0o700 if path.suffix in (".sh", ".sbatch") else 0o600)
    write_atomic(out / _MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _earlier(out: Path) -> dict[str, str]:
    try:
        found: Any = json.loads((out / _MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, OSError) as error:
        raise InputError(f"{out / _MANIFEST} cannot be read ({error}): choose another OUT") from error
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}


def _foreign(out: Path, name: str, digest: str | None) -> bool:
    """Whether something is at the place of a file, or of a folder above it, that is not as we wrote it."""
    path = out / name
    above = [folder for folder in path.parents if out in folder.parents]
    if any(folder.is_symlink() or (folder.exists() and not folder.is_dir()) for folder in above):
        return True
    if not os.path.lexists(path):
        return False
    return path.is_symlink() or not path.is_file() or _digest(path.read_bytes()) != digest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
