"""Short questions over HTTP to the head services. Standard library, Python 3.9."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from trtdist.services.external import ETCD_PORT

__all__ = ["Unwell", "ask", "connection", "json_object"]

# A range of all that is registered has half a kilobyte for each of thousands of servers.
_MAX_ANSWER = 1 << 23


class Unwell(Exception):
    """The service does not answer as it should; the message is the end of a sentence."""


async def ask(
    base: str, method: str, path: str, tls: ssl.SSLContext | None = None, asked: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON object that a request gives, of status 200; Unwell for anything else.

    A POST sends `asked` as JSON. https trusts what the system does unless `tls` is given.
    """
    parts = urlsplit(base)
    if tls is None and parts.scheme == "https":
        tls = ssl.create_default_context()
    body = json.dumps(asked or {}) if method == "POST" else ""
    async with connection(parts.hostname or "", parts.port or ETCD_PORT, tls) as (reader, writer):
        writer.write(
            f"{method} {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        answer = await _all(reader)
    head, _, content = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise Unwell(f"answers {path} with {b''.join(status).decode('ascii', 'replace') or 'what is not HTTP'}")
    return json_object(content, path)


def json_object(text: bytes, what: str) -> dict[str, Any]:
    """The JSON object that somebody says, whoever he is; Unwell when `what` is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unwell(f"answers {what} with what is no JSON object")
    return found


@asynccontextmanager
async def connection(
    host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection while in `async with`, cut off at its end."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=_MAX_ANSWER)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _all(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while len(answer) < _MAX_ANSWER:
        piece = await reader.read(_MAX_ANSWER)
        if not piece:
            return answer
        answer += piece
    raise Unwell("gives an answer without end")
