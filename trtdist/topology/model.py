"""What the user wrote, as frozen pydantic models; `trtdist.topology.load` makes them from a file.

Start-up time shapes this module: each annotation that is text would be compiled once more by pydantic, hence no
`from __future__ import annotations`; only the model that is asked for builds a validator (`defer_build`), which holds
those of its sections, hence defaults by `model_construct`, which needs none.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict, model_validator

from trtdist.topology.engine_args import KV_CACHE_KEYS, LLM_KEYS
from trtdist.topology.fields import (
    AutoCount,
    AutoPort,
    AutoSpan,
    Count,
    Duration,
    EngineVersion,
    Environment,
    EnvironmentFiles,
    EtcdUrl,
    Fraction,
    HostAddress,
    Limit,
    Line,
    Lines,
    Memory,
    Mount,
    Name,
    NatsUrl,
    PortRange,
    Seconds,
    Size,
    Span,
    Subnet,
    Text,
    TimeLimit,
)

__all__ = [
    "CanarySection",
    "ContainerSection",
    "EtcdSection",
    "HttpSection",
    "KvCacheSection",
    "NatsSection",
    "NetworkSection",
    "PassThrough",
    "ReferenceSection",
    "RestartSection",
    "RouterSection",
    "Section",
    "ServerSection",
    "ServicesSection",
    "SiteContainer",
    "SiteProfile",
    "SiteSlurm",
    "SlurmSection",
    "TimeoutsSection",
    "Topology",
]

DEFAULT_MEMORY_FRACTION = 0.9

ContainerRuntime = Literal["none", "pyxis", "enroot", "apptainer", "singularity", "charliecloud", "podman", "docker"]
GpuDirective = Literal["gpus-per-node", "gres", "none"]


class Section(BaseModel):
    """What all sections share: unknown keys and wrong types are refused, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class PassThrough(Section):
    """A section that also holds keys of TensorRT-LLM, which reach the engine as they are."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    @property
    def extra(self) -> dict[str, Any]:
        """The keys that are the engine's alone."""
        return dict(self.__pydantic_extra__ or {})

    def _refuse_unknown(self, known: frozenset[str]) -> None:
        unknown = sorted(set(self.extra) - known)
        if unknown:
            raise ValueError(f"unknown keys: {', '.join(unknown)}")


class KvCacheSection(PassThrough):
    """The KV cache of one server, by TensorRT-LLM's keys (`KvCacheConfig`)."""

    free_gpu_memory_fraction: Annotated[
        Fraction, Field(description="Share of each GPU's memory that a server may take for its KV cache.")
    ] = DEFAULT_MEMORY_FRACTION

    @model_validator(mode="after")
    def _known(self) -> "KvCacheSection":
        self._refuse_unknown(KV_CACHE_KEYS)
        return self


class ReferenceSection(Section):
    """Knobs of the reference engine, which only `engine: reference` reads; delays in seconds."""

    load_delay: Annotated[Seconds, Field(description="Seconds that loading takes longer.")] = 0.0
    prefill_delay: Annotated[Seconds, Field(description="Seconds that reading a prompt takes longer.")] = 0.0
    step_delay: Annotated[Seconds, Field(description="Seconds that each generated token takes longer.")] = 0.0
    load_error: Annotated[
        Text | None, Field(description="Loading fails with this message on the ranks of `fault_rank`.")
    ] = None
    exit_after_tokens: Annotated[
        Limit | None, Field(description="The process of `fault_rank` exits after so many generated tokens.")
    ] = None
    exit_code: Annotated[int, Field(ge=0, le=255, description="The exit code of that exit.")] = 1
    fault_rank: Annotated[Limit, Field(description="The rank within each server that fails.")] = 0


class RestartSection(Section):
    """What is done about a process that ends although nobody asked it to."""

    policy: Annotated[
        Literal["never", "on-failure"], Field(description="Whether it is started again (docs/recovery.md).")
    ] = "never"
    max: Annotated[
        int, Field(ge=1, le=1000, description="Restarts in a row, without ten minutes of service between them.")
    ] = 3
    backoff: Annotated[
        Span, Field(description="Pause before the second restart in a row, `5s` or `500ms`; it doubles each time.")
    ] = 5.0


class ServerSection(PassThrough):
    """Servers of one role: how many, over how many GPUs each, and what the engine is told.

    Keys that are not listed here but are arguments of TensorRT-LLM's `LLM` reach the engine as they are.
    """

    num_instances: Annotated[Count, Field(description="Number of servers.")] = 1
    tensor_parallel_size: Annotated[Count, Field(description="Ranks that share each layer (TP).")] = 1
    pipeline_parallel_size: Annotated[Count, Field(description="Ranks that share the layers (PP).")] = 1
    context_parallel_size: Annotated[Count, Field(description="Ranks that share a prompt (CP).")] = 1
    kv_cache_config: Annotated[KvCacheSection, Field(description="The KV cache of each server.")] = (
        KvCacheSection.model_construct()
    )
    reference: Annotated[
        ReferenceSection | None, Field(description="Knobs of the reference engine (`engine: reference`).")
    ] = None
    restart: Annotated[RestartSection, Field(description="What is done about a server that died.")] = (
        RestartSection.model_construct()
    )
    critical: Annotated[
        bool, Field(description="Whether the run fails with a server that stays dead, or goes on with others.")
    ] = True
    extra_engine_args: Annotated[
        dict[str, JsonValue],
        Field(description="Further engine arguments, passed on unchecked: for those newer than this trtdist."),
    ] = {}

    @model_validator(mode="after")
    def _known(self) -> "ServerSection":
        self._refuse_unknown(LLM_KEYS)
        return self

    @property
    def world_size(self) -> int:
        """Ranks of one server: TP x PP x CP."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size

    @property
    def memory_fraction(self) -> float:
        """The share of each of its GPUs that one server may take."""
        return self.kv_cache_config.free_gpu_memory_fraction

    @property
    def engine_args(self) -> dict[str, Any]:
        """What the engine is told besides placement: pass-through arguments, `kv_cache_config`, `reference` if given.

        `extra_engine_args` are merged in last, mapping by mapping.
        """
        arguments = {**self.extra, "kv_cache_config": self.kv_cache_config.model_dump()}
        if self.reference is not None:
            arguments["reference"] = self.reference.model_dump()
        return _merged(arguments, self.extra_engine_args)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


NO_KEYS = "none"
"""For `router.http.keys`."""


class HttpSection(Section):
    """The HTTP front end."""

    port: Annotated[AutoPort, Field(description="Port, or `auto` for a free one.")] = "auto"
    host: Annotated[
        HostAddress,
        Field(description="Address to listen on. Beyond this machine (not 127.0.0.1 or ::1) API keys are required."),
    ] = "127.0.0.1"
    keys: Annotated[
        Line | None,
        Field(
            description="File with API keys, one a line, in place of one made up; `none` lets this machine in without."
        ),
    ] = None
    certificate: Annotated[
        Line | None, Field(description="File with the certificate for HTTPS, and those that signed it, as PEM.")
    ] = None
    certificate_key: Annotated[Line | None, Field(description="File with the key of the certificate, as PEM.")] = None
    processes: Annotated[int, Field(ge=1, le=64, description="Processes that share the port.")] = 1
    max_requests: Annotated[
        Count, Field(description="Answers that one process works on at once; more are refused with status 429.")
    ] = 4096


class RouterSection(Section):
    """Who serves a request."""

    policy: Annotated[
        Literal["round_robin", "least_loaded", "kv_prefix"], Field(description="How a server is chosen.")
    ] = "round_robin"
    weights: Annotated[
        dict[str, Annotated[float, Field(gt=0, le=1000)]],
        Field(
            description="Share of the work of servers, by name (`ctx.0: 2` for twice that of others); 1 unless said."
        ),
    ] = {}
    direct_below: Annotated[
        int,
        Field(
            ge=0, description="Prompts of fewer tokens go to a generation server at once, which reads them; 0 for none."
        ),
    ] = 0
    restart: Annotated[RestartSection, Field(description="What is done about a router or front end that died.")] = (
        RestartSection.model_construct()
    )
    discovery: Annotated[
        Literal["static", "etcd"],
        Field(description="How the router of trtllm-serve finds its servers: it is told their addresses, or in etcd."),
    ] = "static"
    http: Annotated[HttpSection | None, Field(description="The HTTP front end, null for none.")] = (
        HttpSection.model_construct()
    )


class ContainerSection(Section):
    """What the workers run in; `runtime: none` is the host itself."""

    runtime: Annotated[ContainerRuntime, Field(description="Container runtime, `none` for no container.")] = "none"
    image: Annotated[
        Line | None, Field(description="Image: a reference, a file or folder, or the name of an imported one.")
    ] = None
    mounts: Annotated[
        tuple[Mount, ...], Strict(False), Field(description="SOURCE:/TARGET or SOURCE:/TARGET:ro, one each.")
    ] = ()
    env: Annotated[Environment, Field(description="Environment variables of every rank.")] = {}
    env_files: Annotated[
        EnvironmentFiles,
        Field(description="Environment variables of every rank by the file that holds the value, such as a token."),
    ] = {}
    python: Annotated[Line, Field(description="The Python of the image: its name or path.")] = "python3"
    also: Annotated[
        tuple[Literal["router", "nats", "etcd"], ...],
        Strict(False),
        Field(description="What else runs in a container, which then must have its program: router, nats, etcd."),
    ] = ()
    workdir: Annotated[Line | None, Field(description="Working directory of the ranks.")] = None
    writable: Annotated[bool, Field(description="Whether the container's own files can be changed.")] = False
    mount_home: Annotated[bool, Field(description="Whether the home directory is seen inside.")] = False
    shm_size: Annotated[
        Size | None, Field(description="Size of /dev/shm, such as 64G; without it that of the machine is shared.")
    ] = None
    ulimits: Annotated[
        dict[Line, int], Field(description="Limits by name, -1 for none: core, memlock, nofile, nproc, stack.")
    ] = {}


class NatsSection(Section):
    """The message service: our own unless `external` is given."""

    external: Annotated[NatsUrl | None, Field(description="A NATS server that already runs.")] = None
    binary: Annotated[Line | None, Field(description="The nats-server to start.")] = None
    restart: Annotated[RestartSection, Field(description="What is done about our own NATS server when it died.")] = (
        RestartSection.model_construct()
    )


class EtcdSection(Section):
    """The discovery service: our own unless `external` is given."""

    external: Annotated[EtcdUrl | None, Field(description="etcd servers that already run.")] = None
    binary: Annotated[Line | None, Field(description="The etcd to start.")] = None
    restart: Annotated[RestartSection, Field(description="What is done about our own etcd when it died.")] = (
        RestartSection.model_construct()
    )


class ServicesSection(Section):
    """The head services of a run."""

    nats: Annotated[NatsSection, Field(description="Messages.")] = NatsSection.model_construct()
    etcd: Annotated[EtcdSection, Field(description="Discovery.")] = EtcdSection.model_construct()

    @property
    def external(self) -> dict[str, str]:
        """The addresses of those that run already, by `nats` and `etcd`."""
        given = {"nats": self.nats.external, "etcd": self.etcd.external}
        return {name: url for name, url in given.items() if url is not None}


class SlurmSection(Section):
    """What is asked of Slurm; counts of nodes and tasks come from the plan."""

    account: Annotated[Line | None, Field(description="Account that is charged.")] = None
    partition: Annotated[Line | None, Field(description="Partition.")] = None
    time: Annotated[TimeLimit | None, Field(description="Time limit, HH:MM:SS.")] = None
    gpus_per_node: Annotated[Count, Field(description="GPUs of each node.")] = 8
    gpu_memory: Annotated[Size | None, Field(description="Memory of one GPU, such as 80G, for estimates.")] = None
    gpu_directive: Annotated[GpuDirective, Field(description="How GPUs are asked for.")] = "gpus-per-node"
    nodes: Annotated[AutoCount, Field(description="Nodes, or `auto` for as many as the plan needs.")] = "auto"
    spares: Annotated[int, Field(ge=0, le=1000, description="Further nodes, for servers whose node dies.")] = 0
    requeue: Annotated[bool, Field(description="Whether Slurm may queue the job again, as the same run.")] = False
    handover: Annotated[
        AutoSpan | None,
        Field(description="How long before the time limit the next job is submitted, to take over; `auto` or `20m`."),
    ] = None
    cpus_per_task: Annotated[Count | None, Field(description="CPUs of each rank.")] = None
    mem: Annotated[Memory, Field(description="Memory of each node, 0 for all of it.")] = 0
    exclusive: Annotated[bool, Field(description="Whole nodes for this job alone.")] = False
    qos: Annotated[Line | None, Field(description="Quality of service.")] = None
    reservation: Annotated[Line | None, Field(description="Reservation.")] = None
    constraint: Annotated[Line | None, Field(description="Features that nodes must have.")] = None
    exclude: Annotated[Line | None, Field(description="Nodes to leave out.")] = None
    segment: Annotated[Count | None, Field(description="Nodes per block of the network topology.")] = None
    extra_sbatch: Annotated[
        tuple[Line, ...], Strict(False), Field(description="Further options of sbatch and salloc, one each.")
    ] = ()
    extra_srun: Annotated[
        tuple[Line, ...], Strict(False), Field(description="Further options of every srun, one each.")
    ] = ()
    setup: Annotated[Lines, Field(description="Shell lines that run first on each node, such as module load.")] = ()


class CanarySection(Section):
    """The prompts that prove that every server answers."""

    prompt: Annotated[Text, Field(min_length=1, description="The prompt.")] = "The capital of France is"
    max_tokens: Annotated[Count, Field(description="Tokens asked for.")] = 4
    interval: Annotated[Seconds, Field(description="Seconds between repetitions, 0 for none after READY.")] = 0.0
    timeout: Annotated[Duration, Field(description="Seconds within which an answer must end.")] = 60.0


class TimeoutsSection(Section):
    """How long things may take, in seconds."""

    services: Annotated[Duration, Field(description="Until NATS and etcd are healthy.")] = 30.0
    ready: Annotated[Duration, Field(description="From the start to READY.")] = 1800.0
    stall: Annotated[
        Seconds,
        Field(
            description="Without a sign of progress, until a server that loads or is asked is called stalled; 0: never."
        ),
    ] = 300.0
    stop: Annotated[Seconds, Field(description="For an orderly stop, before processes are killed.")] = 10.0


class NetworkSection(Section):
    """Which network the programs of a run use among each other."""

    interface: Annotated[Line | None, Field(description="Network interface, such as ib0.")] = None
    subnet: Annotated[Subnet | None, Field(description="Subnet that holds the addresses to use.")] = None
    port_range: Annotated[PortRange | None, Field(description="Ports to choose from, LOW-HIGH.")] = None


class Topology(Section):
    """One deployment."""

    name: Annotated[Name, Field(description="Name of the deployment, its job and its runs.")]
    model: Annotated[Line, Field(description="Hub id, or a path seen from the workers.")]
    engine: Annotated[Literal["tensorrt_llm", "reference"], Field(description="What computes.")] = "tensorrt_llm"
    tensorrt_llm: Annotated[
        EngineVersion | None,
        Field(description="Release of TensorRT-LLM in the image, such as 1.2, for checks of arguments."),
    ] = None
    runtime: Annotated[
        Literal["trtdist", "trtllm-serve", "dynamo"], Field(description="What serves around the engine.")
    ] = "trtdist"
    launch: Annotated[
        Literal["mpi_world", "per_server"],
        Field(description="One MPI world for all servers, or one step per server."),
    ] = "mpi_world"
    context_servers: Annotated[ServerSection | None, Field(description="Servers that read prompts.")] = None
    generation_servers: Annotated[ServerSection | None, Field(description="Servers that write answers.")] = None
    servers: Annotated[
        ServerSection | None, Field(description="Monolithic servers, instead of the two sections above.")
    ] = None
    oversubscribe: Annotated[
        bool, Field(description="Allow the memory fractions on one GPU to add up to more than 1.")
    ] = False
    router: Annotated[RouterSection, Field(description="Who serves a request.")] = RouterSection.model_construct()
    container: Annotated[ContainerSection, Field(description="What the workers run in.")] = (
        ContainerSection.model_construct()
    )
    services: Annotated[ServicesSection, Field(description="The head services.")] = ServicesSection.model_construct()
    slurm: Annotated[SlurmSection, Field(description="What is asked of Slurm.")] = SlurmSection.model_construct()
    canary: Annotated[CanarySection, Field(description="The readiness prompts.")] = CanarySection.model_construct()
    timeouts: Annotated[TimeoutsSection, Field(description="How long things may take.")] = (
        TimeoutsSection.model_construct()
    )
    network: Annotated[NetworkSection, Field(description="Which network is used.")] = NetworkSection.model_construct()

    @property
    def disaggregated(self) -> bool:
        """Whether context and generation are different servers."""
        return self.servers is None

    @property
    def sections(self) -> tuple[tuple[str, ServerSection], ...]:
        """The server sections by role, in rank order: `context` and `generation`, or `monolithic`."""
        roles = (
            ("context", self.context_servers),
            ("generation", self.generation_servers),
            ("monolithic", self.servers),
        )
        return tuple((role, section) for role, section in roles if section is not None)

    @property
    def world_size(self) -> int:
        """MPI ranks of the whole deployment."""
        return sum(section.num_instances * section.world_size for _, section in self.sections)


class SiteSlurm(Section):
    """What a site says about its Slurm; each is the default of the same key in a topology."""

    account: Annotated[Line | None, Field(description="Account that is charged.")] = None
    partition: Annotated[Line | None, Field(description="Partition.")] = None
    qos: Annotated[Line | None, Field(description="Quality of service.")] = None
    constraint: Annotated[Line | None, Field(description="Features that nodes must have.")] = None
    gpus_per_node: Annotated[Count | None, Field(description="GPUs of each node.")] = None
    gpu_memory: Annotated[Size | None, Field(description="Memory of one GPU, such as 80G.")] = None
    gpu_directive: Annotated[GpuDirective | None, Field(description="How GPUs are asked for.")] = None
    exclusive: Annotated[bool | None, Field(description="Whole nodes for each job alone.")] = None


class SiteContainer(Section):
    """What a site says about containers."""

    runtime: Annotated[
        ContainerRuntime | None, Field(description="Runtime of topologies that name an image and no runtime.")
    ] = None


class SiteProfile(Section):
    """Defaults of one cluster or machine, for every topology."""

    slurm: Annotated[SiteSlurm, Field(description="Defaults of `slurm`.")] = SiteSlurm.model_construct()
    container: Annotated[SiteContainer, Field(description="Defaults of `container`.")] = SiteContainer.model_construct()
    network: Annotated[NetworkSection, Field(description="Defaults of `network`.")] = NetworkSection.model_construct()
    runs: Annotated[Line | None, Field(description="Runs directory, unless $TRTDIST_RUNS is set.")] = None
    images: Annotated[Line | None, Field(description="Folder of imported images, unless $TRTDIST_IMAGES is set.")] = (
        None
    )
