"""Where mounts get a place in an image that cannot get any itself."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtdist.containers import Container, Mount
from trtdist.errors import InputError
from trtdist.supervisor.mount_points import covered

_SOMEBODY = 65534


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """With a folder that the mounts below share, and links that lead elsewhere on the host."""
    root = tmp_path / "image"
    for folder in ("run/lock", "opt/a", "etc", "var"):
        (root / folder).mkdir(parents=True)
    (root / "etc/conf").touch()
    (root / "var/run").symlink_to("/run")
    return root


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def container(image: Path, *mounts: tuple[Path, str]) -> Container:
    return Container(str(image), mounts=tuple(Mount(str(source), target) for source, target in mounts))


@pytest.fixture
def of_the_host() -> Iterator[str]:
    """A folder that the host has and no image."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield folder


def test_links_of_the_image_are_followed_in_it(image: Path, scratch: Path, source: Path, of_the_host: str) -> None:
    (image / "spool").symlink_to("/var/tmp")
    (image / "var/tmp/here").mkdir(parents=True)
    name = Path(of_the_host).name
    found, before = covered(container(image, (source, f"/spool/{name}"), (source, "/var/run/dbus")), scratch)
    covers = {mount.target: Path(mount.source) for mount in found.mounts[:2]}
    assert [mount.target for mount in found.mounts[2:]] == [of_the_host, "/run/dbus"]
    assert set(covers) == {"/run", "/var/tmp"}
    assert sorted(os.listdir(covers["/run"])) == ["dbus", "lock"]
    assert sorted(os.listdir(covers["/var/tmp"])) == sorted(["here", name])
    assert Mount(f"{image}/run/lock", f"{covers['/run']}/lock") in before


def test_what_the_image_has_needs_no_cover(image: Path, scratch: Path, source: Path) -> None:
    found, before = covered(container(image, (source, "/var/run/lock"), (source, "/opt/a")), scratch)
    assert ([mount.target for mount in found.mounts], before) == (["/run/lock", "/opt/a"], [])


def test_nothing_is_covered_in_a_folder_that_is_mounted(image: Path, scratch: Path, source: Path) -> None:
    (image / "opt/a").rmdir()
    (image / "opt/a").symlink_to("/etc")
    mounts = ((source, "/opt"), (image, "/opt/a/b"))
    with pytest.raises(InputError, match=rf"at /opt/a/b, and {source}, which is .* at /opt, .*: make {source}/a/b, or"):
        covered(container(image, *mounts), scratch)
    (source / "a/b").mkdir(parents=True)
    found, before = covered(container(image, *mounts), scratch)
    assert ([mount.target for mount in found.mounts], before) == (["/opt", "/opt/a/b"], [])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/etc/conf/x", "{image}/etc/conf is a file, so that nothing can be mounted at /etc/conf/x: correct"),
        ("/circle/x", "nothing can be mounted at /circle/x in the image {image} (links lead in a circle: "),
        ("/new/x", "the image {image} has no /new/x to mount at, and this release of charliecloud cannot make it: `mk"),
    ],
)
def test_a_place_that_cannot_be(image: Path, scratch: Path, source: Path, target: str, words: str) -> None:
    (image / "circle").symlink_to("/circle")
    with pytest.raises(InputError, match=re.escape(words.format(image=image))):
        covered(container(image, (source, target)), scratch)


@pytest.mark.parametrize("mode", [0o311, 0o600])
def test_a_folder_that_may_not_be_read(scratch: Path, source: Path, of_the_host: str, mode: int) -> None:
    folder, user = Path(of_the_host, "image/run"), os.geteuid()
    folder.mkdir(parents=True)
    Path(of_the_host).chmod(0o755)
    folder.chmod(mode)
    try:
        if user == 0:
            os.seteuid(_SOMEBODY)
        with pytest.raises(
            InputError, match=rf"mount.* at /run/dbus.*: (`chmod u\+rx {folder}`|mend the links or perm)"
        ):
            covered(container(folder.parent, (source, "/run/dbus")), scratch)
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_task_that_is_started_again_finds_nothing_of_what_it_had(image: Path, scratch: Path, source: Path) -> None:
    (image / "run/old").symlink_to("lock")
    covered(container(image, (source, "/run/dbus")), scratch)
    (image / "run/old").unlink()
    found, _ = covered(container(image, (source, "/run/other")), scratch)
    assert sorted(os.listdir(found.mounts[0].source)) == ["lock", "other"]
