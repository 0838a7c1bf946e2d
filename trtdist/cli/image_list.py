"""`trtdist image list`: the imported images."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from trtdist.cli.image_places import images_folder
from trtdist.images import all_images, image_path, problems_of

__all__ = ["command", "size"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command("list")
@click.option("--images", metavar="DIR", help="Where images are kept.  [default: as for `image import`]")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def command(images: str | None, as_json: bool) -> None:
    """List the imported images: name, format, architecture, size, when and from where."""
    folder = images_folder(images)
    found = all_images(folder)
    if as_json:
        listed = [
            {
                "name": name,
                "path": str(image_path(folder, name)),
                **asdict(record),
                "problems": problems_of(folder / name),
            }
            for name, record in found.items()
        ]
        click.echo(json.dumps({"folder": str(folder), "images": listed}, indent=2))
        return
    if not found:
        click.echo(f"no image was imported to {folder}", err=True)
    rows = [
        (name, record.format, record.architecture or "?", size(record.size), record.imported, record.source)
        for name, record in found.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        broken = problems_of(folder / row[0])
        click.echo("  ".join([*cells, row[-1], *(f"({problem})" for problem in broken)]))


def size(count: int) -> str:
    """A number of bytes for people; "-" for none."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if count else "-"
