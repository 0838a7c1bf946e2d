"""What each runtime makes of one container, as it is kept in golden.txt; and that any text arrives or is refused.

After a change that is meant: TRTDIST_UPDATE_GOLDEN=1 pytest tests/containers/test_argv.py, and read the difference.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.containers import RUNTIMES, Caller, Container, Mount, runtime
from trtdist.containers.pyxis import mount_list
from trtdist.errors import InputError
from trtdist.topology import model

GOLDEN = Path(__file__).with_name("golden.txt")
CALLER = Caller(1001, 1002, "", "/local/rc")
NEWER = Caller(1001, 1002, "--rc --write-fake", "/local/rc", lists_environment=True)
PLAIN = Container("/images/one", (Mount("/run/1", "/run/1"), Mount("/data", "/data", writable=False)))
FULL = Container(
    "/images/one",
    (Mount("/scratch", "/cache"),),
    writable=True,
    home="/home/me",
    gpus=True,
    shm_size="64G",
    ulimits=(("memlock", -1), ("stack", 67108864)),
    variables=("NVIDIA_DRIVER_CAPABILITIES",),
    label="demo-1",
)
PROGRAM = ["bash", "-c", "echo $1", "a b"]
ENTERED = [name for name in RUNTIMES if runtime(name).program]
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(lambda text: f"/{text}")


def shown(name: str) -> str:
    way = runtime(name)
    lines = [f"# {name}"]
    for container, caller in ((PLAIN, CALLER), (FULL, CALLER), (PLAIN, NEWER)):
        lines += [shlex.join(["srun:", option.text, option.since]) for option in way.step_options(container)]
        lines.append(shlex.join(way.command(container, PROGRAM, caller)))
    return "\n".join(lines) + "\n"


def test_command_lines_are_as_they_were() -> None:
    text = "\n".join(map(shown, RUNTIMES))
    if "TRTDIST_UPDATE_GOLDEN" in os.environ:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "set TRTDIST_UPDATE_GOLDEN=1 if that is meant"


def test_the_topology_knows_the_same_runtimes() -> None:
    assert set(get_args(model.ContainerRuntime)) == set(RUNTIMES)


def mounted(name: str, words: list[str]) -> list[tuple[str, str]]:
    """The mounts of a command line, taken apart as each program does."""
    if name == "charliecloud":
        pairs = [word.removeprefix("--bind=").split(":") for word in words if word.startswith("--bind=")]
        return [(source, target) for source, target in pairs]
    given = [word.removeprefix("--mount=") for word in words if word.startswith("--mount=")]
    if name == "enroot":
        fields = [text.split(":") for text in given]
        assert not any(set(" \t\n#") & set(text) for text in given)
        return [(unescaped(source), unescaped(target)) for source, target, _ in fields]
    # Docker and podman use Go's encoding/csv, which reads quoted fields as Python's module does.
    records = [next(csv.reader([text], strict=True)) for text in given]
    found = [dict(field.split("=", 1) for field in record if "=" in field) for record in records]
    return [(fields["source"], fields["target"]) for fields in found]


def unescaped(path: str) -> str:
    """As getmntent reads it."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


@pytest.mark.parametrize("name", ENTERED)
@given(source=PATHS, target=PATHS, argument=st.text())
def test_any_mount_arrives_or_is_refused(name: str, source: str, target: str, argument: str) -> None:
    container = Container("/image", (Mount(source, target),))
    try:
        words = runtime(name).command(container, ["bash", argument], CALLER)
    except InputError as error:
        assert name == "charliecloud"
        assert repr(source) in str(error) or repr(target) in str(error)
        assert "at position" in str(error)
        return
    assert words[-1] == argument
    if not any(line in source + target for line in ("\n", "\r")):
        assert mounted(name, words) == [(source, target)]


@given(source=PATHS, target=PATHS)
def test_srun_takes_a_mount_or_it_is_refused(source: str, target: str) -> None:
    container = Container("/image", (Mount(source, target, writable=False), Mount("/b", "/b")))
    try:
        mounts = mount_list(container.mounts)
    except InputError as error:
        text = next(path for path in (source, target) if repr(path) in str(error))
        position = int(str(error).split("at position ")[1].split()[0])
        assert text[position - 1] in ":, \t\\#"
        return
    assert mounts.split(",") == [f"{source}:{target}:ro", "/b:/b"]
    assert not any("mounts=" in option.text for option in runtime("pyxis").step_options(container))
