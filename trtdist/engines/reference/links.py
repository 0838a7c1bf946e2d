"""How ranks reach each other, as the engine needs it; `mpi` has the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trtdist.engines.reference.messages import Message

if TYPE_CHECKING:
    from trtdist.engines.reference.arithmetic import Array

__all__ = ["Links", "Mailbox"]


class Mailbox(Protocol):
    """Messages between ranks; no call of it waits."""

    def send(self, to: int, message: Message) -> None:
        """Send a message to a rank; it arrives while the sender goes on calling `receive` or its like."""
        ...

    def receive(self) -> Message | None:
        """The next message that has arrived as a whole, None when there is none."""
        ...

    def moving(self) -> bool:
        """Whether messages are on their way, so that a pause would delay them."""
        ...


class Links(Protocol):
    """What connects one rank: `server` are the ranks of its server, `world` all ranks that started together."""

    server: Mailbox
    world: Mailbox

    def allreduce(self, values: Array) -> None:
        """Add up an array over the ranks of the server, in place; all of them must call it."""
        ...

    def all_leaving(self) -> bool:
        """Say that this rank is ready to end; True once every rank of the world has said so. Does not wait."""
        ...

    def close(self) -> None:
        """End the connection; only after `all_leaving` is true."""
        ...
