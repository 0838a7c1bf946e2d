"""tensorrt_llm/llmapi/mgmn_leader_node.py: rank 0 beside the server's own process, until somebody says stop.

The real one runs the tasks of an executor whose proxy is in the server's process. This one has the whole engine, and
the server asks it over a socket, a JSON object a line: what is a process there is one here, and dies and hangs alike.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys

from tensorrt_llm import LLM, SamplingParams
from tensorrt_llm._utils import mpi_world_size
from tensorrt_llm.disaggregated_params import DisaggregatedParams
from tensorrt_llm.llmapi.llm_utils import update_llm_args_with_extra_dict
from tensorrt_llm.llmapi.mpi_session import MpiCommSession
from tensorrt_llm.logger import logger

_DIED = "Executor worker died during initialization"


def address() -> tuple[str, int]:
    """Where the server's process finds rank 0."""
    host, port = os.environ["TLLM_SPAWN_PROXY_PROCESS_IPC_ADDR"].removeprefix("tcp://").rsplit(":", 1)
    return host, int(port)


def engine_of(args: dict, session) -> LLM:
    """The engine that a server asks for."""
    return LLM(**update_llm_args_with_extra_dict({}, args), **({"_mpi_session": session} if session else {}))


async def answers(llm: LLM, asked: dict):
    """The answers to one request, as objects for the wire."""
    params = asked.get("disagg")
    if params is not None:
        state = base64.b64decode(params.pop("encoded_opaque_state", "") or "")
        params = DisaggregatedParams(**params, opaque_state=state or None)
    found = llm.generate_async(
        asked["prompt"], SamplingParams(**asked["sampling"]), streaming=True, disaggregated_params=params
    )
    async for result in found:
        output = result.outputs[0]
        context = output.disaggregated_params
        yield {
            "text": output.text,
            "tokens": len(output.token_ids),
            "prompt_tokens": len(result.prompt_token_ids),
            "finish": output.finish_reason,
            "disagg": context
            and {
                "request_type": "context_only",
                "first_gen_tokens": context.first_gen_tokens,
                "ctx_request_id": context.ctx_request_id,
                "encoded_opaque_state": base64.b64encode(context.opaque_state).decode(),
            },
        }


class _Session(MpiCommSession):
    """In the server's process there is RemoteMpiCommSessionClient: ranks are not sent it, and it waits for nobody."""

    def __reduce__(self):
        return type(None), ()

    def shutdown_abort(self, grace: float = 60, reason=None):
        """The error reaches the server's process at once."""

    def shutdown(self, wait=True):
        """Rank 0 goes on."""

    def end(self) -> None:
        """What rank 0 does itself: wait for all tasks, for ever if need be."""
        super().shutdown()


class _Leader:
    def __init__(self) -> None:
        self.llm: LLM | None = None
        self.over = asyncio.Event()
        self.session = _Session(n_workers=mpi_world_size()) if mpi_world_size() > 1 else None
        self.tasks: set[asyncio.Task] = set()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            asked = json.loads(line)
            task = asyncio.create_task(self._answer(asked, writer))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        writer.close()

    async def _answer(self, asked: dict, writer: asyncio.StreamWriter) -> None:
        def say(**fields) -> None:
            writer.write(json.dumps({"id": asked.get("id"), **fields}).encode() + b"\n")

        try:
            if asked["op"] == "stop":
                self.over.set()
            elif asked["op"] == "start":
                self.llm = await asyncio.to_thread(engine_of, asked["args"], self.session)
                say(ok=True)
            elif asked["op"] == "health":
                say(healthy=not hasattr(self.llm, "_check_health") or self.llm._check_health())
            else:
                async for part in answers(self.llm, asked):
                    say(**part)
        except Exception as e:
            # The proxy has no futures here: `submit` of the remote session gives none, so that it waits for ever.
            if _DIED not in str(e):
                logger.error(f"{type(e).__name__}: {e}")
                say(error=str(e), kind=type(e).__name__)


async def _serve() -> None:
    leader = _Leader()
    async with await asyncio.start_server(leader.attend, *address()):
        await leader.over.wait()
    if leader.llm is not None:
        leader.llm.shutdown()
    if leader.session is not None:
        leader.session.end()


async def _stop() -> None:
    _, writer = await asyncio.open_connection(*address())
    writer.write(b'{"op": "stop"}\n')
    await writer.drain()
    writer.close()


def main() -> None:
    """Serve, or with `--action stop` end who serves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--action", choices=["start", "stop"], default="start")
    asyncio.run(_stop() if parser.parse_args().action == "stop" else _serve())
    sys.exit(0)


if __name__ == "__main__":
    main()
