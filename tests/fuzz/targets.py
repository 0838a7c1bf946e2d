"""What is fuzzed: each target takes any bytes, and raises nothing where they are refused as documented."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import yaml

from trtdist import events
from trtdist.errors import TrtdistError
from trtdist.observe.tail import MAX_LINE, Tail, TimeIndex, offset_since, tail_offset
from trtdist.serving import etcd_wire, protocol
from trtdist.serving.heir import Heir
from trtdist.serving.wire import ProtocolError
from trtdist.topology import check_text
from trtdist.topology.importers.draft import Wishes
from trtdist.topology.importers.reading import import_files
from trtdist.topology.importers.writing import topology_text

__all__ = ["SEEDS", "TARGETS"]

_DECODERS: tuple[Callable[[bytes], object], ...] = (
    protocol.decode_call,
    protocol.decode_answer,
    protocol.decode_route_call,
    protocol.decode_route,
    protocol.decode_held,
    protocol.decode_control,
    protocol.decode_stream,
)
_ENVIRON = MappingProxyType({"HOME": "/home/somebody", "USER": "somebody"})


def wire(data: bytes) -> None:
    """Every message of the serving protocol; what is read can be written again, and reads the same."""
    for decode in _DECODERS:
        try:
            message = decode(data)
        except ProtocolError as error:
            assert "\n" not in str(error)
            continue
        again = message.encode()  # type: ignore[attr-defined]
        assert decode(again).encode() == again  # type: ignore[attr-defined]


def etcd(data: bytes) -> None:
    """What etcd's gateway answers, alone and in a stream."""
    for read in (etcd_wire.range_result, lambda raw: etcd_wire.watch_batch(etcd_wire.unwrap_stream(raw))):
        try:
            read(etcd_wire.decode_object(data))
        except etcd_wire.EtcdError as error:
            assert str(error)


def heir(data: bytes) -> None:
    """What etcd says of the run that has taken over."""
    try:
        found = Heir.from_entry(etcd_wire.KeyValue("run/components/heir", data, 1, 1, 1, 0))
    except TrtdistError as error:
        assert str(error)
        return
    assert found is not None and "/" not in found.run and all(found.etcd_endpoints)


def event_line(data: bytes) -> None:
    """A line of an event file: no event, or one whose fields are what they are said to be."""
    record = events.decode(data.decode("utf-8", "replace"))
    if record is None:
        return
    assert math.isfinite(record.time)
    assert isinstance(record.writer, str)
    for value in vars(record.event).values():
        assert value is None or type(value) in (str, int, float)
    hash(record.event)


def log(data: bytes) -> None:
    """A log with the index of its times, both of them any bytes: every byte is read once, in lines that are bounded."""
    text, _, index = data.partition(b"\0index\0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        path.write_bytes(text)
        path.with_suffix(".idx").write_bytes(index)
        lines = list(Tail(path).read_all())
        times = TimeIndex(path.with_suffix(".idx"))
        last = -1.0
        for offset, line in lines:
            assert 0 <= offset < max(1, len(text)) and "\n" not in line and len(line) <= 2 * MAX_LINE
            when = times.time_at(offset)
            assert when >= last
            last = when
        assert len(lines) == text.count(b"\n") + (text[-1:] not in (b"", b"\n"))
        for count in (0, 1, 3):
            assert len(list(Tail(path, tail_offset(path, count)).read_all())) == min(count, len(lines))
        offset_since(path, 1000.0)


def topology(data: bytes) -> None:
    """The text of a topology: whatever it is, it is one or its problems are told."""
    checked = check_text(data.decode("utf-8", "replace"), "a.yaml", environ=_ENVIRON)
    assert checked.topology is not None or checked.diagnostics


def importing(data: bytes) -> None:
    """A configuration of another launcher: what comes of it can be checked as a topology."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_bytes(data)
        try:
            text = topology_text(import_files([path], Wishes(model="org/model")), ["a.yaml"])
        except TrtdistError as error:
            assert str(error)
            return
        check_text(text, "a.yaml", environ=_ENVIRON)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wire": wire,
    "etcd": etcd,
    "heir": heir,
    "events": event_line,
    "log": log,
    "topology": topology,
    "import": importing,
}

_DEEP = b"[" * 3000
# What a fuzzer starts from, and what was found once.
SEEDS: dict[str, list[bytes]] = {
    "wire": [
        protocol.Chunk(0, 3, (1, 2), "text", "length", {"prompt_tokens": 3}).encode(),
        protocol.Credit("r", 0, 4).encode(),
        protocol.RouteCall("r", exclude=("1f",), blocks=(1, 2)).encode(),
        protocol.Held("1f", 0, (1,), (2,)).encode(),
        b'{"v":1,"attempt":0,"seq":0,"ids":[' + b"9" * 5000 + b'],"text":"\\ud800"}',
        b'{"v":1,"usage":' + _DEEP,
        b'{"v":1,"attempt":NaN,"seq":-1}',
    ],
    "etcd": [
        b'{"header":{"revision":"4"},"kvs":[{"key":"YQ==","value":"Yg==","lease":"7"}]}',
        b'{"result":{"header":{},"events":[{"type":"DELETE","kv":{"key":"YQ=="}}]}}',
        b'{"error":{"grpc_code":5,"message":"lease not found"}}',
        b'{"kvs":' + _DEEP,
    ],
    "heir": [
        b'{"run": "a-1", "nats": "tls://10.0.0.1:4222", "etcd": ["https://10.0.0.1:2379"]}',
        b'{"run": "a/../b", "nats": 1, "etcd": [null]}',
        b'{"etcd": ' + _DEEP,
    ],
    "events": [
        b'{"time":1.5,"writer":"a","type":"task_exited","step":"s","name":"n","pid":4,"code":null,"signal":9}',
        b'{"time":' + b"9" * 400 + b',"writer":"a","type":"ready"}',
        b'{"time":NaN,"writer":"a","type":"ready"}',
        b'{"time":1,"writer":"a","type":"rung","name":["a"],"rung":{}}',
        _DEEP,
    ],
    "log": [b"one\ntwo\r\n\xff\xfe\nlast\0index\x000 999.5\n4 1000.5\nx y\n8 nan\n-3 inf\n", b"\n\n\n", b""],
    "topology": [
        b"name: a\nmodel: org/m\nengine: reference\nservers: {num_instances: 2}\n",
        b"a: &a [*a]\n",
        b"name: [" + _DEEP,
        b"<<: {}\n? [a]\n: b\nname: !!binary x\n",
    ],
    "import": [
        b"context_servers: {num_instances: 1, tensor_parallel_size: 2}\ngeneration_servers: {num_instances: 1}\n",
        yaml.safe_dump({"tensor_parallel_size": 2, "kv_cache_config": {"free_gpu_memory_fraction": 0.5}}).encode(),
        b"a: 1e999\n" + os.linesep.encode(),
    ],
}
