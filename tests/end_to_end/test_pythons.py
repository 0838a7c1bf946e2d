"""What a run brings into an image works with every Python that images have, from the oldest to the newest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import give_up
from tests.containers.places import refuse_or_skip
from tests.end_to_end.workplace import QUICKSTART, Workplace
from tests.images import image_or_skip

VERSIONS = ("3.9", "3.10", "3.12", "3.13")


def home_of(version: str) -> Path:
    """The folder of a Python of that version, as pyenv keeps them: it can be copied."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    homes = [*root.glob(f"versions/{version}.*"), *Path(sys.base_prefix).parent.glob(f"{version}.*")]
    there = [home for home in homes if (home / "bin/python3").exists()]
    if not there:
        give_up(f"there is no Python {version} in pyenv")
    return there[0]


def image_with(version: str, image: Path) -> Path:
    """The bare image, with nothing but another Python, and numpy and mpi4py for that, in /opt/python."""
    home = home_of(version)
    subprocess.run(["cp", "--recursive", "--no-dereference", str(image_or_skip()), str(image)], check=True)
    unused = shutil.ignore_patterns("test", "idlelib", "tkinter", "__pycache__", "site-packages", "*.a")
    shutil.copytree(home, image / "opt/python", symlinks=True, ignore=unused)
    (image / "opt/python/lib" / f"python{version}" / "site-packages").mkdir()
    install = ["-m", "pip", "install", "--quiet", "--no-cache-dir", "--target"]
    packages = image / "opt/python/lib" / f"python{version}" / "site-packages"
    subprocess.run([home / "bin/python3", *install, packages, "numpy", "mpi4py"], check=True, timeout=240)
    _bring_libraries(image, [home / "bin/python3", *(image / "opt/python").rglob("*.so*")])
    return image


def _bring_libraries(image: Path, programs: list[Path]) -> None:
    """Copy what programs are linked to and the image lacks: the libraries of Python's own modules."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    for words in map(str.split, listed.splitlines()):
        if len(words) < 3 or words[1] != "=>" or not words[2].startswith("/"):
            continue
        place = image / words[2].lstrip("/")
        if not place.exists() and not words[2].startswith(str(image)):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(words[2], place)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_a_deployment_serves(place: Workplace, version: str) -> None:
    refuse_or_skip("charliecloud")
    image = image_with(version, place.folder / "image")
    settings = ["runtime=charliecloud", f"image={image}", "python=/opt/python/bin/python3", "also=[router]"]
    place.up(QUICKSTART, *(word for each in settings for word in ("--set", f"container.{each}")))
    asked = place.trtdist("client", "--prompt", "The capital of France is")
    assert asked.stdout.strip() != ""
    (run,) = place.runs()
    for name in ("ctx.0.0", "gen.0.0", "router"):
        events = map(json.loads, (run / "events" / f"task.{name}.jsonl").read_text().splitlines())
        pid = next(event["pid"] for event in events if event["type"] == "task_started")
        assert os.readlink(f"/proc/{pid}/exe").endswith(f"/python{version}")
    place.trtdist("down")
    place.nothing_left()
