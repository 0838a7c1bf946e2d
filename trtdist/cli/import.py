"""`trtdist import`: make a topology from the configuration of another launcher."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.errors import InputError, TrtdistError
from trtdist.rundir import write_atomic

if TYPE_CHECKING:
    from trtdist.topology import Checked
    from trtdist.topology.importers.draft import Imported, Remark

__all__ = ["command"]

# What aiconfigurator puts into the folder of one result, in the order in which it is read.
_IN_FOLDER = ("generator_config.yaml", "prefill_config.yaml", "decode_config.yaml", "agg_config.yaml")


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file, which must not exist yet.")
@click.option("--name", help="Name of the deployment, instead of the one that the files give.")
@click.option("--model", help="Model: a hub id or a path, instead of the one that the files name.")
@click.option("--image", help="Container image, instead of the one that the files name.")
@click.option("--tensorrt-llm", metavar="VERSION", help="Release of TensorRT-LLM that is to run it, such as 1.2.")
@click.option("--json", "as_json", is_flag=True, help="Print the topology and all remarks as JSON.")
def command(
    files: tuple[Path, ...],
    output: Path | None,
    name: str | None,
    model: str | None,
    image: str | None,
    tensorrt_llm: str | None,
    as_json: bool,
) -> None:
    """Make a topology from the configuration of another launcher, and say what could not be carried over.

    FILE is a disaggregated configuration of TensorRT-LLM, with files of engine arguments or a model.json beside it, a
    file of engine arguments alone, the configuration of TensorRT-LLM's Slurm benchmark, a recipe of srt-slurm, a
    Dynamo manifest, or what aiconfigurator writes, also as a folder. The exit code is 0 when a topology was made, also
    when parts are listed as not carried over, and 2 when the files cannot be understood or make no valid topology.
    """
    from trtdist.cli.checking import room_problem
    from trtdist.topology import InvalidTopologyError, check_text
    from trtdist.topology.importers.draft import Wishes
    from trtdist.topology.importers.reading import import_files
    from trtdist.topology.importers.writing import topology_text

    if output is not None and os.path.lexists(output):
        raise InputError(f"{output} is there already: choose another --output")
    paths = list(_spread(files))
    imported = import_files(paths, Wishes(name, model, image, tensorrt_llm))
    text = topology_text(imported, [path.name for path in paths])
    checked = check_text(text, str(output or "topology"), environ=os.environ, room_check=room_problem)
    if checked.topology is None:
        click.echo(text, nl=False, err=True)
        raise InvalidTopologyError(checked.diagnostics)
    if output is not None:
        _write(output, text)
    _tell(imported, text, checked, output, as_json)


def _write(output: Path, text: str) -> None:
    try:
        write_atomic(output, text, 0o644)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = TrtdistError if full else InputError
        raise kind(f"cannot write {output}: {error.strerror or error}") from error


def _spread(files: Sequence[Path]) -> Iterator[Path]:
    """The files, with those of aiconfigurator in the place of a folder."""
    for file in files:
        if not file.is_dir():
            yield file
            continue
        found = [
            path for name in _IN_FOLDER for path in (file / name, *sorted(file.glob(f"*/{name}"))) if path.is_file()
        ]
        if not found:
            raise InputError(f"{file} is a folder without {_IN_FOLDER[0]}: name the files to import")
        yield from found


def _tell(imported: Imported, text: str, checked: Checked, output: Path | None, as_json: bool) -> None:
    from trtdist.topology.diagnostics import report
    from trtdist.topology.importers.draft import LOST

    if as_json:
        click.echo(json.dumps(_as_json(imported, text, output), indent=2))
        return
    lost = imported.of_kind(LOST)
    for remark in lost:
        click.echo(f"not carried over: {remark}", err=True)
    if checked.diagnostics:
        click.echo(report(checked.diagnostics), err=True)
    if output is None:
        click.echo(text, nl=False)
    else:
        more = f"; {_counted(len(lost))} not carried over and listed in it" if lost else ""
        click.echo(f"{output} is written from {imported.format}{more}")


def _counted(number: int) -> str:
    return "1 key is" if number == 1 else f"{number} keys are"


def _as_json(imported: Imported, text: str, output: Path | None) -> dict[str, Any]:
    from trtdist.topology.importers.draft import CHANGED, LOST

    return {
        "version": 1,
        "format": imported.format,
        "output": None if output is None else str(output),
        "topology": imported.topology,
        "text": text,
        "lost": [_remark(remark) for remark in imported.of_kind(LOST)],
        "changed": [_remark(remark) for remark in imported.of_kind(CHANGED)],
    }


def _remark(remark: Remark) -> dict[str, Any]:
    origin = remark.origin
    return {
        "key": remark.key,
        "why": remark.why,
        "instead": remark.instead or None,
        "source": origin.source.name,
        "line": origin.line or None,
        "column": origin.column or None,
    }
