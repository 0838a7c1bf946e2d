"""`python -m trtdist.serving.asking RUN_DIR`: asks a run on behalf of somebody who reaches only its standard streams.

Reads one line with the request and prints a line for each part of the answer, the last one with what went wrong if
something did. The end of its input cancels the request. The lines are JSON: `encode_ask`, `decode_answer`. Python 3.9.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from trtdist.engines.base import Sampling
from trtdist.errors import InputError, TrtdistError
from trtdist.plan import from_json
from trtdist.serving.http_asking import stream_over_http
from trtdist.serving.program import run_program
from trtdist.serving.requester import Answer, Ask, Requester
from trtdist.serving.run_config import RunConfig

__all__ = ["AskingError", "decode_answer", "decode_ask", "encode_ask", "main"]


class AskingError(TrtdistError):
    """What went wrong on the other side, with the exit code that it has there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def encode_ask(ask: Ask) -> bytes:
    """A request as a line."""
    return json.dumps(dataclasses.asdict(ask)).encode("ascii") + b"\n"


def decode_ask(line: bytes) -> Ask:
    """The request of a line; InputError when it holds none."""
    try:
        found = json.loads(line)
        sampling = Sampling(**{**found["sampling"], "stop": tuple(found["sampling"]["stop"])})
        return Ask(**{**found, "sampling": sampling, "token_ids": tuple(found["token_ids"])})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"this is no request: {error}") from error


def decode_answer(line: bytes) -> Answer | None:
    """The part of an answer that a line holds, None for a line that somebody else printed.

    AskingError when it says that the request failed.
    """
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    if "error" in found:
        raise AskingError(str(found["error"]), int(found["exit_code"]))
    if "token_ids" not in found:
        return None
    return Answer(**{**found, "token_ids": tuple(found["token_ids"])})


def main(arguments: list[str]) -> int:
    """Ask the run that the argument names; returns the exit code."""
    return run_program(arguments, lambda path: asyncio.run(_relay(path)))


async def _relay(path: Path) -> None:
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.readline)
    task = asyncio.ensure_future(_answer(path, line))
    _on_end_of_input(task)
    try:
        await task
    except asyncio.CancelledError:
        _print({"error": "cancelled", "exit_code": 130})
    except TrtdistError as error:
        _print({"error": str(error), "exit_code": error.exit_code})


async def _answer(path: Path, line: bytes) -> None:
    plan = from_json((path / "plan.json").read_text(encoding="utf-8"))
    if plan.over_http:
        await _print_all(stream_over_http(path, plan.model, decode_ask(line)))
        return
    async with Requester.open(RunConfig.load(path), "trtdist client") as requester:
        await _print_all(requester.stream(decode_ask(line)))


async def _print_all(answers: AsyncGenerator[Answer, None]) -> None:
    try:
        async for answer in answers:
            _print(dataclasses.asdict(answer))
    finally:
        await answers.aclose()


def _on_end_of_input(task: asyncio.Future[None]) -> None:
    """Cancel the task when whoever asks is gone."""
    loop = asyncio.get_running_loop()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        # Nobody listens any more when the loop has ended first.
        if not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    threading.Thread(target=watch, daemon=True).start()


def _print(what: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(what).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
