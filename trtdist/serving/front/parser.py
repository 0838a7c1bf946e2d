"""HTTP/1.1 requests out of bytes: strict where two readers could differ, and bounded in everything.

Follows RFC 9112. Refused are, beside what is malformed: line ends other than CRLF, folded headers, both or repeated
Content-Length and Transfer-Encoding, and a Host that is missing or repeated. Nothing here touches the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MAX_HEAD_BYTES", "HttpRefusal", "Request", "RequestParser"]

MAX_HEAD_BYTES, MAX_LINE_BYTES, MAX_HEADERS = 32 * 1024, 8 * 1024, 100
_MAX_CHUNK_LINE = 256
_MAX_EMPTY_LINES = 4

_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]+) HTTP/(\d)\.(\d)")
_HEADERS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*")
_LENGTH = re.compile(r"\d{1,15}", re.ASCII)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class HttpRefusal(Exception):
    """The other side broke HTTP or a limit: the status to answer with, and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A whole request; header names are in lower case, the values of repeated ones joined by commas."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    minor: int
    keep_alive: bool

    @property
    def path(self) -> str:
        """The target without what follows `?`."""
        return self.target.partition("?")[0]


@dataclass(frozen=True)
class _Head:
    method: str
    target: str
    headers: Mapping[str, str]
    minor: int
    # Bytes of the body, None when it comes in chunks.
    length: int | None


class RequestParser:
    """Takes bytes, gives requests one at a time; `most` bounds a body in bytes.

    What follows a request stays unread in `waiting` until the next is asked for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._data = bytearray()
        self._searched = 0
        self._head: _Head | None = None
        self._body = bytearray()
        self._trailers = -1

    @property
    def waiting(self) -> int:
        """Bytes that are kept: of a request that is not complete, and of those behind it."""
        return len(self._data) + len(self._body)

    @property
    def begun(self) -> bool:
        """Whether a part of a request is there."""
        return bool(self._data) or self._head is not None

    @property
    def awaits_body(self) -> bool:
        """Whether a head is complete and its body is not."""
        return self._head is not None

    @property
    def wants_continue(self) -> bool:
        """Whether the client waits to be told that it may send the body."""
        head = self._head
        return head is not None and "expect" in head.headers and head.minor > 0 and not self._data and not self._body

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._data += data

    def next(self) -> Request | None:
        """The next request once it is complete; HttpRefusal when it cannot become one."""
        if self._head is None:
            self._head = self._read_head()
        head = self._head
        if head is None or not (self._read_chunks() if head.length is None else self._read_length(head.length)):
            return None
        body, self._body, self._head, self._trailers = bytes(self._body), bytearray(), None, -1
        return Request(head.method, head.target, head.headers, body, head.minor, _keeps_alive(head))

    def _read_head(self) -> _Head | None:
        data = self._data
        for _ in range(_MAX_EMPTY_LINES):
            if data[:2] != b"\r\n":
                break
            del data[:2]
        end = data.find(b"\r\n\r\n", max(0, self._searched - 3), MAX_HEAD_BYTES)
        if end < 0:
            self._refuse_endless()
            self._searched = len(data)
            return None
        line_end = data.find(b"\r\n")
        line, headers = bytes(data[:line_end]), bytes(data[line_end + 2 : end + 2])
        del data[: end + 4]
        self._searched = 0
        method, target, minor = _read_line(line)
        return _checked(method, target, _read_headers(headers), minor, self._most)

    def _refuse_endless(self) -> None:
        data = self._data
        line_end = data.find(b"\n", 0, MAX_LINE_BYTES)
        if line_end < 0 and len(data) >= MAX_LINE_BYTES:
            raise HttpRefusal(414, f"the request line is longer than {MAX_LINE_BYTES} bytes")
        if line_end >= 0:
            # Said at once: a client that ends its lines otherwise would wait for ever.
            _read_line(bytes(data[: line_end - 1]) if data[:line_end].endswith(b"\r") else b"")
        if len(data) >= MAX_HEAD_BYTES:
            raise HttpRefusal(431, f"the headers are larger than {MAX_HEAD_BYTES} bytes")

    def _read_length(self, length: int) -> bool:
        if len(self._data) < length:
            return False
        self._body = self._data[:length]
        del self._data[:length]
        return True

    def _read_chunks(self) -> bool:
        data = self._data
        place = 0
        try:
            while self._trailers < 0:
                end = _line_end(data, place, _MAX_CHUNK_LINE)
                if end < 0:
                    return False
                match = _CHUNK.fullmatch(data, place, end)
                if match is None:
                    raise HttpRefusal(400, "a chunk of the body does not begin with its length")
                size = int(match.group(1), 16)
                if len(self._body) + size > self._most:
                    raise _too_large(self._most)
                start = end + 2
                if size == 0:
                    self._trailers, place = 0, start
                    break
                if len(data) < start + size + 2:
                    return False
                if data[start + size : start + size + 2] != b"\r\n":
                    raise HttpRefusal(400, "a chunk of the body is longer than announced")
                self._body += data[start : start + size]
                place = start + size + 2
        finally:
            del data[:place]
        return self._read_trailers()

    def _read_trailers(self) -> bool:
        """Lines after the last chunk are read and dropped."""
        data = self._data
        while True:
            end = _line_end(data, 0, MAX_LINE_BYTES)
            if end < 0:
                return False
            line = bytes(data[: end + 2])
            del data[: end + 2]
            if line == b"\r\n":
                return True
            self._trailers += len(line)
            if self._trailers > MAX_HEAD_BYTES or not _HEADERS.fullmatch(line):
                raise HttpRefusal(400, "what follows the body is no header")


def _line_end(data: bytearray, place: int, most: int) -> int:
    end = data.find(b"\r\n", place, place + most)
    if end < 0 and len(data) - place >= most:
        raise HttpRefusal(400, "a line within the body is too long")
    return end


def _too_large(most: int) -> HttpRefusal:
    return HttpRefusal(413, f"the body is larger than {most} bytes")


def _read_line(line: bytes) -> tuple[str, str, int]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise HttpRefusal(400, "the request does not begin with METHOD TARGET HTTP/1.1")
    if match.group(3) != b"1":
        raise HttpRefusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if len(line) > MAX_LINE_BYTES:
        raise HttpRefusal(414, f"the request line is longer than {MAX_LINE_BYTES} bytes")
    return match.group(1).decode("ascii"), match.group(2).decode("ascii"), min(1, int(match.group(4)))


def _read_headers(data: bytes) -> dict[str, str]:
    if not _HEADERS.fullmatch(data):
        raise HttpRefusal(400, "a header line is malformed")
    lines = data.decode("latin-1").split("\r\n")
    lines.pop()
    if len(lines) > MAX_HEADERS:
        raise HttpRefusal(431, f"there are more than {MAX_HEADERS} headers")
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name not in found:
            found[name] = value
        elif name in ("host", "content-length", "transfer-encoding", "content-type", "authorization"):
            raise HttpRefusal(400, f"the header {name} is there twice")
        else:
            found[name] = f"{found[name]}, {value}"
    return found


def _checked(method: str, target: str, headers: Mapping[str, str], minor: int, most: int) -> _Head:
    if "host" not in headers and minor > 0:
        raise HttpRefusal(400, "the header Host is missing")
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise HttpRefusal(417, "the only expectation that can be met is 100-continue")
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None or minor == 0:
            raise HttpRefusal(400, "Transfer-Encoding does not go with Content-Length or HTTP/1.0")
        if coding.lower() != "chunked":
            raise HttpRefusal(501, "the only transfer coding that is understood is chunked")
        return _Head(method, target, headers, minor, None)
    if length is None:
        return _Head(method, target, headers, minor, 0)
    if not _LENGTH.fullmatch(length):
        raise HttpRefusal(400, "Content-Length is no number")
    if int(length) > most:
        raise _too_large(most)
    return _Head(method, target, headers, minor, int(length))


def _keeps_alive(head: _Head) -> bool:
    wanted = head.headers.get("connection", "").lower()
    return "close" not in wanted if head.minor else "keep-alive" in wanted
