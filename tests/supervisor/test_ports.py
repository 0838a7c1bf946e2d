"""Ports that are chosen are free, different, and stay so until their server listens."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtdist.errors import TrtdistError
from trtdist.supervisor import ports
from trtdist.supervisor.ports import PortClaims, candidates, taken

LOOPBACK = "127.0.0.1"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def claims() -> Iterator[PortClaims]:
    found = PortClaims()
    yield found
    found.close()


def listen(port: int) -> socket.socket:
    """A server as those in Go are: with SO_REUSEADDR."""
    return socket.create_server((LOOPBACK, port))


def test_claims_are_different_and_outside_of_outgoing_ports(claims: PortClaims) -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = claims.claim(LOOPBACK, 200)
    assert len(set(found)) == 200
    assert all(not low <= port <= high for port in found) or high - low > 60000


def test_a_server_gets_the_port_that_was_claimed_for_it(claims: PortClaims) -> None:
    (port,) = claims.claim(LOOPBACK, 1)
    assert not taken(LOOPBACK, port)
    with listen(port):
        assert taken(LOOPBACK, port)


def test_a_claimed_port_is_nobody_elses_to_claim(claims: PortClaims) -> None:
    (port,) = claims.claim(LOOPBACK, 1)
    other = PortClaims()
    with pytest.raises(TrtdistError, match="no 1 free ports"):
        other.claim(LOOPBACK, 1, [port])
    claims.release([port])
    assert other.claim(LOOPBACK, 1, [port]) == [port]
    other.close()


def test_a_port_that_somebody_listens_on_is_passed_over(claims: PortClaims) -> None:
    with listen(0) as server:
        port = server.getsockname()[1]
        with pytest.raises(TrtdistError):
            claims.claim(LOOPBACK, 1, [port])


def test_nothing_is_kept_when_there_are_not_enough(claims: PortClaims) -> None:
    one, two = claims.claim(LOOPBACK, 2)
    claims.close()
    with pytest.raises(TrtdistError):
        claims.claim(LOOPBACK, 3, [one, two])
    assert sorted(claims.claim(LOOPBACK, 2, [one, two])) == sorted([one, two])


def test_a_closed_connection_does_not_make_a_port_taken(claims: PortClaims) -> None:
    (port,) = claims.claim(LOOPBACK, 1)
    with listen(port) as server:
        client = socket.create_connection((LOOPBACK, port))
        served, _ = server.accept()
        served.close()
        client.close()
    assert not taken(LOOPBACK, port)


def test_an_address_of_another_machine_is_refused(claims: PortClaims) -> None:
    with pytest.raises(TrtdistError, match=r"cannot use the address 192\.0\.2\.1"):
        claims.claim("192.0.2.1", 1)


def test_candidates_avoid_the_range_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = tmp_path / "range"
    monkeypatch.setattr(ports, "_LOCAL_RANGE", limits)
    for text, first, last in [
        ("32768 60999", 20000, 29999),
        ("25000 60999", 20000, 24999),
        ("10000 60999", 1024, 65535),
        ("1024 65535", 1024, 65535),
        ("odd", 20000, 29999),
    ]:
        limits.write_text(text)
        found = candidates()
        assert (found[0], found[-1]) == (first, last)


def test_ten_runs_at_once_get_different_ports() -> None:
    program = (
        "import sys\nfrom trtdist.supervisor.ports import PortClaims\nclaims = PortClaims()\n"
        # So few that chance alone would not do.
        "print(*claims.claim('127.0.0.1', 4, range(29000, 29060)), flush=True)\nsys.stdin.read()"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(10)
    ]
    try:
        found = [port for run in runs if run.stdout is not None for port in run.stdout.readline().split()]
    finally:
        for run in runs:
            run.communicate(timeout=60)
    assert len(found) == 40
    assert len(set(found)) == 40
