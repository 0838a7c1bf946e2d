"""`trtdist render`: write all scripts of a deployment to a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from trtdist.errors import InputError, TrtdistError
from trtdist.rundir import RunDir, write_atomic

__all__ = ["command"]

# What an earlier `render` wrote, by path and digest: only that may be replaced.
_MANIFEST = ".rendered.json"


@click.command("render")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.argument("out", type=click.Path(path_type=Path, readable=False))
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
def command(file: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Write all scripts of the topology in FILE to the folder OUT, for this machine.

    They are the files that `up --local` would start; OUT/scripts/README.txt says how to start them by hand. In a
    folder that is there already, only what an earlier `render` wrote is replaced, and only if nobody changed it.
    """
    files = _files(file, out, overrides)
    try:
        _write(out, files)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = TrtdistError if full else InputError
        raise kind(f"cannot write to {out}: {error.strerror or error}") from error
    run = RunDir(out)
    shown = [out / name for name in sorted(files) if run.site not in (out / name).parents]
    click.echo("\n".join(map(str, [*shown, f"{run.site}/"])))
    click.echo(f"{run.scripts / 'README.txt'} says how to run them", err=True)


def _files(file: Path, out: Path, overrides: tuple[str, ...]) -> dict[str, str]:
    """Everything that is written, by path within the folder."""
    from trtdist.plan import to_json
    from trtdist.planning import Target, plan
    from trtdist.rendering import render_local, site_files
    from trtdist.topology import dump, load, redacted

    topology = load(file, overrides=overrides, environ=os.environ)
    planned = plan(topology, Target.LOCAL)
    run = RunDir(out)
    files = {run.topology: dump(redacted(topology)), run.plan: to_json(planned)}
    files |= {run.scripts / name: text for name, text in render_local(planned, topology).items()}
    files |= {run.site / name: source.read_text(encoding="utf-8") for name, source in site_files().items()}
    return {str(path.relative_to(out)): text for path, text in files.items()}


def _write(out: Path, files: Mapping[str, str]) -> None:
    """Write all files, or none when one of them would replace something that is not ours."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is no folder: choose another OUT")
    earlier = _earlier(out)
    if foreign := [name for name in files if _foreign(out, name, earlier.get(name))]:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(f"{out / foreign[0]}{more} is not as render wrote it and is left alone: choose another OUT")
    run = RunDir(out)
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
        write_atomic(path, text, 0o700 if path.suffix == ".sh" else 0o600)
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
