"""tensorrt_llm/executor/worker.py: what every rank of an engine runs."""

from __future__ import annotations

import os
import queue
import signal
import time
import traceback
from dataclasses import dataclass, field

import torch

from tensorrt_llm import faults, language
from tensorrt_llm._utils import global_mpi_rank, mpi_barrier, mpi_comm, mpi_rank
from tensorrt_llm.executor import ipc
from tensorrt_llm.executor.result import Response
from tensorrt_llm.kv import CacheTransceiver
from tensorrt_llm.logger import logger
from tensorrt_llm.version import NUMBER

_STOP = 7000
_NOT_ENABLED = "Disaggregated serving is not enabled, please check the configuration?"


@dataclass
class GenerationRequest:
    """A request on its way to the workers."""

    id: int
    prompt_token_ids: list[int]
    sampling_params: object
    streaming: bool
    disaggregated_params: object = None


@dataclass
class CancellingRequest:
    """Says that nobody wants the rest of a request."""

    id: int


@dataclass
class _Active:
    request: GenerationRequest
    cache: str
    tokens: list[int] = field(default_factory=list)


def worker_main(addresses: dict[str, str], llm_args, ready_signal: bytes, worker_cls=None) -> None:
    """Load, then serve on rank 0 and wait on the others. A rank that cannot load logs it and returns."""
    mpi_barrier()
    try:
        worker = worker_cls(addresses, llm_args)
    except Exception as e:
        logger.error(f"Failed to initialize executor on rank {mpi_rank()}: {e}")
        logger.error(traceback.format_exc())
        if mpi_rank() == 0:
            ipc.find(addresses["status"]).put((e, traceback.format_exc()))
        return
    if mpi_rank() != 0:
        worker.wait_shutdown()
        return
    ipc.find(addresses["status"]).put((ready_signal, None))
    worker.serve()


class Worker:
    """One rank with its share of the model."""

    def __init__(self, addresses: dict[str, str], llm_args) -> None:
        device = global_mpi_rank() % torch.cuda.device_count()
        torch.cuda.set_device(device)
        print(f"Rank {mpi_rank()} is using GPU {device}", flush=True)
        self._addresses = addresses
        faults.while_loading()
        _read_model(str(llm_args.model))
        logger.info("Use 2.05 GB for model weights.")
        # Ranks load their shares and then build their communicators together: who is missing is waited for.
        mpi_barrier()
        logger.info("Model init total -- 0.10s")
        logger.info("[MemUsageChange] Allocated 18.06 GiB for max tokens in paged KV cache (860768).")
        self._transceiver = _transceiver(llm_args) if mpi_rank() == 0 else None
        self._active: dict[int, _Active] = {}
        self._generated = 0

    def wait_shutdown(self) -> None:
        """Rank 0 says when."""
        since = time.monotonic()
        while not mpi_comm().iprobe(source=0, tag=_STOP):
            if faults.kind() == "killed" and time.monotonic() > since + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)
        mpi_comm().recv(source=0, tag=_STOP)

    def serve(self) -> None:
        """The loop of rank 0: requests in, a token for each of them and round, until None is read."""
        requests = ipc.find(self._addresses["requests"])
        while True:
            try:
                request = requests.get(timeout=0.002 if self._active else 0.05)
            except queue.Empty:
                self._round()
                continue
            if request is None:
                break
            if isinstance(request, CancellingRequest):
                self._cancel(request.id)
            else:
                self._admit(request)
        for rank in range(1, mpi_comm().Get_size()):
            mpi_comm().send(None, dest=rank, tag=_STOP)
        self._put(None)

    def _put(self, response: Response | None) -> None:
        if faults.kind() != "silent" or response is None:
            ipc.find(self._addresses["results"]).put(response)

    def _cancel(self, number: int) -> None:
        if self._active.pop(number, None) is None:
            logger.warning(f"Request of client_id {number} is finished, cannot abort it.")
        else:
            self._put(Response(number, finish="cancelled"))

    def _admit(self, request: GenerationRequest) -> None:
        params, prompt = request.disaggregated_params, request.prompt_token_ids
        kind = params.request_type if params is not None else "context_and_generation"
        if kind != "context_and_generation" and self._transceiver is None:
            self._put(Response(request.id, error=_NOT_ENABLED))
            return
        active = _Active(request, language.digest(prompt))
        if kind == "generation_only":
            try:
                fetched = self._transceiver.fetch(params.ctx_request_id, params.opaque_state)
            except (OSError, RuntimeError) as e:
                self._put(Response(request.id, error=str(e)))
                return
            if fetched != active.cache:
                self._put(Response(request.id, error="the KV cache is of another prompt"))
                return
            # The first response has the context server's token again: _prepare_disagg_gen_transmission_complete in
            # tensorrt_llm/_torch/pyexecutor/py_executor.py adds it to the request.
            active.tokens = list(params.first_gen_tokens)
        self._active[request.id] = active

    def _round(self) -> None:
        for number, active in list(self._active.items()):
            before = len(active.tokens) if active.request.disaggregated_params is None or active.tokens[1:] else 0
            active.tokens.append(language.next_token(active.cache, len(active.tokens), active.request.prompt_token_ids))
            self._respond(number, active, before)
            self._generated += 1
            faults.after_token(self._generated)

    def _respond(self, number: int, active: _Active, before: int) -> None:
        request = active.request
        finish = ""
        if active.tokens[-1] == language.END:
            finish = "stop"
        elif len(active.tokens) >= request.sampling_params.max_tokens:
            finish = "length"
        params, context = request.disaggregated_params, None
        if params is not None and params.request_type == "context_only":
            finish = finish or "not_finished"
            number_there = getattr(params, "disagg_request_id", None) or 1000 + number
            state = self._transceiver.keep(number_there, active.cache)
            context = {"first_gen_tokens": active.tokens[:1], "ctx_request_id": number_there, "opaque_state": state}
        self._put(Response(number, active.tokens[before:], finish, context))
        if finish:
            del self._active[number]


def _transceiver(llm_args) -> CacheTransceiver | None:
    """None where nothing says how caches travel: the environment up to 0.20, `backend` from 0.21 on."""
    backend = getattr(getattr(llm_args, "cache_transceiver_config", None), "backend", None)
    if NUMBER < (0, 21):
        named = {"MPI": "TRTLLM_USE_MPI_KVCACHE", "UCX": "TRTLLM_USE_UCX_KVCACHE"}
        backend = next((name for name, variable in named.items() if os.environ.get(variable) == "1"), None)
    if backend is None:
        logger.info("cache_transceiver is disabled")
        return None
    runtime = getattr(llm_args.cache_transceiver_config, "transceiver_runtime", None) if NUMBER >= (1, 3) else None
    if runtime == "PYTHON" and backend != "NIXL":
        raise ValueError(f"backend {backend!r}: the Python transceiver requires NIXL")
    return CacheTransceiver(backend)


def _read_model(model: str) -> None:
    """Errors of huggingface_hub: `validate_repo_id` for a path that is not there, and `GatedRepoError`."""
    if model.startswith("/") and not os.path.exists(model):
        raise ValueError(
            f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{model}'. Use `repo_type` argument if"
            " needed."
        )
    if model.startswith("gated/") and not os.environ.get("HF_TOKEN"):
        raise OSError(
            f"401 Client Error. Cannot access gated repo for url https://huggingface.co/{model}/resolve/main/config.json"
            f". Access to model {model} is restricted. You must have access to it and be authenticated to access it."
            " Please log in."
        )
