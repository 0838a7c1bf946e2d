"""What is set around the engine and works against it: environment, image, addresses, options of Slurm."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from trtdist.topology.lint.case import Case
from trtdist.topology.nodes import at

__all__ = ["surroundings_rules"]

_PLANNED = {
    "-N": "slurm.nodes",
    "--nodes": "slurm.nodes",
    "-n": "num_instances and the parallel sizes",
    "--ntasks": "num_instances and the parallel sizes",
    "--ntasks-per-node": "slurm.gpus_per_node",
    "--gpus-per-node": "slurm.gpus_per_node",
    "--gres": "slurm.gpus_per_node and slurm.gpu_directive",
    "--container-image": "container.image",
    "--container-mounts": "container.mounts",
}
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "each task sets it to the GPUs of its plan; remove it",
    "NATS_SERVER": "it is found when the run starts; for a server of your own set services.nats.external",
    "ETCD_ENDPOINTS": "it is found when the run starts; for servers of your own set services.etcd.external",
    "WORLD_SIZE": "it follows from num_instances and the parallel sizes; remove it",
}
_LEGACY = {
    "TRTLLM_USE_MPI_KVCACHE": "write cache_transceiver_config: {backend: MPI} on both sides",
    "TRTLLM_USE_UCX_KVCACHE": "write cache_transceiver_config: {backend: UCX} on both sides",
    "TRTLLM_PARALLEL_CACHE_SEND": "remove it",
    "TRTLLM_REQUEST_KV_CACHE_CONCURRENT": "remove it",
}
_NOBODY = ("0.0.0.0", "::")
# The first documents of the original example name registries that exist within NVIDIA only.
_INTERNAL = re.compile(r"(?:^|/)(gitlab-master\.nvidia\.com|urm\.nvidia\.com)[:/#]")


def surroundings_rules(case: Case) -> None:
    """Each is doubtful rather than wrong: it takes effect, and seldom the one that was meant."""
    _environment(case)
    _image(case)
    _addresses(case)
    _slurm(case)


def _environment(case: Case) -> None:
    environment = case.topology.container.env
    modern = case.version is not None and case.version.minor >= (1, 0)
    for name, value in environment.items():
        where = at(case.root, ("container", "env", name, "[key]"))
        if name in _ENVIRONMENT:
            case.warning("TRT231", f"{name} in container.env: {_ENVIRONMENT[name]}", where)
        elif name in _LEGACY and modern:
            case.warning("TRT231", f"{name} is read by TensorRT-LLM before 1.0 only; {_LEGACY[name]}", where)
        elif name == "UCX_TLS" and "cuda" not in value and value != "all":
            case.warning(
                "TRT231",
                f"UCX_TLS={value} leaves UCX without transports for GPU memory, and transfers of KV cache fail; add "
                "cuda_copy and cuda_ipc, or remove it",
                where,
            )
    if {"NIXL_BACKEND", "TRTLLM_NIXL_KVCACHE_BACKEND"} <= environment.keys():
        case.warning(
            "TRT231",
            "NIXL_BACKEND beside TRTLLM_NIXL_KVCACHE_BACKEND lets the two sides choose differently, and transfers "
            "hang; keep the second",
            at(case.root, ("container", "env", "NIXL_BACKEND", "[key]")),
        )


def _image(case: Case) -> None:
    found = _INTERNAL.search(case.topology.container.image or "")
    if found is not None:
        case.warning(
            "TRT235",
            f"{found[1]} is a registry within NVIDIA; elsewhere use nvcr.io/nvidia/tensorrt-llm/release:VERSION",
            at(case.root, ("container", "image")),
        )


def _addresses(case: Case) -> None:
    services = case.topology.services
    for service, text in (("nats", services.nats.external), ("etcd", services.etcd.external)):
        for url in (text or "").split(","):
            if urlsplit(url).hostname in _NOBODY:
                case.warning(
                    "TRT233",
                    f"services.{service}.external: {url} is an address to listen on, which leads every node to itself; "
                    "write the name of the machine that the server runs on",
                    at(case.root, ("services", service, "external")),
                )


def _slurm(case: Case) -> None:
    slurm = case.topology.slurm
    for key, options in (("extra_sbatch", slurm.extra_sbatch), ("extra_srun", slurm.extra_srun)):
        for index, option in enumerate(options):
            name = re.split(r"[=\s]", option, maxsplit=1)[0]
            if name in _PLANNED:
                case.warning(
                    "TRT234",
                    f"{name} in slurm.{key} contradicts the plan, which counts nodes and tasks itself; set "
                    f"{_PLANNED[name]}",
                    at(case.root, ("slurm", key, index)),
                )
