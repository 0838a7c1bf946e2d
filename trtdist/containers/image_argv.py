"""Command lines of the programs that fetch and convert images. Pure. Standard library, Python 3.9.

Sources: skopeo-copy(1), skopeo-inspect(1), podman-pull(1), podman-save(1), enroot import (enroot's doc/cmd/import.md),
apptainer build, mksquashfs(1), unsquashfs(1).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trtdist.containers.image_formats import go_name
from trtdist.containers.image_sources import Registry

__all__ = [
    "apptainer_build",
    "copy",
    "enroot_import",
    "mksquashfs",
    "podman_pull",
    "podman_save",
    "skopeo",
    "skopeo_archive",
    "skopeo_digest",
    "skopeo_fetch",
    "unsquashfs",
    "unsquashfs_stat",
]


def skopeo(policies: Iterable[Path], architecture: str = "") -> list[str]:
    """skopeo with its options. Where the site has no policy for signatures, as on many login machines, it would do
    nothing unless it is told to do without."""
    trust = [] if any(policy.exists() for policy in policies) else ["--insecure-policy"]
    chosen = [f"--override-arch={go_name(architecture)}"] if architecture else []
    return ["skopeo", *trust, "--override-os=linux", *chosen]


def skopeo_digest(image: Registry) -> list[str]:
    """Prints the digest of an image of a registry; to be added to `skopeo`, as the two below."""
    return ["inspect", "--no-tags", "--format={{.Digest}}", image.reference()]


def skopeo_fetch(image: Registry, layout: Path) -> list[str]:
    """Fetches an image into the folder of an OCI layout; layers that are there already are not fetched again."""
    words = ["copy", "--quiet", "--retry-times=3", "--dest-oci-accept-uncompressed-layers"]
    return [*words, image.reference(), f"oci:{layout}:image"]


def skopeo_archive(layout: Path, name: str, archive: Path) -> list[str]:
    """Turns an OCI layout into an archive that `docker load` and `podman load` take, as `NAME:latest`."""
    return ["copy", "--quiet", f"oci:{layout}", f"docker-archive:{archive}:{name}:latest"]


def podman_pull(image: Registry, architecture: str) -> list[str]:
    """Fetches an image into podman's own store; prints its id."""
    return ["podman", "pull", "--quiet", f"--arch={go_name(architecture)}", image.reference()]


def podman_save(image: str, layout: Path) -> list[str]:
    """Writes an image of podman's own store to the folder of an OCI layout."""
    return ["podman", "save", "--quiet", "--format=oci-dir", f"--output={layout}", image]


def enroot_import(image: Registry, architecture: str, output: Path) -> list[str]:
    """Fetches an image and packs it as squashfs; an architecture only where there is a choice."""
    chosen = [f"--arch={architecture}"] if architecture else []
    return ["enroot", "import", *chosen, f"--output={output}", image.enroot_reference()]


def apptainer_build(program: str, source: str, architecture: str, output: Path) -> list[str]:
    """Builds SIF from an image of a registry, an archive or a folder; an architecture only where there is a choice."""
    chosen = [f"--arch={go_name(architecture)}"] if architecture else []
    return [program, "build", "--force", *chosen, str(output), source]


def mksquashfs(root: Path, output: Path) -> list[str]:
    """Packs a folder with what every kernel and every release of the tools can read, at its fastest. A file that cannot
    be read ends it; otherwise it would be packed as an empty one."""
    options = ["-noappend", "-no-progress", "-all-root", "-exit-on-error"]
    packing = ["-comp", "gzip", "-Xcompression-level", "1"]
    return ["mksquashfs", str(root), str(output), *options, *packing]


def unsquashfs(image: Path, offset: int, output: Path, *names: str) -> list[str]:
    """Unpacks a squashfs that begins at `offset`, or only the files that are named."""
    begin = ["-offset", str(offset)] if offset else []
    return ["unsquashfs", *begin, "-no-progress", "-no-xattrs", "-dest", str(output), str(image), *names]


def unsquashfs_stat(image: Path, offset: int) -> list[str]:
    """Prints what the superblock says."""
    begin = ["-offset", str(offset)] if offset else []
    return ["unsquashfs", *begin, "-stat", str(image)]


def copy(source: Path, output: Path) -> list[str]:
    """Copies a file or a folder with all that belongs to it."""
    return ["cp", "--archive", "--no-target-directory", "--reflink=auto", str(source), str(output)]
