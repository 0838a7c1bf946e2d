"""tensorrt_llm/serve/openai_server.py: one server, with the endpoints that are asked here."""

from __future__ import annotations

import time
import uuid

from tensorrt_llm.serve.http import HttpError
from tensorrt_llm.version import __version__

# serve/readiness.py (e6c89c08): before it has loaded, every path is answered so.
_STARTING = {
    "message": "The server is still initializing the model and cannot serve requests yet. It is listening, so this is"
    " not a crash; retry until /health returns 200.",
    "type": "ServiceUnavailableError",
    "code": "starting",
}
_UNAVAILABLE = "LLM is unavailable. Please check the server logs for more details."


class OpenAIServer:
    """Answers for an engine; `starting` until it has loaded."""

    def __init__(self, engine, model: str) -> None:
        self.engine, self.model, self.starting = engine, model, True

    async def handle(self, method: str, path: str, body: dict) -> tuple:
        """What a request is answered with."""
        if self.starting:
            return 503, {"x-trtllm-server-state": "starting", "retry-after": "1"}, {"error": _STARTING}
        if path == "/health":
            return (200, {}, None) if await self.engine.healthy() else (503, {}, _UNAVAILABLE)
        if path == "/version":
            return 200, {}, {"version": __version__}
        if path == "/v1/models":
            return 200, {}, {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        if method == "POST" and path in ("/v1/completions", "/v1/chat/completions"):
            return await self._complete(body, chat=path.startswith("/v1/chat"))
        raise HttpError(404, "Not Found")

    async def _complete(self, body: dict, chat: bool) -> tuple:
        prompt = "".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        disagg = body.get("disaggregated_params")
        if disagg and disagg.get("request_type") == "context_only":
            most = 1
        sampling = {"max_tokens": most, "temperature": body.get("temperature"), "stop": body.get("stop")}
        asked = {"prompt": prompt, "sampling": sampling, "disagg": disagg and dict(disagg)}
        number = f"cmpl-{uuid.uuid4().hex}"
        if body.get("stream"):
            return 200, {}, self._stream(asked, number, chat)
        last: dict = {}
        try:
            async for part in self.engine.generate(asked):
                last = part
        except ValueError as e:
            raise HttpError(400, str(e)) from None
        except RuntimeError as e:
            raise HttpError(500, str(e)) from None
        choice = {"index": 0, "finish_reason": last["finish"], "disaggregated_params": last["disagg"]}
        choice |= {"message": {"role": "assistant", "content": last["text"]}} if chat else {"text": last["text"]}
        return 200, {}, self._object(number, chat, choices=[choice], usage=_usage(last))

    async def _stream(self, asked: dict, number: str, chat: bool):
        said = ""
        async for part in self.engine.generate(asked):
            delta, said = part["text"][len(said) :], part["text"]
            piece = {"delta": {"content": delta}} if chat else {"text": delta}
            choice = {"index": 0, **piece, "finish_reason": part["finish"]}
            yield self._object(number, chat, choices=[choice], **({"usage": _usage(part)} if part["finish"] else {}))
        yield "[DONE]"

    def _object(self, number: str, chat: bool, **fields) -> dict:
        kind = "chat.completion" if chat else "text_completion"
        return {"id": number, "object": kind, "created": int(time.time()), "model": self.model, **fields}


def _usage(part: dict) -> dict:
    prompt, completion = part["prompt_tokens"], part["tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
