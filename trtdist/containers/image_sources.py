"""What can be imported, and what it is called. Pure. Standard library, Python 3.9."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from trtdist.errors import InputError

__all__ = ["Registry", "default_name", "docker_name", "parse_registry", "valid_name"]

SCHEME = "docker://"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_REFERENCE = re.compile(r"(?:[\w.$-]+@)?[\w][\w./:-]*(?:#[\w./:-]+)?(?:@sha256:[0-9a-f]{64})?", re.ASCII)
_SUFFIXES = (".tar.gz", ".tar.xz", ".tar.bz2", ".tgz", ".tar", ".sqsh", ".squashfs", ".sqfs", ".sif", ".img")


@dataclass(frozen=True)
class Registry:
    """An image in a registry; `registry` is "" for the default one, `user` only where enroot is to sign in as one."""

    registry: str
    image: str
    user: str = ""

    def reference(self) -> str:
        """As docker, podman, skopeo and apptainer write it."""
        return SCHEME + (f"{self.registry}/" if self.registry else "") + self.image

    def enroot_reference(self) -> str:
        """As enroot writes it: docker://[USER@][REGISTRY#]IMAGE[:TAG]."""
        user = f"{self.user}@" if self.user else ""
        return SCHEME + user + (f"{self.registry}#" if self.registry else "") + self.image

    def pinned(self, digest: str) -> Registry:
        """The same image by its digest (`sha256:...`), so that a tag that moves meanwhile does no harm."""
        bare = self.image.partition("@")[0]
        folder, slash, last = bare.rpartition("/")
        return Registry(self.registry, f"{folder}{slash}{last.partition(':')[0]}@{digest}", self.user)


def parse_registry(source: str) -> Registry | None:
    """The image that a docker:// URI names, also as enroot writes it; None for what is none. InputError."""
    if not source.startswith(SCHEME):
        return None
    text = source[len(SCHEME) :]
    if not _REFERENCE.fullmatch(text):
        raise InputError(f"{source} is no image of a registry: write docker://[REGISTRY/]IMAGE[:TAG]")
    user, rest = "", text
    if "@" in text and not text.partition("@")[2].startswith("sha256:"):
        user, _, rest = text.partition("@")
    if "#" in rest:
        registry, _, image = rest.partition("#")
        return Registry(registry, image, user)
    first, slash, others = rest.partition("/")
    # As docker tells a registry from a folder of its own.
    if slash and ("." in first or ":" in first or first == "localhost"):
        return Registry(first, others, user)
    return Registry("", rest, user)


def default_name(source: str) -> str:
    """The name of an image that was given none: `nvidia+tensorrt-llm+1.0` as enroot does, or that of its file."""
    registry = parse_registry(source)
    if registry is not None:
        image = registry.image.partition("@")[0]
        return re.sub(r"[/:]", "+", image)
    base = os.path.basename(os.path.abspath(source))
    suffix = next((suffix for suffix in _SUFFIXES if base.endswith(suffix)), "")
    return base[: len(base) - len(suffix)]


def docker_name(name: str) -> str:
    """What docker and podman call an image of that name: they allow fewer characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def valid_name(name: str) -> str:
    """The name itself; InputError when no image can be called that."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be the name of an image: give another with --name (letters, digits, . _ + -)"
        )
    return name
