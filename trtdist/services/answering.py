"""Whether an HTTP server answers at all, whatever it says. Standard library, Python 3.9."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from trtdist.services.http import connection

__all__ = ["answers"]

_SECONDS = 1.0


async def answers(url: str) -> bool:
    """Whether a server says anything to a request for /health within a second."""
    try:
        return await asyncio.wait_for(_says(url), _SECONDS)
    except (OSError, asyncio.TimeoutError):
        return False


async def _says(url: str) -> bool:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    async with connection(parts.hostname or "", parts.port or 80, _any_certificate() if secure else None) as streams:
        reader, writer = streams
        writer.write(f"GET /health HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        return bool(await reader.read(1))


def _any_certificate() -> ssl.SSLContext:
    """Nothing is told to the server, and nothing that it says is used."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
