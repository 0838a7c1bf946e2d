"""Ranks that reach each other over TCP, under a real mpiexec, and somebody else who knocks at their ports."""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.engines.real_run import DEADLINE_S, RealRun, mpiexec, until
from tests.engines.test_mpi import across, check
from tests.engines.topologies import disaggregated
from tests.strangers import let_in
from trtdist.engines.reference.meeting import over_tcp
from trtdist.sockets import LISTENING, held, tcp_sockets

OVER_TCP = "self,tcp"
KEY = b"k" * 32


def doors(pids: list[int]) -> set[tuple[str, int]]:
    """Where these processes listen on all interfaces, as somebody on this machine gets there."""
    mine = {inode for pid in pids for inode in held(pid)}
    found = set()
    for each in tcp_sockets():
        address, port = each.local.split(":")
        if each.state == LISTENING and each.inode in mine and not address.strip("0"):
            found.add(("127.0.0.1" if len(address) == 8 else "::1", int(port, 16)))
    return found


def test_a_world_works_behind_closed_doors() -> None:
    with RealRun(disaggregated("mpi_world", 2, 1), OVER_TCP) as run:
        check(run, across(run))
        ranks = [run.pid("ctx.0"), run.pid("ctx.0", 1), run.pid("gen.0")]
        assert len(doors(ranks)) >= len(ranks)
        assert [door for door in doors(ranks) if let_in(*door)] == []
        check(run, across(run))
        assert run.stop() < 60


@pytest.mark.long
@pytest.mark.parametrize(("context", "generation", "ways"), [(2, 4, OVER_TCP), (4, 2, "self,sm,tcp")])
def test_larger_worlds_work_behind_closed_doors(context: int, generation: int, ways: str) -> None:
    with RealRun(disaggregated("mpi_world", context, generation), ways) as run:
        for _ in range(3):
            check(run, across(run))
        ranks = [run.pid("ctx.0", rank) for rank in range(context)]
        assert [door for door in doors(ranks) if let_in(*door)] == []
        assert run.stop() < 60


class Meeting:
    """Three ranks that have started MPI and wait to meet."""

    def __init__(self, folder: Path, keys: tuple[bytes, ...] = (KEY,) * 3, inside: tuple[str, ...] = ()) -> None:
        self._folder = folder
        for rank, key in enumerate(keys):
            (folder / f"key.{rank}").write_bytes(key)
        program = Path(__file__).with_name("meeting_program.py")
        self.launcher = mpiexec(len(keys), [str(program), str(folder)], folder, folder / "log", OVER_TCP, inside)

    def ports(self, rank: int) -> list[int]:
        """First the one of the program, then those of its MPI."""
        path = self._folder / f"ports.{rank}"
        until(lambda: path.exists() or self.launcher.poll() is not None, "a rank that has started MPI")
        return list(map(int, path.read_text().split()))

    def outcome(self) -> tuple[int, str]:
        """Let them meet; the exit code of the launcher, and what the ranks say."""
        (self._folder / "go").touch()
        code = self.launcher.wait(DEADLINE_S)
        return code, (self._folder / "log").read_text(errors="replace")


@contextlib.contextmanager
def meeting(keys: tuple[bytes, ...] = (KEY,) * 3, inside: tuple[str, ...] = ()) -> Iterator[Meeting]:
    # Open MPI makes sockets in it, whose names may not be long.
    with tempfile.TemporaryDirectory(prefix="trt-meeting-") as folder:
        found = Meeting(Path(folder), keys, inside)
        children = []
        try:
            found.ports(len(keys) - 1)
            children = psutil.Process(found.launcher.pid).children(recursive=True)
            yield found
        finally:
            found.launcher.terminate()
            _, alive = psutil.wait_procs(children, timeout=30)
            for child in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            found.launcher.wait()


def test_who_has_not_the_key_is_no_rank() -> None:
    with meeting((KEY, KEY, b"another" + KEY)) as ranks:
        code, said = ranks.outcome()
    assert code != 0
    # Each finds that of the other: who is first ends the world.
    assert re.search(r"what says to be rank \d of the MPI world does not have the key of the run", said)
    assert "has met the others" not in said


@pytest.mark.parametrize(
    ("given", "does"),
    [("self,sm", False), ("self, tcp", True), ("^openib", True), ("^sm,tcp", False), ("tcp,self", True)],
)
def test_whether_ranks_reach_each_other_over_tcp(given: str, does: bool) -> None:
    assert over_tcp({"OMPI_MCA_btl": given}) is does
    assert over_tcp({})


@pytest.mark.long
def test_who_came_before_ends_the_world() -> None:
    with meeting() as ranks, socket.create_connection(("127.0.0.1", ranks.ports(1)[0]), timeout=30) as stranger:
        code, said = ranks.outcome()
        assert code != 0
        assert f"127.0.0.1 port {stranger.getsockname()[1]} is connected to MPI of rank 1" in said
        assert "has met the others" not in said


@pytest.mark.long
@pytest.mark.parametrize("noise", [b"", b"\xff junk \0" * 4096, b"GET / HTTP/1.1\r\n\r\n"])
def test_noise_in_the_first_moments_that_ends_is_nothing(noise: bytes) -> None:
    with meeting() as ranks:
        for _, *ports in map(ranks.ports, range(3)):
            with socket.create_connection(("127.0.0.1", ports[0]), timeout=30) as stranger:
                stranger.sendall(noise)
        code, said = ranks.outcome()
    assert (code, said.count("has met the others")) == (0, 3), said


@pytest.mark.long
def test_ranks_whose_nodes_share_many_networks_need_no_more_than_they_opened() -> None:
    networks = "".join(
        f"ip link add a{n} type veth peer name b{n} && ip address add 10.9.{n}.1/24 dev a{n}"
        f" && ip link set a{n} up && ip link set b{n} up && "
        for n in range(14)
    )
    inside = ("unshare", "--map-root-user", "--net", "sh", "-c", f'ip link set lo up && {networks}exec "$@"', "sh")
    with meeting((KEY, KEY), inside) as ranks:
        code, said = ranks.outcome()
    assert (code, said.count("has met the others")) == (0, 2), said


@pytest.mark.long
def test_who_holds_up_the_ranks_is_given_up_on() -> None:
    with meeting() as ranks, socket.create_connection(("127.0.0.1", ranks.ports(0)[1]), timeout=30) as stranger:
        stranger.sendall(b"OPAL")
        code, said = ranks.outcome()
    assert code != 0
    assert "within 60 s of the start" in said and "somebody else holds up their ports" in said
