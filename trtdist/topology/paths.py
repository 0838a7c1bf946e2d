"""Relative paths of a topology, made absolute from the folder of its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from trtdist.topology.model import NO_KEYS, EtcdSection, HttpSection, NatsSection, Topology

__all__ = ["absolute"]

_MARKED = ("./", "../", "~/")


def absolute(topology: Topology, folder: str, environ: Mapping[str, str]) -> Topology:
    """The topology with absolute paths.

    A model and an image may also be names, so only `./`, `../` and `~/` begin a path there; the source of a mount is
    always a path, as are the front end's files, and a binary is one when it has a slash.
    """
    to = _Places(folder, environ.get("HOME", "~"))
    services, container, router = topology.services, topology.container, topology.router
    image, http = container.image, router.http
    inside = {
        "image": to.marked(image) if image else image,
        "mounts": tuple(to.mount(text) for text in container.mounts),
        "env_files": {name: to.path(text) for name, text in container.env_files.items()},
    }
    return topology.model_copy(
        update={
            "model": to.marked(topology.model),
            "router": router.model_copy(update={"http": http and http.model_copy(update=to.front_files(http))}),
            "services": services.model_copy(update={"nats": _own(to, services.nats), "etcd": _own(to, services.etcd)}),
            "container": container.model_copy(update=inside),
        }
    )


@dataclass(frozen=True)
class _Places:
    """Where paths lead from the folder of a file and somebody's home."""

    folder: str
    home: str

    def path(self, text: str) -> str:
        expanded = self.home + text[1:] if text == "~" or text.startswith("~/") else text
        return os.path.normpath(os.path.join(self.folder, expanded))

    def marked(self, text: str) -> str:
        return self.path(text) if text in (".", "..") or text.startswith(_MARKED) else text

    def mount(self, text: str) -> str:
        source, rest = text.split(":", 1)
        return f"{self.path(source)}:{rest}"

    def front_files(self, section: HttpSection) -> dict[str, str]:
        files = {name: getattr(section, name) for name in ("keys", "certificate", "certificate_key")}
        return {name: self.path(file) for name, file in files.items() if file and file != NO_KEYS}


_S = TypeVar("_S", NatsSection, EtcdSection)


def _own(to: _Places, section: _S) -> _S:
    found = section.binary
    return section.model_copy(update={"binary": to.path(found) if found and "/" in found else found})
