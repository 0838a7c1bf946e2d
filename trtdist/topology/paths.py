"""Relative paths of a topology, made absolute from the folder of its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from trtdist.topology.model import EtcdSection, HttpSection, NatsSection, Topology

__all__ = ["absolute"]

_MARKED = ("./", "../", "~/")


def absolute(topology: Topology, folder: str, environ: Mapping[str, str]) -> Topology:
    """The topology with absolute paths.

    A model and an image may also be names, so only `./`, `../` and `~/` begin a path there; the source of a mount is
    always a path, as are the front end's files, and a binary is one when it has a slash.
    """
    home = environ.get("HOME", "~")

    def path(text: str) -> str:
        expanded = home + text[1:] if text == "~" or text.startswith("~/") else text
        return os.path.normpath(os.path.join(folder, expanded))

    def marked(text: str) -> str:
        return path(text) if text in (".", "..") or text.startswith(_MARKED) else text

    def binary(section: NatsSection | EtcdSection) -> Any:
        found = section.binary
        return section.model_copy(update={"binary": path(found) if found and "/" in found else found})

    def front(section: HttpSection | None) -> HttpSection | None:
        if section is None:
            return None
        files = {name: getattr(section, name) for name in ("keys", "certificate", "certificate_key")}
        return section.model_copy(update={name: path(file) for name, file in files.items() if file})

    def mount(text: str) -> str:
        source, rest = text.split(":", 1)
        return f"{path(source)}:{rest}"

    services, container = topology.services, topology.container
    image = container.image
    return topology.model_copy(
        update={
            "model": marked(topology.model),
            "router": topology.router.model_copy(update={"http": front(topology.router.http)}),
            "services": services.model_copy(update={"nats": binary(services.nats), "etcd": binary(services.etcd)}),
            "container": container.model_copy(
                update={
                    "image": marked(image) if image else image,
                    "mounts": tuple(mount(text) for text in container.mounts),
                    "env_files": {name: path(text) for name, text in container.env_files.items()},
                }
            ),
        }
    )
