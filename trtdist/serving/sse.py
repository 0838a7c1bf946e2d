"""Server-sent events, out of the pieces that a connection gives. Standard library, Python 3.9."""

from __future__ import annotations

__all__ = ["EventReader"]


class EventReader:
    """Splits a stream of server-sent events of at most `most` bytes each, whatever the pieces that it arrives in."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete now; ValueError for one that is too long."""
        rest = self._rest + data if self._rest else data
        if b"\r" in rest:
            rest = rest.replace(b"\r\n", b"\n")
        *events, self._rest = rest.split(b"\n\n")
        if len(self._rest) > self._most:
            raise ValueError(f"an event has more than {self._most} bytes")
        return [data for event in events if (data := _data(event))]


def _data(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
