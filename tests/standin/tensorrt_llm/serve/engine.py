"""The engine of a server: its own when one GPU does, else behind rank 0 (`TLLM_SPAWN_PROXY_PROCESS`)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os

from tensorrt_llm.llmapi import mgmn_leader_node


class Engine:
    """In this process. executor/executor.py: a world of one GPU has a worker of its own, whatever launched it."""

    async def start(self, args: dict) -> None:
        """Load."""
        self.llm = await asyncio.to_thread(mgmn_leader_node.engine_of, args, None)

    async def healthy(self) -> bool:
        """Whether the engine calls itself so."""
        return not hasattr(self.llm, "_check_health") or self.llm._check_health()

    async def generate(self, asked: dict):
        """The answers to a request, as `mgmn_leader_node.answers` gives them."""
        async for part in mgmn_leader_node.answers(self.llm, asked):
            yield part

    async def shutdown(self) -> None:
        """End the engine."""
        await asyncio.to_thread(self.llm.shutdown)


class RemoteEngine:
    """Behind rank 0. tensorrt_llm/llmapi/mpi_session.py: RemoteMpiCommSessionClient."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue] = {}

    async def start(self, args: dict) -> None:
        """Load; what the ranks say of a failure is in their logs."""
        while True:
            try:
                reader, self._writer = await asyncio.open_connection(*mgmn_leader_node.address())
                break
            except OSError:
                await asyncio.sleep(0.05)
        self._reading = asyncio.create_task(self._read(reader))
        await self._once({"op": "start", "args": args})

    async def healthy(self) -> bool:
        """Whether the engine calls itself so."""
        return (await self._once({"op": "health"}))["healthy"]

    async def generate(self, asked: dict):
        """The answers to a request."""
        queue = self._send({"op": "generate", **asked})
        while True:
            part = self._checked(await queue.get())
            yield part
            if part["finish"]:
                return

    async def shutdown(self) -> None:
        """The launcher says stop to rank 0."""

    def _send(self, asked: dict) -> asyncio.Queue:
        number = next(self._numbers)
        self._waiting[number] = asyncio.Queue()
        self._writer.write(json.dumps({"id": number, **asked}).encode() + b"\n")
        return self._waiting[number]

    async def _once(self, asked: dict) -> dict:
        return self._checked(await self._send(asked).get())

    def _checked(self, part: dict) -> dict:
        if "error" in part:
            known = part["kind"] in ("RequestError", "ValueError")
            raise (
                ValueError(part["error"]) if known else RuntimeError(f"Executor worker returned error: {part['error']}")
            )
        return part

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            part = json.loads(line)
            self._waiting[part["id"]].put_nowait(part)


def engine() -> Engine | RemoteEngine:
    """The engine of this process."""
    apart = os.environ.get("TLLM_SPAWN_PROXY_PROCESS") == "1" and int(os.environ["tllm_mpi_size"]) > 1  # noqa: SIM112
    return RemoteEngine() if apart else Engine()
