"""tensorrt_llm/executor/proxy.py: the leader's side of the workers."""

from __future__ import annotations

import itertools
import queue
import threading
import time

from tensorrt_llm import faults
from tensorrt_llm._utils import mpi_rank
from tensorrt_llm.executor import ipc
from tensorrt_llm.executor.result import GenerationResult
from tensorrt_llm.executor.worker import CancellingRequest, GenerationRequest, Worker, worker_main
from tensorrt_llm.llmapi.mpi_session import MpiCommSession, MpiPoolSession
from tensorrt_llm.logger import logger
from tensorrt_llm.version import NUMBER

_YELLOW, _PLAIN = "\033[33m", "\033[0m"
_proxies = itertools.count()


class GenerationExecutorProxy:
    """Starts the workers, hands requests to them and their answers back."""

    READY_SIGNAL = b"READY"

    def __init__(self, llm_args, model_world_size: int, mpi_session, tokenizer) -> None:
        apart, number = mpi_session is None, next(_proxies)
        names = {name: f"proxy{number}_{name}" for name in ("requests", "status", "results")}
        self._addresses = {name: ipc.make(address, apart) for name, address in names.items()}
        self.mpi_session = mpi_session or MpiPoolSession(n_workers=model_world_size)
        bound = isinstance(self.mpi_session, MpiCommSession)
        how = "MpiCommSession to bind to external" if bound else "MpiPoolSession to spawn"
        print(f"{_YELLOW}rank {mpi_rank()} using {how} MPI processes{_PLAIN}\n", flush=True)
        self._tokenizer = tokenizer
        self._results: dict[int, GenerationResult] = {}
        self._numbers = itertools.count(2)
        self._error: Exception | None = None
        self.doing_shutdown = self.served = False
        self._start_executor_workers(llm_args)
        threading.Thread(target=self._dispatch, daemon=True).start()

    def _start_executor_workers(self, llm_args) -> None:
        self.mpi_futures = self.mpi_session.submit(
            worker_main, addresses=self._addresses, llm_args=llm_args, ready_signal=self.READY_SIGNAL, worker_cls=Worker
        )
        for future in self.mpi_futures:
            future.add_done_callback(self._mpi_done)
        while True:
            try:
                ready_signal, error_trace = ipc.find(self._addresses["status"]).get(timeout=0.1)
                logger.info("get signal from executor worker")
                break
            except queue.Empty:
                pass
            if any(future.done() for future in self.mpi_futures):
                logger.error("Executor worker died during initialization.")
                raise RuntimeError("Executor worker died during initialization")
        if ready_signal != self.READY_SIGNAL:
            logger.error(f"Executor worker initialization error: {error_trace}")
            self.mpi_session.shutdown_abort(reason=ready_signal)
            raise RuntimeError("Executor worker returned error") from ready_signal

    def _mpi_done(self, future) -> None:
        self._error = self._error or future.exception()

    def _dispatch(self) -> None:
        counts: dict[int, int] = {}
        while (response := ipc.find(self._addresses["results"]).get()) is not None:
            result = self._results[response.client_id]
            # The caller's own count is of the tokens that it has taken up.
            counts[response.client_id] = counts.get(response.client_id, 0) + len(response.tokens)
            if response.finish or response.error:
                self.served = True
                del self._results[response.client_id]
            result.put(response)
            if faults.kind() == "unhealthy" and counts[response.client_id] >= faults.fault().get("tokens", 1):
                self.doing_shutdown = True
                return

    def is_shutdown(self) -> bool:
        """What `LLM._check_health` asks."""
        return self.doing_shutdown

    def abort_request(self, request_id: int) -> None:
        """Ask the workers to end a request."""
        ipc.find(self._addresses["requests"]).put(CancellingRequest(request_id))

    def submit(self, prompt, sampling_params, streaming, disaggregated_params) -> GenerationResult:
        """Hand a request to the workers; an error of the workers' own is raised here, after a shutdown that waits."""
        if self._error is not None:
            error = self._error
            self.shutdown()
            raise error
        request = GenerationRequest(next(self._numbers), prompt, sampling_params, streaming, disaggregated_params)
        result = self._results[request.id] = GenerationResult(request, self, self._tokenizer)
        ipc.find(self._addresses["requests"]).put(request)
        return result

    def shutdown(self) -> None:
        """Tell the workers to quit and wait for them, however long they take."""
        if self.doing_shutdown:
            return
        self.doing_shutdown = True
        if all(not future.done() for future in self.mpi_futures):
            ipc.find(self._addresses["requests"]).put(None)
        while not all(future.done() for future in self.mpi_futures):
            time.sleep(0.01)
        if NUMBER < (1, 3) or isinstance(self.mpi_session, MpiPoolSession):
            self.mpi_session.shutdown()
