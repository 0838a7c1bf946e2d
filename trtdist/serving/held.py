"""What servers hold of earlier prompts: counted by each server, told to the routers, and known there as far as told.

A server that has read a prompt holds its keys and values until newer ones need their room. Nothing depends on it that
the routers know this: an event that is late or lost makes for a worse choice and never for a wrong answer.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from nats import errors

from trtdist.serving.instance import Instance
from trtdist.serving.policies import prompt_of
from trtdist.serving.protocol import GenerateCall, Held
from trtdist.serving.slug import held_subject

__all__ = ["MOST_HELD", "HeldBlocks", "HeldBook", "HeldPublisher"]

# Blocks of one server that a router remembers, far more than any has room for.
MOST_HELD = 1 << 18


class HeldBlocks:
    """The blocks that a server holds: of the last `most` tokens of prompts that it has read."""

    def __init__(self, most: int) -> None:
        self.most = most
        # Tokens by block; what was not used for the longest time comes first.
        self._blocks: OrderedDict[int, float] = OrderedDict()
        self._tokens = 0.0

    def read(self, blocks: Sequence[int], each: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A prompt was read whose blocks have so many tokens each: which are new, and which had to make room."""
        new = [block for block in blocks if block not in self._blocks]
        # From the back: without the blocks before it, a block is no use, so it goes before them.
        for block in reversed(blocks):
            self._tokens += each - self._blocks.pop(block, 0.0)
            self._blocks[block] = each
        gone = []
        while self._blocks and self._tokens > self.most:
            block, tokens = self._blocks.popitem(last=False)
            self._tokens -= tokens
            gone.append(block)
        return tuple(block for block in new if block in self._blocks), tuple(set(gone) - set(new))


class HeldPublisher:
    """Tells the routers what a server holds, whose engine says how many tokens of earlier prompts it reuses.

    It is asked each time, since it may know only once it has served; nothing is told while that is 0.
    """

    def __init__(
        self, publish: Callable[[str, bytes], Awaitable[None]], instance: Instance, tokens: Callable[[], int]
    ) -> None:
        self._publish = publish
        self._subject = held_subject(instance.namespace, instance.component)
        self._server = instance.lease_hex
        self._tokens = tokens
        self._blocks = HeldBlocks(0)
        self._seq = 0

    async def read(self, call: GenerateCall, tokens: int) -> None:
        """The prompt of a call was read, which had so many tokens."""
        self._blocks.most = self._tokens()
        if not self._blocks.most:
            return
        prompt = prompt_of(call.prompt, call.token_ids)
        each = prompt.block_tokens * tokens / prompt.tokens
        stored, removed = self._blocks.read(prompt.blocks, each)
        if stored or removed:
            told = Held(self._server, self._seq, stored, removed)
            self._seq += 1
            with contextlib.suppress(errors.Error, OSError):
                await self._publish(self._subject, told.encode())


class HeldBook:
    """What the servers have told of the blocks that they hold, by lease id (hex)."""

    def __init__(self) -> None:
        self._blocks: dict[str, set[int]] = {}
        self._next: dict[str, int] = {}

    @property
    def blocks(self) -> Mapping[str, Collection[int]]:
        """The blocks of each server that has told of any."""
        return self._blocks

    def take(self, told: Held) -> None:
        """A server has told; after a gap, what it told before is not relied on any more."""
        blocks = self._blocks.setdefault(told.server, set())
        if told.seq != self._next.get(told.server, told.seq) or len(blocks) > MOST_HELD:
            blocks.clear()
        self._next[told.server] = told.seq + 1
        blocks.update(told.stored)
        blocks.difference_update(told.removed)

    def keep(self, servers: Collection[str]) -> None:
        """Forget every server that is not among these."""
        for server in [server for server in self._next if server not in servers]:
            del self._next[server]
            self._blocks.pop(server, None)
