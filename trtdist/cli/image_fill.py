"""Brings one image into a folder: fetched, converted, checked, and with a record of where it came from."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtdist.cli.image_pack import pack
from trtdist.cli.image_tools import first_of, run
from trtdist.cli.image_unpack import ENVIRONMENT_FILES, remove_tree, unpack
from trtdist.containers import image_argv as argv
from trtdist.containers.image_archive import file_digest, opened
from trtdist.containers.image_formats import BINARIES, Image, here, recognised, root_architecture
from trtdist.containers.image_sources import Registry, docker_name, parse_registry
from trtdist.containers.image_tree import resolved
from trtdist.errors import InputError, MissingError, TrtdistError
from trtdist.images import FILES, RECORD, ImageRecord
from trtdist.rundir import write_atomic

__all__ = ["Import", "peek", "variables"]

_PACKS, _OPENS = "packs an image", "opens an image"
# unsquashfs of a device by a normal user; a runtime brings the devices.
_NO_DEVICES = "because you're not superuser"
_FETCHED, _FETCHED_FROM = "source", "source.from"


@dataclass(frozen=True)
class Import:
    """One import: what is wanted of which source. `architecture` is the one of the nodes."""

    source: str
    name: str
    format: str
    architecture: str
    say: Callable[[str], None]

    def fill(self, part: Path) -> None:
        """Fill a folder with the image and its record. What an interrupted fetch has brought is used again, anything
        else begins anew. InputError, MissingError, TrtdistError, OSError."""
        for left in part.iterdir():
            if left.name not in (_FETCHED, _FETCHED_FROM):
                remove_tree(left)
        work = part / f"work-{secrets.token_hex(4)}"
        work.mkdir()
        output = work / FILES[self.format]
        digest = self._make(part, work, output)
        record = self._checked(output, digest, work)
        output.rename(part / output.name)
        remove_tree(work)
        write_atomic(part / RECORD, record.to_json(), 0o644)
        (part / _FETCHED_FROM).unlink(missing_ok=True)
        remove_tree(part / _FETCHED)

    def _make(self, part: Path, work: Path, output: Path) -> str:
        """Make the image; returns the digest of its source, "" where none is known."""
        registry = parse_registry(self.source)
        if registry is None:
            source = recognised(Path(self.source))
            self.refuse_other(source.architecture)
            _Conversion(self, source, work, output).run()
            return file_digest(source.path) if source.path.is_file() else ""
        program = _own_importer(self.format, registry)
        if program is None:
            source, digest = self._fetched(registry, part)
            _Conversion(self, source, work, output).run()
            return digest
        self.say(f"{program} imports {registry.reference()}")
        wanted = "" if self.architecture == here() else self.architecture
        lines = {
            "squashfs": argv.enroot_import(registry, wanted, output),
            "sif": argv.apptainer_build(program, registry.reference(), wanted, output),
        }
        run(lines[self.format], "imports an image")
        return ""

    def _fetched(self, registry: Registry, part: Path) -> tuple[Image, str]:
        """The image of a registry as an OCI layout, and its digest; layers that were fetched before stay."""
        fetches = "fetches an image from a registry"
        layout, origin = part / _FETCHED, part / _FETCHED_FROM
        program = first_of(("skopeo", "podman"), fetches)
        digest = ""
        if program == "skopeo":
            digest = run([*_skopeo(self.architecture), *argv.skopeo_digest(registry)], fetches).strip()
            registry = registry.pinned(digest)
        if not (origin.exists() and origin.read_text(encoding="utf-8") == registry.reference()):
            remove_tree(layout)
        write_atomic(origin, registry.reference())
        self.say(f"{program} fetches {registry.reference()}")
        if program == "skopeo":
            run([*_skopeo(self.architecture), *argv.skopeo_fetch(registry, layout)], fetches)
        else:
            identity = run(argv.podman_pull(registry, self.architecture), fetches).split()[-1]
            remove_tree(layout)
            run(argv.podman_save(identity, layout), fetches)
        return recognised(layout), digest

    def refuse_other(self, architecture: str) -> None:
        """InputError for an architecture that is known and another than is wanted."""
        if architecture and architecture != self.architecture:
            raise InputError(
                f"{self.source} is made for {architecture} and {self.architecture} is wanted: "
                f"take the image for {self.architecture}, or say --arch {architecture} if that is what the nodes are"
            )

    def _checked(self, output: Path, digest: str, work: Path) -> ImageRecord:
        """The record of an image that was made, after a look into it."""
        found = recognised(output)
        architecture, environment = peek(found, work / "peek")
        self.refuse_other(architecture)
        plain = output.is_file()
        return ImageRecord(
            source=self.source,
            source_digest=digest,
            format=self.format,
            size=found.size,
            digest=file_digest(output) if plain else "",
            architecture=architecture,
            imported=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            environment=tuple(sorted(environment)),
        )


@dataclass(frozen=True)
class _Conversion:
    """From what the source is to what is wanted."""

    wanted: Import
    source: Image
    work: Path
    output: Path

    def run(self) -> None:
        """Make the output. Everything that has no way of its own goes through a folder."""
        source, wanted = self.source, self.wanted.format
        layout = source.format == "archive" and source.path.is_dir()
        if source.format == "archive":
            with opened(source.path) as archive:
                self.wanted.refuse_other(archive.architecture)
        if layout and wanted == "archive":
            archived = argv.skopeo_archive(source.path, docker_name(self.wanted.name), self.output)
            run([*_skopeo(""), *archived], _PACKS)
        elif source.format == wanted:
            self.wanted.say(f"copying {source.path}")
            run(argv.copy(source.path, self.output), "copies an image")
        elif wanted == "directory":
            self._unpack(self.output)
        else:
            self._packed(source.path if source.format == "directory" else self._unpack(self.work / "root"))

    def _unpack(self, root: Path) -> Path:
        self.wanted.say(f"unpacking {self.source.path}")
        if self.source.format == "archive":
            root.mkdir()
            with opened(self.source.path) as archive:
                unpack(archive, root)
        else:
            if self.source.format == "sif" and not self.source.offset:
                raise InputError(f"{self.source.path} has no squashfs in it: let apptainer build it anew")
            _unsquash(self.source, root)
        return root

    def _packed(self, root: Path) -> None:
        wanted = self.wanted
        wanted.say(f"packing it as {wanted.format}")
        if wanted.format == "squashfs":
            run(argv.mksquashfs(root, self.output), _PACKS)
        elif wanted.format == "sif":
            program = first_of(("apptainer", "singularity"), _PACKS)
            run(argv.apptainer_build(program, str(root), "", self.output), _PACKS)
        else:
            pack(root, docker_name(wanted.name), root_architecture(root), variables(root), self.output)


def _skopeo(architecture: str) -> list[str]:
    """skopeo as this machine wants it (containers-policy.json(5))."""
    policies = (Path.home() / ".config/containers/policy.json", Path("/etc/containers/policy.json"))
    return argv.skopeo(policies, architecture)


def _own_importer(wanted: str, image: Registry) -> str | None:
    """The program of the runtime itself that fetches from registries, which knows the site's credentials and caches;
    None where it is not installed, or has none. enroot knows no digests."""
    programs = {"squashfs": ("enroot",), "sif": ("apptainer", "singularity")}.get(wanted, ())
    if wanted == "sif":
        return first_of(programs, "builds SIF")
    return next((program for program in programs if shutil.which(program) and "@" not in image.image), None)


def peek(image: Image, scratch: Path) -> tuple[str, dict[str, str]]:
    """The architecture of an image and the variables that it sets, from a few of its files, which are unpacked to
    `scratch`. InputError when it cannot be opened."""
    if image.format == "archive":
        with opened(image.path) as archive:
            return archive.architecture, archive.environment
    if image.format == "directory":
        return image.architecture or root_architecture(image.path), variables(image.path)
    if image.format == "sif" and not image.offset:
        return image.architecture, {}
    _unsquash(image, scratch, *BINARIES, *ENVIRONMENT_FILES)
    return image.architecture or root_architecture(scratch), variables(scratch)


def _unsquash(image: Image, root: Path, *names: str) -> None:
    """Unpack a squashfs, or some files of it, without the devices where only root may make them. InputError when it
    cannot be read, OSError when the disk is full."""
    try:
        run(argv.unsquashfs_stat(image.path, image.offset), _OPENS)
        run(argv.unsquashfs(image.path, image.offset, root, *names), _OPENS, _NO_DEVICES)
    except MissingError:
        raise
    except TrtdistError as error:
        raise InputError(f"the image {image.path} is damaged ({error}): import or copy it again") from error


def variables(root: Path) -> dict[str, str]:
    """The variables that the files of a root file system set, as enroot and Charliecloud read them."""
    found: dict[str, str] = {}
    for name in ENVIRONMENT_FILES:
        path = resolved(root, name)
        text = path.read_text(encoding="utf-8", errors="replace") if path is not None and path.is_file() else ""
        pairs = (line.partition("=") for line in text.splitlines())
        found |= {key.strip(): value for key, equals, value in pairs if equals and key.strip().isidentifier()}
    return found
