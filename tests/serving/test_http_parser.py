"""The parser of requests: what is well-formed is read alike however it is cut, what is not is refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.serving.front.parser import MAX_HEAD_BYTES, MAX_HEADERS, HttpRefusal, Request, RequestParser

SOME = settings(max_examples=60, deadline=None)
MOST = 1000
TOKEN = st.text("abcdefgxyz-_09", min_size=1, max_size=12)
RESERVED = {"host", "content-length", "transfer-encoding", "expect", "connection", "content-type", "authorization"}
HEADERS = st.lists(
    st.tuples(TOKEN.filter(lambda name: name not in RESERVED), st.text("abc ,;=/\t\xe4", max_size=20)), max_size=6
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A well-formed request."""
    path = "/" + draw(st.text("abc/?&=%20.", max_size=20)).replace(" ", "")
    body = draw(st.binary(max_size=200))
    lines = [f"{draw(st.sampled_from(['GET', 'POST']))} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name}:{draw(st.sampled_from(['', ' ']))}{value}" for name, value in draw(HEADERS)]
    if draw(st.booleans()):
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}"])
        return head.encode("latin-1") + b"\r\n\r\n" + body
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked"]).encode("latin-1") + b"\r\n\r\n"
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)])]
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(one), one) for one in pieces if one)
    return head + chunks + b"0\r\nTrailer: x\r\n\r\n"


def parse(data: bytes, cuts: list[int]) -> list[Request]:
    """What a parser makes of bytes that come in pieces."""
    parser = RequestParser(MOST)
    found: list[Request] = []
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in zip(places, places[1:]):
        parser.feed(data[start:end])
        while (request := parser.next()) is not None:
            found.append(request)
    return found


def oracle(data: bytes) -> tuple[str, str, bytes]:
    """What h11 makes of one request."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    connection.receive_data(b"")
    head, body = connection.next_event(), b""
    assert isinstance(head, h11.Request)
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return head.method.decode(), head.target.decode(), body


@SOME
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=8))
def test_requests_are_read_as_another_parser_reads_them_however_they_are_cut(
    many: list[bytes], cuts: list[int]
) -> None:
    found = parse(b"".join(many), cuts)
    assert [(one.method, one.target, one.body) for one in found] == [oracle(one) for one in many]


@SOME
@given(requests(), st.data())
def test_damaged_requests_are_refused_or_read_but_never_worse(request: bytes, data: st.DataObject) -> None:
    damaged = bytearray(request)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + 1] = data.draw(st.binary(max_size=3))
        damaged = damaged or bytearray(b"x")
    try:
        parse(bytes(damaged), data.draw(st.lists(st.integers(0, 5000), max_size=4)))
    except HttpRefusal as refusal:
        assert refusal.status in (400, 413, 414, 417, 431, 501, 505) and str(refusal)


@SOME
@given(st.binary(max_size=300))
def test_noise_is_refused_or_waits_for_more(noise: bytes) -> None:
    try:
        assert parse(noise, []) == [] or noise.lstrip(b"\r\n")[:1].isalpha()
    except HttpRefusal as refusal:
        assert 400 <= refusal.status < 600


BAD = [
    ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: x\n\n", 400),
    ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: b\nc: d\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + "1;" + "a" * 300, 400),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413),
    (f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {MOST + 1}\r\n\r\n", 413),
    ("POST / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 417),
    ("GET /" + "a" * 9000, 414),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: " + "b" * MAX_HEAD_BYTES, 431),
    ("GET / HTTP/1.1\r\nHost: x\r\n" + "a: b\r\n" * MAX_HEADERS + "\r\n", 431),
]


@pytest.mark.parametrize(("text", "status"), BAD, ids=[f"{status}-{number}" for number, (_, status) in enumerate(BAD)])
@pytest.mark.parametrize("pieces", [1, 200])
def test_what_breaks_the_rules_is_refused(text: str, status: int, pieces: int) -> None:
    data = text.encode("latin-1")
    with pytest.raises(HttpRefusal) as caught:
        assert parse(data, list(range(0, len(data), max(1, len(data) // pieces)))) == []
    assert caught.value.status == status


def test_keeping_alive_follows_version_and_header() -> None:
    for head, keeps in (
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n", False),
        ("GET / HTTP/1.0\r\n\r\n", False),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ):
        (request,) = parse(head.encode(), [])
        assert request.keep_alive is keeps
