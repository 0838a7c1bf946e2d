"""The HTTP front end in front of real servers: OpenAI's own client, and everything that clients get wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serving.deployment import Deployment, Running, deployment, scripted_plan
from tests.serving.front import MODEL, Front, fronting, raw_request
from tests.serving.scripted import until
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.serving.front.chat import Messages
from trtdist.serving.front.connection import Limits

Scene = Callable[[Front, Deployment, dict[str, Running]], Awaitable[None]]
Play = Callable[..., None]
COUNT = {"model": MODEL, "prompt": "count 3"}


def last_message(messages: Messages) -> str:
    """A template under which a chat follows the engine's script."""
    return messages[-1]["content"]


@pytest.fixture
def play(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> Play:
    """Plays a scene with a front end in front of one server, or of a context and a generation server."""

    def run(scene: Scene, contexts: int = 0, **settings: Any) -> None:
        async def main() -> None:
            async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(contexts, 1)) as deployed:
                running = await deployed.all()
                async with fronting(deployed, **{"template": last_message, **settings}) as front:
                    await scene(front, deployed, running)

        asyncio.run(main())

    return run


def client(front: Front, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=front.url, api_key=key, max_retries=0, timeout=60)


def asking(text: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]}


def test_openai_client_gets_whole_answers(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        async with client(front) as openai_client:
            assert [model.id async for model in openai_client.models.list()] == [MODEL]
            assert (await openai_client.models.retrieve(MODEL)).id == MODEL
            chat = await openai_client.chat.completions.create(**asking("count 3"), max_completion_tokens=3, seed=7)
            assert chat.choices[0].message.content == "0 1 2 " and chat.choices[0].finish_reason == "length"
            assert chat.usage is not None
            assert (chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens) == (7, 3, 10)
            many = await openai_client.completions.create(model=MODEL, prompt=["count 1", "count 2"], n=2, seed=5)
            assert [choice.text for choice in many.choices] == ["0 ", "0 ", "0 1 ", "0 1 "]
            assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
            assert many.usage is not None and (many.usage.prompt_tokens, many.usage.completion_tokens) == (14, 6)
        asked = running["srv.0"].engine.requests
        assert sorted(request.sampling.seed or 0 for request in asked[1:]) == [5, 5, 6, 6]
        assert asked[0].sampling.seed == 7 and asked[0].sampling.max_tokens == 3

    play(scene)


def test_openai_client_gets_streams(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        async with client(front) as openai_client:
            stream = await openai_client.chat.completions.create(
                **asking("count 400"), stream=True, stream_options={"include_usage": True}
            )
            events = [event async for event in stream]
            text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
            assert text == "".join(f"{number % 10} " for number in range(400))
            assert events[0].choices[0].delta.role == "assistant"
            assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "length"
            assert events[-1].usage is not None and events[-1].usage.completion_tokens == 400
            assert len({event.id for event in events}) == 1
            two = await openai_client.completions.create(model=MODEL, prompt="count 50", n=2, stream=True)
            texts = ["", ""]
            async for part in two:
                texts[part.choices[0].index] += part.choices[0].text
            assert texts == ["".join(f"{number % 10} " for number in range(50))] * 2

    play(scene, contexts=1)


def test_openai_client_without_asyncio(play: Play) -> None:
    def ask(url: str) -> str:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as blocking:
            whole = blocking.chat.completions.create(**asking("count 2"))
            stream = blocking.chat.completions.create(**asking("count 2"), stream=True)
            parts = "".join(event.choices[0].delta.content or "" for event in stream)
            return f"{whole.choices[0].message.content}|{parts}"

    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        assert await asyncio.get_running_loop().run_in_executor(None, ask, front.url) == "0 1 |0 1 "

    play(scene)


BAD_BODIES: list[tuple[str, object, int, str | None]] = [
    ("completions", b"{", 400, None),
    ("completions", b"\xff\xfe", 400, None),
    ("completions", b"[1]", 400, None),
    ("completions", b'{"temperature": NaN}', 400, None),
    ("completions", b"[" * 200_000, 400, None),
    ("completions", {**COUNT, "prompt": ""}, 400, "prompt"),
    ("completions", {**COUNT, "prompt": [1, -1]}, 400, "prompt"),
    ("completions", {**COUNT, "prompt": [[1], "a", None]}, 400, "prompt"),
    ("completions", {"model": MODEL}, 400, "prompt"),
    ("completions", {"prompt": "count 1"}, 400, "model"),
    ("completions", {**COUNT, "model": "other"}, 404, "model"),
    ("completions", {**COUNT, "max_tokens": 0}, 400, "max_tokens"),
    ("completions", {**COUNT, "max_tokens": "3"}, 400, "max_tokens"),
    ("completions", {**COUNT, "temperature": True}, 400, "temperature"),
    ("completions", {**COUNT, "top_p": 1.5}, 400, "top_p"),
    ("completions", {**COUNT, "n": 129}, 400, "n"),
    ("completions", {**COUNT, "n": 100, "prompt": ["a", "b"]}, 400, "n"),
    ("completions", {**COUNT, "stop": [1]}, 400, "stop"),
    ("completions", {**COUNT, "stream": "yes"}, 400, "stream"),
    ("completions", {**COUNT, "logprobs": 0}, 400, "logprobs"),
    ("completions", {**COUNT, "tempersture": 1}, 400, "tempersture"),
    ("completions", {**COUNT, "seed": 2**70}, 400, "seed"),
    ("chat/completions", {**asking("x"), "logprobs": True}, 400, "logprobs"),
    ("chat/completions", {**asking("x"), "tools": [{}]}, 400, "tools"),
    ("chat/completions", {"model": MODEL, "messages": []}, 400, "messages"),
    ("chat/completions", {"model": MODEL, "messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role"),
    ("chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
    (
        "chat/completions",
        {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages[0].content[0]",
    ),
]


def test_bad_bodies_are_refused_by_name(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        for path, body, status, param in BAD_BODIES:
            found = await front.post(f"/v1/{path}", body)
            assert (found.status, found.error["param"]) == (status, param), (body, found.body)
        neutral = {"logprobs": None, "presence_penalty": 0, "user": "me", "best_of": 1, "logit_bias": {}}
        assert (await front.post("/v1/completions", {**COUNT, **neutral})).status == 200
        assert running["srv.0"].engine.requests[-1].sampling.max_tokens == 16

    play(scene)


def test_paths_methods_types_and_ids(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        assert (await front.get("/nothing")).error["code"] == "not_found"
        wrong = await front.get("/v1/completions")
        assert (wrong.status, wrong.headers["allow"]) == (405, "post")
        assert (await front.post("/v1/completions", COUNT, content_type="text/plain")).status == 415
        assert (await front.get("/v1/models/other")).status == 404
        assert (await front.get("/live")).status == (await front.get("/health")).status == 200
        named = await front.post("/v1/completions", COUNT, x_request_id="trace-1")
        assert named.headers["x-request-id"] == "trace-1"
        forged = await front.get("/live", x_request_id="a b")
        assert len(forged.headers["x-request-id"]) == 32
        text = (await front.get("/metrics")).body.decode()
        assert 'trtdist_http_requests_total{endpoint="completions",status="200"} 1' in text
        assert "trtdist_http_completion_tokens_total 3\n" in text
        assert "trtdist_http_requests_in_flight 0\n" in text
        assert 'trtdist_http_time_to_first_token_seconds_bucket{le="+Inf"} 1' in text

    play(scene)


def test_a_model_is_found_by_its_path(play: Play) -> None:
    model = "/models/a b"

    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        for name in ("/models/a%20b", "%2Fmodels%2Fa%20b", "%2fmodels/a%20b"):
            assert (await front.get(f"/v1/models/{name}")).json["id"] == model, name
        for name in ("models/a%20b", "//models/a%20b", "%2Fmodels%2Fa"):
            assert (await front.get(f"/v1/models/{name}")).error["code"] == "model_not_found", name
        assert [one["id"] for one in (await front.get("/v1/models/")).json["data"]] == [model]
        async with client(front) as openai_client:
            assert (await openai_client.models.retrieve(model)).id == model
        text = (await front.get("/metrics")).body.decode()
        assert 'trtdist_http_requests_total{endpoint="models",status="200"} 5' in text
        assert 'trtdist_http_requests_total{endpoint="models",status="404"} 3' in text

    play(scene, model=model)


def test_keys_are_asked_for(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        async with client(front, "wrong") as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.completions.create(model=MODEL, prompt="count 1")
        async with client(front, "sk-right") as friend:
            assert (await friend.completions.create(model=MODEL, prompt="count 1")).choices[0].text == "0 "
        assert (await front.get("/metrics")).status == 401
        assert (await front.get("/health")).status == (await front.get("/live")).status == 200

    play(scene, keys=frozenset({hashlib.sha256(b"sk-right").digest()}))


def test_pipelined_requests_are_answered_in_their_order(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        bodies = [json.dumps({**COUNT, "prompt": f"count {count}"}).encode() for count in (30, 1, 7)]
        raw = await front.raw(b"".join(raw_request("POST", "/v1/completions", body) for body in bodies))
        texts = [(await raw.answer()).json["choices"][0]["text"] for _ in bodies]
        assert [len(text.split()) for text in texts] == [30, 1, 7]
        raw.close()

    play(scene)


def test_a_body_is_asked_for_where_the_client_waits(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        body = json.dumps(COUNT).encode()
        request = raw_request("POST", "/v1/completions", body, {"expect": "100-continue"})
        raw = await front.raw(request[: -len(body)])
        assert (await raw.head())[0] == 100
        raw.writer.write(body)
        assert (await raw.answer()).status == 200
        raw.close()

    play(scene)


def test_large_bodies_and_prompts_are_refused_before_they_are_kept(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        assert (await front.post("/v1/completions", {**COUNT, "prompt": "a" * 5000})).status == 413
        ten = await front.raw(raw_request("POST", "/v1/completions", b"", {"content-length": "10000000"}))
        ten.writer.write(b"a" * 1_000_000)
        found = await ten.answer()
        assert (found.status, found.headers["connection"]) == (413, "close") and found.error
        ten.close()
        await until(lambda: front.connections.buffered == 0)
        assert (await front.post("/v1/completions", COUNT)).status == 200

    play(scene, limits=Limits(body=100_000), prompt=4000)


def test_slow_and_silent_clients_are_let_go(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        slow = await front.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
        half = await front.raw(raw_request("POST", "/v1/completions", b"{", {"content-length": "99"}))
        silent = await front.raw()
        for _ in range(20):
            slow.writer.write(b"a: b\r\n")
            await asyncio.sleep(0.02)
        for one in (slow, half):
            found = await one.answer()
            assert found.status == 408 and found.error
            assert await one.closed() == b""
        assert await silent.closed() == b""
        for one in (slow, half, silent):
            one.close()
        await until(lambda: len(front.connections) == 0)

    play(scene, limits=Limits(head_s=0.3, body_s=0.3, idle_s=0.3, linger_s=0.3))


def test_too_much_at_once_is_told_to_come_back(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        body = json.dumps({**COUNT, "prompt": "wait", "stream": True}).encode()
        first = await front.raw(raw_request("POST", "/v1/completions", body))
        assert (await first.head())[0] == 200
        found = await front.post("/v1/completions", COUNT)
        assert (found.status, found.headers["retry-after"], found.error["code"]) == (429, "1", "overloaded")
        first.close()
        await until(lambda: running["srv.0"].engine.ended != [])
        assert (await front.post("/v1/completions", COUNT)).status == 200

    play(scene, requests=1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_engine(play: Play, stream: bool) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        body = json.dumps({**COUNT, "prompt": "count 1000000", "stream": stream}).encode()
        raw = await front.raw(raw_request("POST", "/v1/completions", body))
        await until(lambda: running["srv.0"].engine.produced > 0)
        raw.close()
        await until(lambda: len(running["srv.0"].engine.ended) == 1)
        assert running["srv.0"].engine.produced < 1_000_000
        await until(lambda: len(front.connections) == 0)

    play(scene)


def test_a_client_that_stops_reading_stops_its_own_stream_alone(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        body = json.dumps({**COUNT, "prompt": "count 100000 200", "stream": True}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1024)
        writer.write(raw_request("POST", "/v1/completions", body))
        engine = running["srv.0"].engine
        last = -1
        while engine.produced != last or last == 0:
            last = engine.produced
            await asyncio.sleep(0.2)
        assert 0 < engine.produced < 60_000
        others = await asyncio.gather(*(front.post("/v1/completions", COUNT) for _ in range(20)))
        assert [one.status for one in others] == [200] * 20
        await until(lambda: len(engine.ended) == 21)
        writer.transport.abort()

    play(scene, limits=Limits(stall_s=1.5))


def test_errors_of_the_servers_have_their_own_status(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        failed = await front.post("/v1/completions", {**COUNT, "prompt": "fail"})
        assert (failed.status, failed.error["code"]) == (500, "engine")
        refused = await front.post("/v1/completions", {**COUNT, "prompt": "refuse", "stream": True})
        assert (refused.status, refused.error["code"]) == (400, "bad_request")
        streamed = await front.post("/v1/completions", {**COUNT, "prompt": "fail", "stream": True})
        assert (streamed.status, streamed.error["code"]) == (500, "engine")
        late = await front.post("/v1/completions", {**COUNT, "prompt": "wait"})
        assert (late.status, late.error["code"]) == (504, "deadline")
        broken = await front.post("/v1/completions", {**COUNT, "prompt": "end", "stream": True})
        assert broken.status == 200
        events = broken.body.decode().split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "engine"
        async with client(front) as openai_client:
            stream = await openai_client.completions.create(model=MODEL, prompt="end", stream=True)
            with pytest.raises(openai.APIError, match="without saying why"):
                _ = [part async for part in stream]

    play(scene, timeout=3.0)


def test_servers_that_die_are_told_apart_from_those_that_never_came(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        asked = asyncio.ensure_future(front.post("/v1/completions", {**COUNT, "prompt": "die", "stream": True}))
        found = await asked
        assert json.loads(found.body.decode().split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "lost"
        await deployed.gone("srv.0")
        await until(lambda: front_sees_nobody(front))
        health = await front.get("/health")
        assert (health.status, health.headers["retry-after"]) == (503, "1") and "monolithic" in health.error["message"]
        gone = await front.post("/v1/completions", COUNT)
        assert (gone.status, gone.error["code"]) == (503, "unavailable")
        assert (await front.get("/live")).status == 200
        with pytest.raises(Exception, match="stops serving"):
            await running["srv.0"].end()

    def front_sees_nobody(front: Front) -> bool:
        return not any(one.server == "srv.0" for one in front.requester.snapshot.instances)

    play(scene)


def test_clients_are_asked_to_connect_anew_once_another_run_has_taken_over(play: Play) -> None:
    async def scene(front: Front, deployed: Deployment, running: dict[str, Running]) -> None:
        request = raw_request("POST", "/v1/completions", json.dumps(COUNT).encode())
        raw = await front.raw(request)
        assert (await raw.answer()).headers["connection"] == "keep-alive"
        front.connections.retire()
        raw.writer.write(request)
        answered = await raw.answer()
        assert (answered.status, answered.headers["connection"]) == (200, "close")
        assert await raw.closed() == b""
        raw.close()
        # New ones are served as before.
        assert (await front.post("/v1/completions", COUNT)).status == 200

    play(scene)
