"""`trtdist client`: send a prompt to a run and stream the answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.cli.output import nobody_reads, write
from trtdist.cli.via import AUTO, DIRECT, STEP, answers
from trtdist.errors import InputError, TrtdistError
from trtdist.observe.living import find_serving_run
from trtdist.observe.snapshot import RunReader, Snapshot
from trtdist.observe.times import clock

if TYPE_CHECKING:
    from trtdist.serving.requester import Answer

__all__ = ["Printer", "command", "ready"]

DEFAULT_PROMPT = "what is the capital of france?"
_SECONDS = click.FloatRange(0, 1e9, min_open=True)
PREPARING = ("PREPARING", "STARTING")


@click.command("client")
@click.option("--run", metavar="RUN", help="As for the other commands; without it the newest run that is up.")
@click.option("--prompt", metavar="TEXT", help=f"What is asked.  [default: {DEFAULT_PROMPT}]")
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from a file, - for standard input.")
@click.option("--max-tokens", default=10, show_default=True, type=click.IntRange(1, 1 << 20), help="Most new tokens.")
@click.option("--temperature", default=0.5, show_default=True, type=click.FloatRange(0, 100), help="0 is greedy.")
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="Nucleus sampling.")
@click.option("--seed", type=click.IntRange(-(2**63), 2**64), help="Makes sampling reproducible.")
@click.option("--stop", metavar="TEXT", multiple=True, help="Text that ends the answer; may be given several times.")
@click.option("--streaming/--no-streaming", default=True, show_default=True, help="As it comes, or all at the end.")
@click.option("--component", metavar="NAME", help="router or tensorrt-llm.  [default: the run's front door]")
@click.option("--format", "shape", default="text", show_default=True, type=click.Choice(["text", "annotated", "json"]))
@click.option(
    "--via",
    default=AUTO,
    show_default=True,
    type=click.Choice([AUTO, DIRECT, STEP]),
    help="Over the network, or through a step on the run's head node; auto tries the network first.",
)
@click.option("--timeout", default=600.0, show_default=True, type=_SECONDS, help="Seconds for it all.")
def command(
    run: str | None,
    prompt: str | None,
    prompt_file: str | None,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    streaming: bool,
    component: str | None,
    shape: str,
    via: str,
    timeout: float,
) -> None:
    """Send a prompt to a run and print the answer.

    The exit code is 1 when the run is not READY or the request fails, 2 when the request is wrong; Ctrl-C cancels it
    and ends with 130.
    """
    text = _prompt(prompt, prompt_file)
    snapshot = ready(RunReader(find_serving_run(run, os.environ)).look())
    if component is not None and snapshot.plan.over_http:
        raise InputError(
            f"run {snapshot.run.run_id} is asked over HTTP, where it has no components: leave --component out"
        )

    from trtdist.engines.base import Sampling
    from trtdist.serving.requester import Ask

    ask = Ask(
        Sampling(max_tokens, temperature, top_p, seed, stop),
        text,
        component=component or snapshot.endpoints.component,
        timeout=timeout,
        request_id=secrets.token_hex(16),
    )
    printer = {"text": Printer, "annotated": _Annotated, "json": _Json}[shape](ask.request_id)
    view = _as_it_comes if streaming else _whole
    _to_the_end(_send(answers(snapshot, ask, via), printer, view))


def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it; a request that a server calls wrong is the user's mistake, Ctrl-C ends with 130."""
    from trtdist.serving.attempt import RequestError

    try:
        asyncio.run(work)
    except BrokenPipeError:
        nobody_reads()
    except RequestError as error:
        if error.code == "bad_request":
            raise InputError(str(error)) from error
        raise
    except asyncio.CancelledError:
        raise click.exceptions.Exit(130) from None


class Printer:
    """Prints the text of an answer as it is."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.text = ""

    def show(self, answer: Answer) -> None:
        """Print what was added."""
        self.text += answer.text
        write(answer.text)

    def end(self) -> None:
        """The answer, or what there is of it, is over."""
        write("\n")


class _Annotated(Printer):
    """The lines of the runtime that this one follows: all text so far, as a Python literal."""

    def show(self, answer: Answer) -> None:
        self.text += answer.text
        # An answer may end with a message that adds nothing.
        if answer.text or answer.token_ids:
            write(f"Annotated(data={self.text!r}, event=None, comment=[], id=None)\n")

    def end(self) -> None:
        pass


class _Json(Printer):
    """One object for each chunk."""

    def show(self, answer: Answer) -> None:
        chunk = {"request_id": self.request_id, "text": answer.text, "token_ids": answer.token_ids}
        write(json.dumps({**chunk, "finish_reason": answer.finish_reason, "usage": answer.usage or None}) + "\n")

    def end(self) -> None:
        pass


View = Callable[["AsyncIterator[Answer]"], "AsyncIterator[Answer]"]


def _as_it_comes(answers: AsyncIterator[Answer]) -> AsyncIterator[Answer]:
    return answers


async def _whole(answers: AsyncIterator[Answer]) -> AsyncIterator[Answer]:
    """All answers as one, when the last has come."""
    from trtdist.serving.requester import Answer

    parts = [answer async for answer in answers]
    ids = tuple(number for part in parts for number in part.token_ids)
    yield Answer(ids, "".join(part.text for part in parts), parts[-1].finish_reason, parts[-1].usage)


def _prompt(prompt: str | None, file: str | None) -> str:
    if prompt is not None and file is not None:
        raise InputError("--prompt and --prompt-file were both given: give one of them")
    text = _read(file) if file is not None else DEFAULT_PROMPT if prompt is None else prompt
    if not text:
        raise InputError("the prompt is empty: write something to be answered")
    return text


def _read(file: str) -> str:
    """The text of a file without the end of its last line."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise InputError(f"cannot read the prompt from {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the prompt in {file} is no UTF-8: byte {error.start} is the first that is not") from error


def ready(snapshot: Snapshot) -> Snapshot:
    """The snapshot of a run that answers; TrtdistError says why it does not."""
    status = snapshot.status
    # One that was started by hand has no supervisor that could know.
    if status.state in ("READY", "MANUAL"):
        return snapshot
    name = snapshot.run.run_id
    reason = status.failure.reason if status.failure is not None else status.detail
    why = f" ({reason})" if reason else ""
    if status.state == "PENDING":
        starts = status.job.starts if status.job is not None else None
        expected = f", expected to start at {clock(starts)}" if starts else ""
        remedy = "send the prompt once it is READY, which `trtdist status --watch` shows"
        raise TrtdistError(f"run {name} is in Slurm's queue, where {reason}{expected}: {remedy}")
    if status.state in PREPARING:
        raise TrtdistError(f"run {name} is {status.state}{why}: send the prompt once it is READY, see `trtdist status`")
    raise TrtdistError(f"run {name} is {status.state}{why}: bring it up again, or name another run with --run")


async def _send(
    source: contextlib.AbstractAsyncContextManager[AsyncIterator[Answer]], printer: Printer, view: View
) -> None:
    async with _interruptible(), source as found:
        begun = False
        try:
            async for answer in view(found):
                begun = True
                printer.show(answer)
        finally:
            if begun:
                printer.end()


@contextlib.asynccontextmanager
async def _interruptible() -> AsyncIterator[None]:
    """Ctrl-C and TERM cancel this task, so that the request is cancelled down to the engine."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
