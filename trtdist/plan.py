"""The plan: where everything of a deployment goes, as facts. Imports nothing of trtdist.

Written to `plan.json` in the run directory and read by every program of a run, on nodes and in images that run
Python 3.9, so this module uses the standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Allocation", "Canary", "GpuLoad", "Http", "Plan", "Rank", "Server", "Step", "from_json", "to_json"]

PLAN_VERSION = 1


@dataclass(frozen=True)
class Rank:
    """One MPI rank of one server.

    `world_rank` counts over all servers of the deployment, `rank` within the server. `node` indexes the nodes of the
    allocation, `gpu` the list of GPUs that a task inherits on that node.
    """

    world_rank: int
    rank: int
    node: int
    gpu: int
    leader: bool


@dataclass(frozen=True)
class Server:
    """One engine: a context, generation or monolithic server.

    `name` is `ctx.0`, `gen.1` or `srv.0`; `role` is `context`, `generation` or `monolithic`. `memory_fraction` is the
    share of each GPU's memory that it may take. `engine_args` are passed through to the engine, by TensorRT-LLM's
    own key names.
    """

    name: str
    role: str
    index: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    context_parallel_size: int
    memory_fraction: float
    ranks: tuple[Rank, ...]
    engine_args: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of ranks: TP x PP x CP."""
        return len(self.ranks)

    @property
    def leader(self) -> Rank:
        """The lowest rank, which serves for all."""
        return self.ranks[0]


@dataclass(frozen=True)
class Step:
    """One thing that is started: a head service, MPI ranks, the router, the HTTP front end or the canary.

    `kind` is `service`, `workers`, `router`, `front` or `canary`. `number` orders the start and the files under
    `scripts/`. `servers` names the servers whose ranks run in it, in rank order; `tasks` is the number of processes,
    `nodes` the node of each task in task order. Steps are stopped by `tier`, lowest first.
    One that ends unasked is started again up to `restarts` times in a row, the first time at once, then after
    `backoff` seconds, which double each time. The run fails with a `critical` one that is not.
    """

    number: int
    name: str
    kind: str
    tier: int
    tasks: int
    nodes: tuple[int, ...]
    servers: tuple[str, ...] = ()
    restarts: int = 0
    backoff: float = 0.0
    critical: bool = True

    @property
    def stem(self) -> str:
        """The common start of its file names, such as `03-workers`."""
        return f"{self.number:02d}-{self.name}"


@dataclass(frozen=True)
class GpuLoad:
    """What is placed on one GPU: `fraction` is the sum of the memory fractions of `servers`."""

    node: int
    gpu: int
    fraction: float
    servers: tuple[str, ...]


@dataclass(frozen=True)
class Allocation:
    """What the scheduler must give so that every step fits; `mem` 0 asks for all memory of a node."""

    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    cpus_per_task: int
    mem: int


@dataclass(frozen=True)
class Canary:
    """The prompts that prove that every server answers; `interval` and `timeout` in seconds, interval 0 for once."""

    prompt: str
    max_tokens: int
    interval: float
    timeout: float


@dataclass(frozen=True)
class Http:
    """The HTTP front end: where it listens (port 0 for a free one), and how many requests a process answers at once."""

    host: str
    port: int
    processes: int
    max_requests: int


@dataclass(frozen=True)
class Plan:
    """A whole deployment, placed. Ranks are contiguous, context servers first, then generation servers.

    `stall` is how many seconds an engine may keep all its requests waiting, 0 for as long as it likes.
    """

    name: str
    model: str
    engine: str
    runtime: str
    launch: str
    router_policy: str
    world_size: int
    allocation: Allocation
    servers: tuple[Server, ...]
    steps: tuple[Step, ...]
    gpus: tuple[GpuLoad, ...]
    canary: Canary
    http: Http | None = None
    router_weights: dict[str, float] = field(default_factory=dict)
    router_direct_below: int = 0
    stall: float = 300.0
    version: int = PLAN_VERSION

    @property
    def over_http(self) -> bool:
        """Whether its servers are programs that are not ours and speak HTTP alone, each at a port of its own."""
        return self.runtime != "trtdist"

    @property
    def servers_return(self) -> bool:
        """Whether servers are started again."""
        return any(step.restarts for step in self.steps if step.kind == "workers")

    @property
    def canary_stays(self) -> bool:
        """Whether the canary program goes on once it has passed: to send its prompts again, to prove servers that come
        back, or to look after programs that are not ours."""
        return self.canary.interval > 0 or self.servers_return or self.over_http

    def server(self, name: str) -> Server:
        """The server of that name; KeyError when there is none."""
        for server in self.servers:
            if server.name == name:
                return server
        raise KeyError(name)

    def tasks(self, step: Step) -> list[str]:
        """The names of the tasks of a step, in the order of their numbers: `gen.0.1` for a rank, else the step's."""
        ranks = [f"{name}.{rank.rank}" for name in step.servers for rank in self.server(name).ranks]
        return ranks if step.kind == "workers" else [step.name]

    def step(self, name: str) -> Step:
        """The step of that name; KeyError when there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)


def to_json(plan: Plan) -> str:
    """The plan as JSON text, one line per server, step and GPU; stable: the same plan gives the same bytes."""
    lines = [f" {_dumped(name)}: {_lines(value)}" for name, value in vars(plan).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: Any) -> str:
    if not isinstance(value, tuple):
        return _dumped(value)
    return "[\n  " + ",\n  ".join(map(_dumped, value)) + "\n ]" if value else "[]"


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=vars)


def from_json(text: str) -> Plan:
    """The plan that `to_json` wrote; ValueError when it is of another version."""
    raw = json.loads(text)
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != PLAN_VERSION:
        raise ValueError(f"plan version {version} is not {PLAN_VERSION}")
    servers = tuple(
        Server(**{**server, "ranks": tuple(Rank(**rank) for rank in server["ranks"])}) for server in raw["servers"]
    )
    steps = tuple(
        Step(**{**step, "nodes": tuple(step["nodes"]), "servers": tuple(step["servers"])}) for step in raw["steps"]
    )
    gpus = tuple(GpuLoad(**{**gpu, "servers": tuple(gpu["servers"])}) for gpu in raw["gpus"])
    return Plan(
        **{
            **raw,
            "allocation": Allocation(**raw["allocation"]),
            "servers": servers,
            "steps": steps,
            "gpus": gpus,
            "canary": Canary(**raw["canary"]),
            "http": Http(**raw["http"]) if raw.get("http") else None,
        }
    )
