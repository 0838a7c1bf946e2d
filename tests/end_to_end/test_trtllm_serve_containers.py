"""Deployments that TensorRT-LLM's commands serve from an image, over several nodes, with the stand-in in the image."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import ROOT, Cluster
from tests.containers.places import refuse_or_skip
from tests.end_to_end.test_containers import environment
from tests.end_to_end.test_tensorrt_llm_slurm import ANSWER, ASK, SLURM
from tests.end_to_end.test_through_slurm import SHARED, User
from tests.images import image_or_skip, unpacked_or_skip

STANDIN = ROOT / "tests" / "standin"


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


def image_with_the_standin(image: Path) -> Path:
    """The bare image with the stand-in, where one of TensorRT-LLM has that: packages for Python, commands on PATH."""
    subprocess.run(["cp", "--archive", image_or_skip(), image], check=True, timeout=120)
    packages, programs = image / "usr/lib/python3/dist-packages", image / "usr/bin"
    for folder in (STANDIN / "tensorrt_llm", STANDIN / "torch", STANDIN / "dynamo"):
        shutil.copytree(folder, packages / folder.name)
    (python,) = (path.name for path in programs.glob("python3.[0-9]*"))
    install = ["install", "--quiet", "--no-cache-dir", "--target", packages, "--upgrade", "--only-binary=:all:"]
    of_image = ["--python-version", python.removeprefix("python"), "click", "pydantic", "pyyaml"]
    subprocess.run([sys.executable, "-m", "pip", *install, *of_image], check=True, timeout=240)
    for command in (*(STANDIN / "bin").iterdir(), unpacked_or_skip("openssl") / "usr/bin/openssl"):
        shutil.copy(command, programs / command.name)
    # What `ch-fromhost --nvidia` brings: without the library of the driver no container is entered.
    (image / "usr/lib/x86_64-linux-gnu/libcuda.so.1").touch()
    return image


@pytest.mark.long
@pytest.mark.parametrize(
    ("example", "settings"),
    [
        ("disagg-2nodes.trtllm-serve.yaml", ()),
        ("disagg-2nodes.trtllm-serve.yaml", ("router.discovery=static",)),
        ("disagg-2nodes.dynamo.yaml", ()),
    ],
)
def test_servers_and_router_of_an_image(user: User, example: str, settings: tuple[str, ...]) -> None:
    """The host has neither the commands nor the packages."""
    refuse_or_skip("charliecloud")
    image = image_with_the_standin(user.cluster.folder / "image")
    container = ("container.runtime=charliecloud", f"container.image={image}", "model=some/model")
    given = [word for each in (*container, *settings) for word in ("--set", each)]
    done = user.trtdist("submit", SLURM / example, *SHARED, *given, "--wait", "--json")
    assert done.returncode == 0, done.stdout + done.stderr + user.crashes()
    told: dict[str, Any] = json.loads(done.stdout)
    assert user.trtdist(*ASK).stdout.strip("\n") == ANSWER
    state: Any = user.state(told["job_id"])
    assert len({rank["node"] for rank in state["ranks"]}) == 2
    run = Path(told["run_dir"])
    for rank in state["ranks"]:
        assert "TRTDIST_INSIDE=charliecloud" in environment(user, run, rank).split("\0")
    assert user.trtdist("down", told["job_id"]).returncode == 0
    assert json.loads((run / "verdict.json").read_text())["state"] == "STOPPED"
    assert user.left() == []
