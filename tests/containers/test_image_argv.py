"""The command lines of programs that fetch and convert images, also of those that are not installed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdist.containers import image_argv as argv
from trtdist.containers.image_formats import Image
from trtdist.containers.image_open import openers, opening, overriding, set_by_image
from trtdist.containers.image_sources import Registry

IMAGE = Registry("nvcr.io", "nvidia/x:1.0", "$oauthtoken")
OUT = Path("/images/.x.part/out")


def test_fetching(tmp_path: Path) -> None:
    assert argv.enroot_import(IMAGE, "", OUT) == [
        *("enroot", "import", "--output=/images/.x.part/out", "docker://$oauthtoken@nvcr.io#nvidia/x:1.0")
    ]
    assert "--arch=aarch64" in argv.enroot_import(IMAGE, "aarch64", OUT)
    assert argv.apptainer_build("apptainer", IMAGE.reference(), "aarch64", OUT) == [
        *("apptainer", "build", "--force", "--arch=arm64", "/images/.x.part/out", "docker://nvcr.io/nvidia/x:1.0")
    ]
    assert argv.podman_pull(IMAGE, "x86_64") == [
        *("podman", "pull", "--quiet", "--arch=amd64", "docker://nvcr.io/nvidia/x:1.0")
    ]
    assert argv.podman_save("abc", OUT) == [
        *("podman", "save", "--quiet", "--format=oci-dir", "--output=/images/.x.part/out", "abc")
    ]
    assert argv.skopeo([tmp_path / "none"], "aarch64") == [
        *("skopeo", "--insecure-policy", "--override-os=linux", "--override-arch=arm64")
    ]
    assert argv.skopeo([tmp_path]) == ["skopeo", "--override-os=linux"]


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("ch-run", "ch-run /i -- sh -c x"),
        ("enroot", "enroot start /i sh -c x"),
        ("apptainer", "apptainer exec --cleanenv --no-home /i sh -c x"),
        ("singularity", "singularity exec --cleanenv --no-home /i sh -c x"),
        ("podman", "podman run --rm --network=host --entrypoint=sh --rootfs /i:O -c x"),
    ],
)
def test_opening(program: str, line: str) -> None:
    image = Image(Path("/i"), "directory")
    assert opening(program, image, Path("/i/ch/environment"), ["sh", "-c", "x"]) == line.split()


def test_who_opens_what() -> None:
    assert openers("squashfs", None, "apptainer")[0] == "apptainer"
    assert openers("squashfs", None, None)[0] == "enroot" == openers("squashfs", "pyxis", "apptainer")[0]
    assert openers("sif", "charliecloud", None) == () == openers("archive", None, None)


def test_variables_of_the_image() -> None:
    inside = ["HOME", "PWD", "SHLVL", "UCX_TLS", "APPTAINER_NAME", "FLAVOUR"]
    names = set_by_image(inside, {"HOME": "/root"}, ["HF_HOME"])
    assert names == ["FLAVOUR", "HF_HOME", "UCX_TLS"] and overriding(names) == ["HF_HOME", "UCX_TLS"]
