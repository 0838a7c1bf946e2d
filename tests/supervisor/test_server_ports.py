"""Where servers that are not ours listen."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.planning.topologies import section, topology
from trtdist.errors import TrtdistError
from trtdist.plan import Plan
from trtdist.planning import Target, plan
from trtdist.supervisor.facts import Node
from trtdist.supervisor.nodeprobe import Unusable, free_ports
from trtdist.supervisor.ports import PortClaims
from trtdist.supervisor.server_ports import door_of, ports_asked, server_addresses

HTTP = {"TRTDIST_HTTP_HOST": "127.0.0.1", "TRTDIST_HTTP_PORT": "8000"}


def planned(**given: Any) -> Plan:
    asked = {"runtime": "trtllm-serve", "launch": "per_server", "slurm": {"gpus_per_node": 2}, **given}
    return plan(topology(**asked), Target.SLURM)


def split() -> Plan:
    return planned(context_servers=section(2, 1), generation_servers=section(1, 2))


def test_each_server_has_two_ports_on_the_node_of_its_leader() -> None:
    found = split()
    assert ports_asked(found) == (4, 2) and door_of(found) == ""
    nodes = [Node("a", "10.0.0.1", ports=(1, 2, 3, 4)), Node("b", "10.0.0.2", ports=(5, 6))]
    assert server_addresses(found, nodes, HTTP, PortClaims()) == {
        "TRTDIST_ENDPOINTS": "ctx.0=10.0.0.1:4 ctx.1=10.0.0.1:2 gen.0=10.0.0.2:6",
        "TRTDIST_MASTERS": "ctx.0=3 ctx.1=1 gen.0=5",
    }


def test_on_one_machine_they_are_free_and_nobody_holds_them() -> None:
    found = plan(topology(runtime="dynamo", launch="per_server", servers=section(2, fraction=0.4)), Target.LOCAL)
    claims = PortClaims()
    values = server_addresses(found, [Node("here", "127.0.0.1")], HTTP, claims)
    for pair in values["TRTDIST_ENDPOINTS"].split():
        host, _, port = pair.partition("=")[2].rpartition(":")
        with socket.socket() as server:
            server.bind((host, int(port)))


def test_a_server_that_users_ask_listens_where_they_do() -> None:
    alone = planned()
    values = server_addresses(alone, [Node("a", "10.0.0.1", ports=(1, 2))], HTTP, PortClaims())
    assert door_of(alone) == "srv.0" and values["TRTDIST_ENDPOINTS"] == "srv.0=127.0.0.1:8000"


def test_addresses_with_colons_are_refused() -> None:
    with pytest.raises(TrtdistError, match=r"trtllm-serve knows IPv4 alone, and the run would use fd00::1"):
        server_addresses(planned(), [Node("a", "fd00::1", ports=(1, 2))], HTTP, PortClaims())


def test_free_ports_are_free_and_no_more_than_there_are() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unusable, match=f"has no 1 free ports from {port} to {port}: widen network.port_range"):
            free_ports("127.0.0.1", 1, port, port)
    found = free_ports("127.0.0.1", 3, 20000, 29999)
    assert len(set(found)) == 3 and all(20000 <= one <= 29999 for one in found)
