"""The folder of imported images: the one owner of its file names. Standard library, Python 3.9.

Each image is a folder of its name with the image in it, as the container runtime wants it, and a record of where it
came from. The folder appears whole, by a rename.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trtdist.rundir import runs_root

__all__ = ["FILES", "RECORD", "ImageRecord", "all_images", "image_path", "images_root", "problems_of", "read_record"]

RECORD = "image.json"
FILES = {"squashfs": "image.sqsh", "sif": "image.sif", "directory": "root", "archive": "image.tar"}
"""What the image itself is called in its folder, by its format."""


@dataclass(frozen=True)
class ImageRecord:
    """Where an image came from and what it is.

    `size` in bytes is 0 for a directory, `digest` and `source_digest` are `sha256:...` or "" where none is known,
    `architecture` is as uname says it, `imported` is the time in UTC (ISO 8601), `environment` names the variables that
    the image sets.
    """

    source: str
    source_digest: str
    format: str
    size: int
    digest: str
    architecture: str
    imported: str
    environment: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The text of the record."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def of_json(cls, text: str) -> ImageRecord:
        """The record of a text; ValueError when it is none."""
        found: Any = json.loads(text)
        if not isinstance(found, dict) or found.get("format") not in FILES:
            raise ValueError("it is no record of an image")
        known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        try:
            return cls(**{**known, "environment": tuple(known.get("environment", ()))})
        except TypeError as error:
            raise ValueError("it is no record of an image") from error


def images_root(environ: Mapping[str, str], site: str | None = None) -> Path:
    """Where images are kept: `$TRTDIST_IMAGES`, else what the site profile says, else beside the runs."""
    return Path(os.path.abspath(environ.get("TRTDIST_IMAGES") or site or runs_root(environ).parent / "images"))


def read_record(place: Path) -> ImageRecord | None:
    """The record of an image's folder; None when it has none that can be read."""
    try:
        return ImageRecord.of_json((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def image_path(folder: Path, name: str) -> Path | None:
    """The imported image of that name; None when there is none."""
    if not name or name.startswith(".") or "/" in name:
        return None
    record = read_record(folder / name)
    return folder / name / FILES[record.format] if record is not None else None


def all_images(folder: Path) -> dict[str, ImageRecord]:
    """The imported images by name."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return {}
    found = {name: read_record(folder / name) for name in names}
    return {name: record for name, record in found.items() if record is not None}


def problems_of(place: Path) -> list[str]:
    """What an image's folder lacks to be whole, as far as sizes tell; nothing for one that is."""
    record = read_record(place)
    if record is None:
        return [f"it has no {RECORD}"]
    image = place / FILES[record.format]
    try:
        size = image.stat().st_size
    except OSError as error:
        return [f"{image.name}: {error.strerror}"]
    if record.format != "directory" and size != record.size:
        return [f"{image.name} has {size} bytes, and {record.size} were imported"]
    return []
