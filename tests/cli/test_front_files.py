"""Keys and certificates that the topology names for the HTTP front end."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from trtdist.cli.front_files import front_files
from trtdist.cli.given import given_local
from trtdist.errors import InputError
from trtdist.services.authority import make_certificates
from trtdist.topology import load


def section(folder: Path, **files: str) -> dict[str, str]:
    """What a topology in `folder` gives, whose front end names these files."""
    lines = "".join(f"    {name}: {file}\n" for name, file in files.items())
    path = folder / "cluster.yaml"
    text = (
        f"name: a\nmodel: reference/tiny\nengine: reference\nservers: {{}}\nrouter:\n  http:\n    port: auto\n{lines}"
    )
    path.write_text(text)
    topology = load(path, environ={})
    assert topology.router.http is not None
    given = given_local(topology, {}, time.time())
    found = {name: text for name, text in given.secrets.items() if name.startswith("http.")}
    assert found.keys() == front_files(topology.router.http).keys()
    assert ("TRTDIST_HTTP_TLS" in given.variables) == ("http.pem" in found)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with keys and two pairs of certificate and key."""
    for name in ("one", "other"):
        made = make_certificates(time.time())
        (tmp_path / f"{name}.pem").write_text(made["server.pem"])
        (tmp_path / f"{name}.key").write_text(made["server.key"])
    (tmp_path / "keys").write_text("\n sk-one \nsk-two\n")
    return tmp_path


def test_files_are_found_from_the_topology_and_copied(folder: Path) -> None:
    made = [section(folder)["http.keys"] for _ in range(2)]
    assert all(re.fullmatch(r"sk-[0-9a-f]{64}\n", key) for key in made) and len(set(made)) == 2
    assert section(folder, keys="none") == section(folder, keys="none", host="'::1'") == {}
    found = section(folder, keys="keys", certificate="./one.pem", certificate_key="one.key")
    assert found["http.keys"] == "sk-one\nsk-two\n"
    assert found["http.pem"].startswith("-----BEGIN CERTIFICATE") and "PRIVATE KEY" in found["http.key"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"keys": "none", "host": "0.0.0.0"}, "others reach 0.0.0.0"),
        ({"keys": "nowhere"}, "nowhere cannot be read: No such file"),
        ({"keys": "empty"}, "has no keys: write one a line"),
        ({"keys": "spaces"}, "key 1 in .*spaces has other characters"),
        ({"certificate": "one.pem"}, "needs both certificate and certificate_key"),
        ({"certificate": "one.pem", "certificate_key": "other.key"}, "are no certificate with its key"),
        ({"certificate": "keys", "certificate_key": "one.key"}, "are no certificate with its key"),
        ({"certificate": "one.pem", "certificate_key": "nowhere"}, "cannot be read: No such file"),
    ],
)
def test_files_that_cannot_be_used_are_named(folder: Path, files: dict[str, str], says: str) -> None:
    (folder / "empty").write_text("\n")
    (folder / "spaces").write_text("two words\n")
    with pytest.raises(InputError, match=says):
        section(folder, **files)
