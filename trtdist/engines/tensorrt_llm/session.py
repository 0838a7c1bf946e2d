"""The ranks of one server in MPI: the leader's session, which hears how each rank ends, and the others' place in it.

As `disaggregated_mpi_worker` does it (`tensorrt_llm/commands/serve.py`; `split_world_comm` in
`tensorrt_llm/llmapi/disagg_utils.py`): the world is split by server, `set_mpi_comm` makes the part the world of this
engine on every rank, the leader makes an `MpiCommSession` of it, and the others wait in `MPICommExecutor` for what the
leader submits. Unlike there, the leader keeps the session in its own process, so that its futures tell of each rank;
behind trtllm-llmapi-launch `submit` returns none (`RemoteMpiCommSessionClient.submit`).
"""

from __future__ import annotations

import importlib
import os
import sys
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Callable

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.tensorrt_llm.deaths import Deaths
from trtdist.engines.world import check_place, color

__all__ = ["follow", "lead", "named_task", "run_task", "split_world"]


def split_world(config: EngineConfig) -> Any:
    """Start MPI and give the communicator of this server; EngineError when there is no MPI or it is not the plan's.

    The device must have been chosen before.
    """
    try:
        mpi: Any = importlib.import_module("mpi4py.MPI")
        intracomm = importlib.import_module("mpi4py.util.pkl5").Intracomm
    except (ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise EngineError(f"{sys.executable} has no MPI ({why}); use an image that has mpi4py") from None
    world = mpi.COMM_WORLD
    check_place(config, world.Get_rank(), world.Get_size())
    return intracomm(world.Split(color(config), config.rank))


def lead(communicator: Any, deaths: Deaths) -> Any:
    """The session to hand to `LLM` as `_mpi_session`; it tells `deaths` of every rank that ends."""
    # Imported here: the class is a part of TensorRT-LLM.
    base: Any = importlib.import_module("tensorrt_llm.llmapi.mpi_session").MpiCommSession
    _set_communicator(communicator)

    class Session(base):  # type: ignore[misc]
        """Runs what it is given as `run_task`, and hears of its end; what is waited for is to end."""

        def submit_sync(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
            return [future.result() for future in super().submit(named_task, task, *args, **kwargs)]

        def submit(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Future[Any]]:
            futures: list[Future[Any]] = super().submit(run_task, task, *args, **kwargs)
            for future in futures:
                future.add_done_callback(lambda done: _tell(done, deaths))
            return futures

        def shutdown_abort(self, grace: float = 60, reason: Any = None) -> None:
            if reason is not None:
                deaths.failed(f"{_rank_name()} failed: {reason}")
            super().shutdown_abort(grace, reason)

        def __reduce__(self) -> tuple[Any, ...]:
            # Some releases leave it in the arguments that they send to every rank, and their own class refuses that.
            return _nothing, ()

    made = Session(comm=communicator, n_workers=communicator.Get_size())
    # mpi4py splits the communicator in a thread of the pool, and the ranks begin with a barrier on the same one
    # (`worker_main`): whichever came second here would meet the other one's messages there.
    if made.mpi_pool is not None:
        made.mpi_pool.bootup(wait=True)
    return made


def follow(communicator: Any) -> None:
    """Take part as a rank that does not lead, until the leader shuts its session down."""
    executor: Any = importlib.import_module("mpi4py.futures").MPICommExecutor
    _set_communicator(communicator)
    with executor(communicator) as leading:
        if leading is not None:
            raise EngineError(f"{_rank_name()} leads its MPI communicator, and the plan says that it does not")


def run_task(task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
    """What every rank runs for its leader: the name of the rank when the task ended, EngineError when it failed.

    A rank that does not lead ends its process when it fails: the others wait for it in the middle of a step, and so
    the launcher learns at once which rank was the first.
    """
    loading = _Loading(kwargs.get("worker_cls"))
    if loading.kind is not None:
        kwargs["worker_cls"] = loading
    try:
        with _Named():
            task(*args, **kwargs)
            loading.check()
    except EngineError as error:
        if not _leading():
            print(f"trtdist: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        raise
    return _rank_name()


def named_task(task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """What every rank runs while its leader waits, such as the download of a model: the result, or EngineError."""
    with _Named():
        return task(*args, **kwargs)


def _nothing() -> None:
    """What a session is on the ranks that do not lead."""


def _rank_name() -> str:
    """This process, as logs and the plan name it."""
    return f"{os.environ.get('TRTDIST_SERVER', 'server')}.{os.environ.get('TRTDIST_RANK', '0')}"


def _leading() -> bool:
    return os.environ.get("TRTDIST_RANK", "0") == "0"


def _set_communicator(communicator: Any) -> None:
    """Collective over the ranks of the server: TensorRT-LLM splits it again by node."""
    importlib.import_module("tensorrt_llm._utils").set_mpi_comm(communicator)


def _tell(done: Future[Any], deaths: Deaths) -> None:
    error = None if done.cancelled() else done.exception()
    if isinstance(error, EngineError):
        deaths.failed(str(error))
    elif error is not None:
        deaths.failed(f"a rank failed: {error}")
    elif not done.cancelled():
        deaths.ended(f"{done.result()} left the engine, and its log says why")


class _Loading:
    """Stands for the class of a rank's worker, since `worker_main` logs what its constructor raises and returns."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self._error: BaseException | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Construct the worker."""
        with self:
            return self.kind(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What else is asked of the class."""
        return getattr(self.kind, name)

    def __enter__(self) -> None:
        """Nothing has failed yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._error = error

    def check(self) -> None:
        """Raise what the constructor raised."""
        if self._error is not None:
            raise self._error


class _Named:
    """Names the rank in what went wrong on it: its leader sees the error alone."""

    def __enter__(self) -> None:
        """Nothing to say yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            raise EngineError(f"{_rank_name()} failed: {type(error).__name__}: {error}") from error
