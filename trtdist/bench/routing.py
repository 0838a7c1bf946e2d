"""A simulator of routing policies: who would compute what, for a trace and servers that hold what they computed.

A server computes one prompt after the other, skips the blocks that it holds from the front on, and forgets those that
were not used for the longest time when it is full. The router learns of a block when it has been computed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from trtdist.bench.statistics import Summary, summary
from trtdist.bench.trace import BLOCK_TOKENS, TraceLine
from trtdist.serving.instance import Instance
from trtdist.serving.policies import HALF_LIFE_S, Load, Policy, Prompt, View

__all__ = ["Cluster", "Outcome", "simulate"]


@dataclass(frozen=True)
class Cluster:
    """Context servers that are all alike: how many, tokens each computes per second, blocks each can hold."""

    servers: int = 4
    tokens_per_s: float = 20_000.0
    blocks: int = 1000


@dataclass(frozen=True)
class Outcome:
    """What a policy made of a trace.

    `hit_rate` is the share of prompt tokens that were held; `computed` are the others. `imbalance` is how much more
    than the mean the busiest server computed (0.15 for 15 %). `wait` is from a request to its computed prompt, in ms.
    """

    requests: int
    prompt_tokens: int
    computed: int
    hit_rate: float
    imbalance: float
    wait: Summary
    per_server: tuple[int, ...]


@dataclass
class _Server:
    instance: Instance
    cluster: Cluster
    computed: int = 0
    free_at: float = 0.0
    queue: deque[tuple[float, int]] = field(default_factory=deque)
    pending: int = 0
    # When each block was, or will have been, computed; the one that was not used for the longest time comes first.
    blocks: OrderedDict[int, float] = field(default_factory=OrderedDict)
    now: float = 0.0
    recent: float = 0.0

    def __contains__(self, block: object) -> bool:
        """Whether the router knows by now that the block is held."""
        return self.blocks.get(block, float("inf")) <= self.now  # type: ignore[call-overload,no-any-return]

    def advance(self, now: float) -> Load:
        """What is in its queue at a time."""
        self.recent *= 0.5 ** ((now - self.now) / HALF_LIFE_S)
        self.now = now
        while self.queue and self.queue[0][0] <= now:
            self.pending -= self.queue.popleft()[1]
        return Load(len(self.queue), self.pending)

    def take(self, prompt: Prompt) -> float:
        """Queue a prompt; returns when it will have been computed."""
        hits = 0
        while hits < len(prompt.blocks) and prompt.blocks[hits] in self.blocks:
            hits += 1
        work = max(0, prompt.tokens - hits * prompt.block_tokens)
        self.free_at = max(self.free_at, self.now) + work / self.cluster.tokens_per_s
        self.queue.append((self.free_at, work))
        self.pending += work
        self.computed += work
        self.recent += work
        # From the back, so that of a prompt the last block is forgotten first: without those before it, it is no use.
        for block in reversed(prompt.blocks):
            self.blocks.setdefault(block, self.free_at)
            self.blocks.move_to_end(block)
        while len(self.blocks) > self.cluster.blocks:
            self.blocks.popitem(last=False)
        return self.free_at


def simulate(trace: Iterable[TraceLine], policy: Policy, cluster: Cluster) -> Outcome:
    """Send the requests of a trace, in order, to the server that the policy chooses."""
    servers = {one.instance.lease_hex: one for one in _servers(cluster)}
    instances = [one.instance for one in servers.values()]
    waits, tokens = [], 0
    for turn, line in enumerate(trace):
        now = line.timestamp / 1000
        prompt = Prompt(line.input_length, line.hash_ids[: line.input_length // BLOCK_TOKENS], BLOCK_TOKENS)
        loads = {name: server.advance(now) for name, server in servers.items()}
        recent = {name: server.recent for name, server in servers.items()}
        chosen = policy(instances, View(turn, loads, prompt, servers, recent))
        waits.append(1000 * (servers[chosen.lease_hex].take(prompt) - now))
        tokens += prompt.tokens
    per_server = tuple(one.computed for one in servers.values())
    computed = sum(per_server)
    mean = computed / len(per_server)
    return Outcome(
        requests=len(waits),
        prompt_tokens=tokens,
        computed=computed,
        hit_rate=1 - computed / tokens if tokens else 0.0,
        imbalance=max(per_server) / mean - 1 if mean else 0.0,
        wait=summary(waits),
        per_server=per_server,
    )


def _servers(cluster: Cluster) -> Iterable[_Server]:
    for number in range(cluster.servers):
        instance = Instance.of("simulated", "tensorrt-llm-ctx", "generate", number + 1, f"ctx.{number}")
        yield _Server(instance, cluster)
