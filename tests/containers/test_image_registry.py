"""Images of a registry, which is a real one on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.containers.small_images import docker_archive, elf, layer, tree
from tests.images import program_or_skip, unpacked_or_skip
from tests.serving.servers import die_with_parent, free_ports
from tests.supervisor.runs import wait_for
from trtdist.cli.image import command
from trtdist.errors import TrtdistError
from trtdist.images import read_record

SMALL = layer({"bin/sh": elf(), "etc/name": b"one"})
CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: 127.0.0.1:{port}}}
log: {{level: error, accesslog: {{disabled: true}}}}
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty registry, which skopeo may speak to without TLS; images go to `images`."""
    program_or_skip("skopeo")
    program = unpacked_or_skip("docker-registry") / "usr/bin/docker-registry"
    (port,) = free_ports(1)
    (tmp_path / "registry.yml").write_text(CONFIG.format(folder=tmp_path / "registry", port=port))
    address = f"localhost:{port}"
    (tmp_path / "home/.config/containers").mkdir(parents=True)
    settings = f'[[registry]]\nlocation = "{address}"\ninsecure = true\n'
    (tmp_path / "home/.config/containers/registries.conf").write_text(settings)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    monkeypatch.setenv("TRTDIST_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("TRTDIST_SITE", "")
    server = subprocess.Popen(
        [program, "serve", tmp_path / "registry.yml"], stderr=subprocess.PIPE, preexec_fn=die_with_parent
    )
    try:
        wait_for(lambda: answers(address), 30, "the registry to answer")
        yield address
    finally:
        server.kill()
        server.communicate()


def answers(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://{address}/v2/", timeout=5):
        return True
    return False


def push(archive: Path, name: str) -> None:
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", f"docker-archive:{archive}", f"docker://{name}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def image(*arguments: str) -> str:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False).stdout


def test_an_image_of_a_registry(registry: str, tmp_path: Path) -> None:
    push(docker_archive(tmp_path / "a.tar", [SMALL], environment=["A=1"]), f"{registry}/team/small:1")
    options = ["--format", "directory", "--arch", "x86_64"]
    root = Path(image("import", f"docker://{registry}/team/small:1", *options).strip())
    assert root == tmp_path / "images" / "team+small+1" / "root"
    assert tree(root)["etc/name"] == b"one" and tree(root)["ch/environment"] == b"A=1\n"
    record = read_record(root.parent)
    assert record is not None and record.source_digest.startswith("sha256:") and record.environment == ("A",)
    packed = ["--format", "archive", "--arch", "x86_64", "--name", "Team+packed"]
    archive = Path(image("import", f"docker://{registry}#team/small:1", *packed).strip())
    again = Path(image("import", str(archive), *options, "--name", "again").strip())
    assert tree(again) == tree(root)
    with pytest.raises(TrtdistError, match=r"skopeo, which fetches an image from a registry, failed: .*unknown"):
        image("import", f"docker://{registry}/team/other:1", *options)


@pytest.mark.long
def test_layers_that_were_fetched_before_a_kill_are_not_fetched_again(registry: str, tmp_path: Path) -> None:
    layers = [layer({f"ballast{number}": os.urandom(24 << 20)}) for number in range(3)]
    push(docker_archive(tmp_path / "b.tar", [SMALL, *layers]), f"{registry}/big:1")
    words = ["image", "import", f"docker://{registry}/big:1", "--name", "big", "--format", "directory"]
    argv = [sys.executable, "-m", "trtdist.cli", *words, "--arch", "x86_64"]
    blobs, pushed = tmp_path / "images/.big.part/source/blobs/sha256", layers_of(registry)

    def fetched() -> set[str]:
        return pushed.intersection(os.listdir(blobs) if blobs.is_dir() else ())

    first = subprocess.Popen(argv, stderr=subprocess.PIPE)
    wait_for(lambda: bool(fetched()), 60, "the first layer")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert image("list") == ""
    for name in fetched():
        (tmp_path / f"registry/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data").unlink()
    second = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 0, second.stderr
    root = Path(second.stdout.strip())
    assert sorted(path.name for path in root.glob("ballast*")) == ["ballast0", "ballast1", "ballast2"]
    assert os.listdir(tmp_path / "images") == ["big"]


def layers_of(registry: str) -> set[str]:
    """The digests of the layers of the big image."""
    accepted = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
    request = urllib.request.Request(f"http://{registry}/v2/big/manifests/1", headers={"Accept": accepted})
    with urllib.request.urlopen(request, timeout=10) as answer:
        manifest = json.loads(answer.read())
    return {each["digest"].partition(":")[2] for each in manifest["layers"]}
