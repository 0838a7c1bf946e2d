"""tensorrt_llm/llmapi/mpi_session.py (00a1352a): who runs the tasks of an engine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from mpi4py import MPI
from mpi4py.futures import MPICommExecutor

from tensorrt_llm._utils import global_mpi_size, hang_as_a_spawned_worker_would, mpi_world_size
from tensorrt_llm.executor import ipc
from tensorrt_llm.logger import logger


def external_mpi_comm_available(model_world_size: int) -> bool:
    """Whether the ranks of the model are there already, as a part of the world or the whole."""
    return (mpi_world_size() == model_world_size and model_world_size > 1) or global_mpi_size() > mpi_world_size()


class MpiSession:
    """What both sessions have."""

    def shutdown_abort(self, grace: float = 60, reason=None):
        """End, and abort MPI after `grace` seconds for ranks that do not."""
        done: Future = Future()
        threading.Thread(target=self._abort_on_timeout, args=(done, grace), daemon=True).start()
        self.shutdown()
        done.set_result(None)

    def submit_sync(self, task, *args, **kwargs) -> list:
        """One task on each rank, and their results in the order of ranks."""
        return [future.result() for future in self.submit(task, *args, **kwargs)]

    def __reduce__(self):
        raise TypeError("cannot pickle MPI session")

    def _abort_on_timeout(self, done: Future, timeout: float) -> None:
        try:
            done.result(timeout=timeout)
        except TimeoutError:
            logger.error(
                f"MpiSession shutdown timeout after {timeout}s; calling MPI_Abort to force-kill stuck ranks..."
            )
            MPI.COMM_WORLD.Abort(1)


class MpiCommSession(MpiSession):
    """The ranks of a communicator: rank 0's tasks in a thread, the others' through MPICommExecutor."""

    def __init__(self, comm=None, n_workers: int = 1):
        self.comm = comm or MPI.COMM_WORLD
        self.n_workers = n_workers
        if self.comm.Get_rank() != 0:
            raise RuntimeError(f"only rank 0 can start multi-node session, got {self.comm.Get_rank()}")
        if self.comm.Get_size() != n_workers:
            raise ValueError(
                f"n_workers must be equal to the number of processes in MPI, got {n_workers} vs {self.comm.Get_size()}"
            )
        self.thread_pool = ThreadPoolExecutor(max_workers=2)
        self.mpi_pool = MPICommExecutor(self.comm).__enter__()

    def submit(self, task, *args, **kwargs) -> list[Future]:
        """One task on each rank, rank 0 first."""
        worker_futures = [self.mpi_pool.submit(task, *args, **kwargs) for _ in range(self.n_workers - 1)]
        return [self.thread_pool.submit(task, *args, **kwargs), *worker_futures]

    def shutdown(self, wait=True):
        """Wait for all tasks, for ever if need be."""
        if self.mpi_pool is not None:
            self.mpi_pool.shutdown(wait=wait)
            self.mpi_pool = None
        if self.thread_pool is not None:
            self.thread_pool.shutdown(wait=wait)
            self.thread_pool = None


class MpiPoolSession(MpiSession):
    """A worker that the engine starts by itself; the real one spawns it with MPI, this one with multiprocessing."""

    def __init__(self, n_workers: int):
        # The real one forwards TRTLLM* and TLLM* and what mpi4py gives on.
        self._names = {name: os.environ[name] for name in os.environ if name.startswith(("TRTDIST_", "STANDIN_"))}
        self.n_workers = n_workers
        self._waiting: list[threading.Thread] = []

    def submit(self, task, *args, **kwargs) -> list[Future]:
        """One task on each worker."""
        return [self._started(task, args, kwargs) for _ in range(self.n_workers)]

    def _started(self, task, args, kwargs) -> Future:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_run, args=(theirs, self._names, ipc.shared(), task, args, kwargs), daemon=True
        )
        process.start()
        theirs.close()
        future: Future = Future()
        self._waiting.append(threading.Thread(target=_await, args=(mine, future), daemon=True))
        self._waiting[-1].start()
        return future

    def shutdown(self, wait=True):
        """Wait for the workers."""
        for thread in self._waiting if wait else ():
            thread.join()


def _run(told, environ: dict, queues: dict, task, args, kwargs) -> None:
    os.environ.update(environ)
    ipc.adopt(queues)
    hang_as_a_spawned_worker_would()
    try:
        told.send((task(*args, **kwargs), None))
    except Exception as e:
        told.send((None, e))


def _await(mine, future: Future) -> None:
    try:
        result, error = mine.recv()
    except EOFError:
        result, error = None, RuntimeError("the spawned worker ended without a word")
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
