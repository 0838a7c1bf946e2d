"""The codes of the lint for TensorRT-LLM, from TRT201 on."""

from __future__ import annotations

from trtdist.topology.code import Code

__all__ = ["LINT_CODES"]

_HEAD = "name: demo\nmodel: org/model\n"
_RIGHT = _HEAD + "servers: {}\n"


def _sides(context: str, generation: str, more: str = "") -> str:
    return f"{_HEAD}{more}context_servers: {context}\ngeneration_servers: {generation}\n"


def _transfer(context: str, generation: str, more: str = "") -> str:
    return _sides(
        f"{{cache_transceiver_config: {{{context}}}}}", f"{{cache_transceiver_config: {{{generation}}}}}", more
    )


def _buffers(context: int) -> str:
    configs = [f"{{backend: UCX, max_tokens_in_buffer: {size}}}" for size in (context, 8192)]
    return _sides(
        f"{{max_input_len: 8192, cache_transceiver_config: {configs[0]}}}",
        f"{{cache_transceiver_config: {configs[1]}}}",
        "tensorrt_llm: 1.2\n",
    )


LINT_CODES = (
    Code(
        "TRT201",
        "an engine argument that this release no longer has",
        "`tensorrt_llm`, or the tag of an image tensorrt-llm/release:VERSION, says which release the engine is. It"
        " renamed or removed the argument, and refuses it after the job has waited in the queue. A warning instead of"
        " an error means that the release lies between the last that surely has it and the first that surely does not.",
        _HEAD + "tensorrt_llm: 1.2\nservers: {use_cuda_graph: true}\n",
        _HEAD + "tensorrt_llm: 1.2\nservers: {cuda_graph_config: {enable_padding: true}}\n",
    ),
    Code(
        "TRT202",
        "an engine argument that this release does not have yet",
        "The argument came with a later release than the one that `tensorrt_llm` or the tag of the image names.",
        _HEAD + "tensorrt_llm: 0.19\nservers: {cuda_graph_config: {enable_padding: true}}\n",
        _HEAD + "tensorrt_llm: 0.19\nservers: {use_cuda_graph: true}\n",
    ),
    Code(
        "TRT203",
        "an unknown key within an engine argument",
        "TensorRT-LLM 1.0 and newer refuse unknown keys also within `cache_transceiver_config` and `cuda_graph_config`."
        " The key is passed on, since it may be newer than this trtdist.",
        _HEAD + "servers: {cuda_graph_config: {enable_paddding: true}}\n",
        _HEAD + "servers: {cuda_graph_config: {enable_padding: true}}\n",
    ),
    Code(
        "TRT204",
        "a release that is not known here, or not the image's",
        "Arguments are checked for the releases 0.17 to 1.4. An image of NVIDIA's says its release in its tag; when"
        " `tensorrt_llm` says another one, the arguments are checked for what will not run.",
        _HEAD + "tensorrt_llm: 0.9\nservers: {}\n",
        _HEAD + "tensorrt_llm: 1.2\nservers: {}\n",
    ),
    Code(
        "TRT210",
        "context and generation servers that transfer differently",
        "Nothing negotiates how the KV cache travels: with another backend on each side, or with one side left out,"
        " all servers start and every request fails or hangs.",
        _transfer("backend: UCX", "backend: NIXL"),
        _transfer("backend: NIXL", "backend: NIXL"),
    ),
    Code(
        "TRT211",
        "a transfer backend that cannot work here",
        "MPI needs one MPI world for all servers, so it goes with `launch: mpi_world` only; MOONCAKE came with 1.2;"
        " before 1.0 the names are written in small letters, and in capitals since.",
        _transfer("backend: MPI", "backend: MPI", "launch: per_server\n"),
        _transfer("backend: UCX", "backend: UCX", "launch: per_server\n"),
    ),
    Code(
        "TRT212",
        "a transfer backend left to the release",
        "DEFAULT meant UCX, then NIXL, and on one branch UCX again. Two images, or an update, then transfer in"
        " different ways.",
        _transfer("backend: DEFAULT", "backend: DEFAULT"),
        _transfer("backend: UCX", "backend: UCX"),
    ),
    Code(
        "TRT213",
        "the overlap scheduler on context servers",
        "Context servers hand each request over after its first token; before 1.3 TensorRT-LLM documents that they do"
        " not support the overlap scheduler, and its examples turn it off there.",
        _sides("{disable_overlap_scheduler: false}", "{}"),
        _sides("{disable_overlap_scheduler: true}", "{}"),
    ),
    Code(
        "TRT214",
        "a transfer buffer smaller than prompts",
        "In 1.0 to 1.2 `max_tokens_in_buffer` should hold the longest prompt: `max_input_len`, or else no more than"
        " `max_seq_len`. Longer prompts are slow, or block the server for good when it runs out of KV blocks; with NIXL"
        " they fail, which makes it an error. From 1.3 on leave it out.",
        _buffers(2048),
        _buffers(8192),
    ),
    Code(
        "TRT220",
        "attention heads that the ranks cannot share",
        "`tensor_parallel_size` must divide the model's attention heads, and either divide its KV heads or be a"
        " multiple of them. Both are read from the model's config.json when that can be seen from here. With"
        " `enable_attention_dp` each rank has all heads.",
        "$ trtdist validate cluster.yaml --set servers.tensor_parallel_size=6",
        "$ trtdist validate cluster.yaml --set servers.tensor_parallel_size=8",
    ),
    Code(
        "TRT221",
        "a pipeline longer than the model",
        "Each stage of a pipeline needs a layer; the number of layers is in the model's config.json.",
        "$ trtdist validate cluster.yaml --set servers.pipeline_parallel_size=64",
        "$ trtdist validate cluster.yaml --set servers.pipeline_parallel_size=4",
    ),
    Code(
        "TRT222",
        "expert parallelism that does not divide the ranks",
        "`moe_expert_parallel_size` and `moe_tensor_parallel_size` share out the ranks of `tensor_parallel_size` (and"
        " `context_parallel_size`) among experts; they add no ranks, and cannot be more than the experts.",
        _HEAD + "servers: {tensor_parallel_size: 4, moe_expert_parallel_size: 8}\n",
        _HEAD + "servers: {tensor_parallel_size: 8, moe_expert_parallel_size: 8}\n",
    ),
    Code(
        "TRT223",
        "weights larger than the memory of the GPUs",
        "The files of weights, shared among all ranks of a server, are more than one GPU holds. The size of a GPU is"
        " `slurm.gpu_memory`, which the site profile can say for all topologies.",
        "$ trtdist validate cluster.yaml --set slurm.gpu_memory=80G --set servers.tensor_parallel_size=1",
        "$ trtdist validate cluster.yaml --set slurm.gpu_memory=80G --set servers.tensor_parallel_size=8",
    ),
    Code(
        "TRT224",
        "a KV cache smaller than one sequence",
        "An estimate: `free_gpu_memory_fraction` of what the weights leave free, over the bytes that a token takes by"
        " the model's config.json. Lower max_seq_len, raise the fraction, or share the model among more GPUs.",
        "$ trtdist validate cluster.yaml --set slurm.gpu_memory=80G --set servers.max_seq_len=1000000",
        "$ trtdist validate cluster.yaml --set slurm.gpu_memory=80G --set servers.max_seq_len=8192",
    ),
    Code(
        "TRT230",
        "an extra engine argument that the plan decides",
        "`extra_engine_args` are merged in last, so a size there would give the engine other ranks than it is started"
        " with. Model and sizes have keys of their own.",
        _HEAD + "servers: {extra_engine_args: {tensor_parallel_size: 2}}\n",
        _HEAD + "servers: {tensor_parallel_size: 2}\n",
    ),
    Code(
        "TRT231",
        "an environment variable that works against the run",
        "The variable is set by each task itself, is read by older releases only, or is known to break transfers.",
        _HEAD + "servers: {}\ncontainer: {env: {UCX_TLS: tcp}}\n",
        _RIGHT,
    ),
    Code(
        "TRT232",
        "urls that contradict the rest",
        "`urls` are not used: hosts and ports are found when the deployment starts. A URL in both sections would be"
        " one server for both roles to TensorRT-LLM, and a list of another length than `num_instances` is refused by"
        " it; what counts here is `num_instances`. TRT101 says so of each list of urls.",
        "$ trtdist validate disagg_config.yaml",
        "$ trtdist import disagg_config.yaml --output cluster.yaml",
    ),
    Code(
        "TRT233",
        "an address that leads every node to itself",
        "0.0.0.0 and :: are addresses to listen on. A service is reached at the name of its machine.",
        _HEAD + 'servers: {}\nservices: {etcd: {external: "http://0.0.0.0:2379"}}\n',
        _HEAD + 'servers: {}\nservices: {etcd: {external: "http://node1:2379"}}\n',
    ),
    Code(
        "TRT234",
        "an option of Slurm that the plan decides",
        "Nodes, tasks and GPUs follow from the servers and are written for every step; a fixed number beside them"
        " makes Slurm refuse the job or start other ranks than planned.",
        _HEAD + "servers: {}\nslurm: {extra_sbatch: [--ntasks-per-node=8]}\n",
        _HEAD + "servers: {}\nslurm: {gpus_per_node: 8}\n",
    ),
    Code(
        "TRT235",
        "an image that only NVIDIA can pull",
        "The registry is not reachable from outside.",
        _HEAD + "servers: {}\ncontainer: {runtime: docker, image: urm.nvidia.com/sw-tensorrt-docker/release}\n",
        _HEAD + 'servers: {}\ncontainer: {runtime: docker, image: "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"}\n',
    ),
)
