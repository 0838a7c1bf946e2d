"""Streams of runs that speak HTTP alone, from a real socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.listening import listening
from trtdist.engines.base import Sampling
from trtdist.errors import TrtdistError
from trtdist.services.envfile import write_env
from trtdist.serving.http_asking import stream_over_http
from trtdist.serving.requester import Answer, Ask, RequestError

EVENTS = [
    {"choices": [{"text": " Par", "finish_reason": None}]},
    {"choices": [{"text": "is", "finish_reason": "stop"}], "usage": {"completion_tokens": 2}},
]


def stream(*events: object, done: bool = True) -> bytes:
    """An answer in chunks, one event in each."""
    data = [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"] * done
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in data)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def whole(status: int, body: object) -> bytes:
    text = json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text


def ask(run: Path, answer: bytes | None, timeout: float = 30.0) -> tuple[list[Answer], dict[str, object]]:
    """What comes of a request that is answered with these bytes (None for silence), and its body."""
    asked: dict[str, object] = {}

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        asked.update(json.loads(await reader.readexactly(int(head.partition("content-length:")[2].split("\r\n")[0]))))
        if answer is None:
            await reader.read()
        writer.write(answer or b"")

    async def main() -> list[Answer]:
        async with listening(attend) as port:
            write_env(run / "resolved.env", {"TRTDIST_HTTP_URL": f"http://127.0.0.1:{port}"})
            sampling = Sampling(8, 0.5, 0.9, 7, ("\n",))
            return [part async for part in stream_over_http(run, "org/model", Ask(sampling, "Hello", timeout=timeout))]

    return asyncio.run(main()), asked


def test_the_parts_of_an_answer(tmp_path: Path) -> None:
    parts, asked = ask(tmp_path, stream(*EVENTS))
    assert parts == [Answer((), " Par"), Answer((), "is", "stop", {"completion_tokens": 2})]
    assert asked == {
        "model": "org/model", "prompt": "Hello", "max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "stream": True,
        "seed": 7, "stop": ["\n"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (whole(404, {"object": "error", "message": "Model not found"}), "bad_request", "status 404: Model not found"),
        (whole(500, {"error": {"message": "engine died"}}), "engine", "status 500: engine died"),
        (whole(400, {"detail": "max_tokens is wrong"}), "bad_request", "status 400: max_tokens is wrong"),
        (stream({"error": {"message": "cut off"}}), "engine", "cut off"),
        (stream(EVENTS[0], done=False), "lost", "the stream ended before the answer did"),
        (stream([1]), "lost", "it sent what is no JSON object"),
        (b"HTTP/1.1 200 OK\r\n", "lost", "closed the connection in the middle"),
    ],
)
def test_what_goes_wrong_is_told(tmp_path: Path, answer: bytes, code: str, told: str) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        ask(tmp_path, answer)
    assert caught.value.code == code


def test_an_answer_that_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"the answer was not complete within 0\.2 s") as caught:
        ask(tmp_path, None, 0.2)
    assert caught.value.code == "deadline"


def test_nobody_there(tmp_path: Path) -> None:
    write_env(tmp_path / "resolved.env", {"TRTDIST_HTTP_URL": "http://127.0.0.1:1"})

    async def main() -> None:
        async for _ in stream_over_http(tmp_path, "org/model", Ask(Sampling(), "Hello")):
            pass

    with pytest.raises(TrtdistError, match="cannot be reached"):
        asyncio.run(main())
