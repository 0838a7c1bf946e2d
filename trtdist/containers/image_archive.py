"""Images as layers: archives of `docker save`, OCI archives, and OCI layouts in a folder. Standard library, Python 3.9.

Sources: the OCI image layout and image specification 1.0, and the Docker image specification 1.2 (manifest.json).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable

from trtdist.containers.image_formats import architecture_name
from trtdist.errors import InputError

__all__ = ["Archive", "HashedReader", "Layer", "file_digest", "opened"]

_MAX_JSON = 16 << 20
_BLOCK = 8 << 20
_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_ZSTD = b"\x28\xb5\x2f\xfd"


class HashedReader:
    """Reads through to a file and keeps the SHA-256 digest of all that was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        block = self._file.read(size)
        self._sum.update(block)
        return block

    def digest(self) -> str:
        """The digest of all that was read so far, as `sha256:...`."""
        return f"sha256:{self._sum.hexdigest()}"


def file_digest(path: Path) -> str:
    """The SHA-256 digest of a file, as `sha256:...`."""
    with path.open("rb") as file:
        reader = HashedReader(file)
        while reader.read(_BLOCK):
            continue
    return reader.digest()


@dataclass(frozen=True)
class Layer:
    """One layer: its name in the archive, and the digest of its tar file (`sha256:...`, "" when not told)."""

    name: str
    digest: str


@dataclass(frozen=True)
class Archive:
    """An image of layers, the lowest first. `environment` is what it sets, `digest` that of its configuration."""

    path: Path
    digest: str
    architecture: str
    environment: dict[str, str]
    layers: tuple[Layer, ...]
    _open: Callable[[str], IO[bytes]]

    def layer(self, layer: Layer) -> IO[bytes]:
        """The tar file of a layer, whatever it is packed with. InputError for a packing that Python cannot undo."""
        file = self._open(layer.name)
        start = file.read(8)
        file.seek(0)
        if start.startswith(_ZSTD):
            raise InputError(
                f"a layer of {self.path} is packed with zstd, which is not read here: "
                f"save it with `skopeo copy oci-archive:{self.path} docker-archive:OTHER.tar`, or `docker save`"
            )
        return next((undo(file) for magic, undo in _COMPRESSED.items() if start.startswith(magic)), file)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The image in an archive, or in the folder of an OCI layout. InputError when it is none, or not all of it."""
    try:
        with ExitStack() as stack:
            if path.is_dir():
                yield _read(path, lambda name: stack.enter_context((path / name).open("rb")))
            else:
                yield _read(path, _member_of(stack.enter_context(tarfile.open(path))))
    except (tarfile.ReadError, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"the archive {path} is damaged or was cut off ({error}): save or copy it again") from error


def _member_of(file: tarfile.TarFile) -> Callable[[str], IO[bytes]]:
    names = {os.path.normpath(member.name): member for member in file}

    def member(name: str) -> IO[bytes]:
        found = names.get(os.path.normpath(name))
        content = file.extractfile(found) if found is not None else None
        if content is None:
            raise FileNotFoundError(2, "is not in it", name)
        return content

    return member


def _read(path: Path, member: Callable[[str], IO[bytes]]) -> Archive:
    try:
        try:
            found = _json(member("manifest.json"))
        except FileNotFoundError:
            return _oci(path, member)
        return _docker(path, found, member)
    except FileNotFoundError as error:
        raise InputError(
            f"the archive {path} is no image of docker or OCI, or was cut off, since {error.filename} is not in it: "
            "save or copy it again"
        ) from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the archive {path} describes no image that is known ({error!r}): save it again") from error


def _docker(path: Path, manifests: Any, member: Callable[[str], IO[bytes]]) -> Archive:
    if len(manifests) != 1:
        names = ", ".join(str((each.get("RepoTags") or ["?"])[0]) for each in manifests)
        raise InputError(f"{path} holds {len(manifests)} images ({names}): save the one that is wanted alone")
    manifest = manifests[0]
    return _archive(path, member(manifest["Config"]).read(_MAX_JSON), list(manifest["Layers"]), member)


def _oci(path: Path, member: Callable[[str], IO[bytes]]) -> Archive:
    index = _json(member("index.json"))
    while "manifests" in index:
        listed = [each for each in index["manifests"] if _is_image(each)]
        if len(listed) != 1:
            raise InputError(f"{path} holds {len(listed)} images: save the one that is wanted alone")
        index = _json(member(_blob(listed[0]["digest"])))
    layers = [_blob(layer["digest"]) for layer in index["layers"]]
    return _archive(path, member(_blob(index["config"]["digest"])).read(_MAX_JSON), layers, member)


def _is_image(listed: Any) -> bool:
    """Whether an entry of an index is an image; build tools add attestations, whose platform is unknown."""
    return bool(listed.get("platform", {}).get("architecture") != "unknown")


def _archive(path: Path, text: bytes, names: list[str], member: Callable[[str], IO[bytes]]) -> Archive:
    config = json.loads(text)
    digests = config.get("rootfs", {}).get("diff_ids", [])
    layers = tuple(Layer(name, digests[i] if len(digests) == len(names) else "") for i, name in enumerate(names))
    set_by_it = [text.partition("=") for text in config.get("config", {}).get("Env") or []]
    return Archive(
        path=path,
        digest=f"sha256:{hashlib.sha256(text).hexdigest()}",
        architecture=architecture_name(config.get("architecture", "")),
        environment={name: value for name, _, value in set_by_it},
        layers=layers,
        _open=member,
    )


def _blob(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"blobs/{kind}/{value}"


def _json(file: IO[bytes]) -> Any:
    return json.loads(file.read(_MAX_JSON))
