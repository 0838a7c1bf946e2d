"""`trtdist client` as a program, against a scripted worker behind real NATS and etcd servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.observe.fake_run import RUN_ID, FakeRun
from tests.serving.scripted import Act, Refusal, Stage, Worker, on_stage, until
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.cli.client import command
from trtdist.engines.base import Sampling
from trtdist.errors import InputError, TrtdistError
from trtdist.serving.protocol import Chunk, Failure, GenerateCall, Heartbeat, Route
from trtdist.serving.waiting import within

PROGRAM = (sys.executable, "-c", "from trtdist.cli.main import main; main()", "client")
Ending = tuple[int, str, str]


@pytest.fixture
def fake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nats_server: NatsServer, etcd_server: EtcdServer, namespace: str
) -> FakeRun:
    """A run whose services are the test's servers."""
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path))
    made = FakeRun.create(tmp_path, run_id=RUN_ID[:-4] + namespace[-4:])
    made.run.resolved_env.write_text(f"NATS_SERVER={nats_server.url}\nETCD_ENDPOINTS={etcd_server.endpoint}\n")
    (made.run.secrets / "nats.user").write_text(nats_server.user)
    (made.run.secrets / "nats.password").write_text(nats_server.password)
    return made


Play = Callable[[Act, Callable[[Stage, Worker], Awaitable[None]]], None]


@pytest.fixture
def play(fake: FakeRun, nats_server: NatsServer, etcd_server: EtcdServer) -> Play:
    """Runs a scene with a worker that acts as told, behind a router, in a run that is READY."""
    fake.ready()

    def run(act: Act, scene: Callable[[Stage, Worker], Awaitable[None]]) -> None:
        async def main() -> None:
            async with on_stage(nats_server, etcd_server, fake.run.run_id) as stage:
                worker = await stage.worker("srv.0", act)
                await stage.router(lambda call: Route(call.request_id, call.attempt, None, worker.instance, ""))
                await scene(stage, worker)

        asyncio.run(main())

    return run


async def start(*args: str, **environ: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    env = {**os.environ, **environ}
    return await asyncio.create_subprocess_exec(*PROGRAM, *args, stdin=pipe, stdout=pipe, stderr=pipe, env=env)


async def client(*args: str, stdin: bytes = b"", **environ: str) -> Ending:
    """Exit code, output and errors of one client."""
    process = await start(*args, **environ)
    out, err = await within(60, process.communicate(stdin))
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def pieces(*texts: str) -> Act:
    """Answers with these texts, and a last chunk that adds nothing."""

    async def act(worker: Worker, call: GenerateCall) -> None:
        for seq, text in enumerate(texts):
            await worker.say(call, Chunk(call.attempt, seq, (seq,), text))
        await worker.say(call, Chunk(call.attempt, len(texts), (), "", "length", {"prompt_tokens": 3}))

    return act


def test_each_format(play: Play) -> None:
    async def scene(stage: Stage, worker: Worker) -> None:
        text, annotated, objects, *at_once = await asyncio.gather(
            client(),
            client("--format", "annotated"),
            client("--format", "json"),
            client("--no-streaming"),
            client("--no-streaming", "--format", "annotated"),
            client("--no-streaming", "--format", "json"),
        )
        assert text == at_once[0] == (0, ', Paris it\'s "big"\n', "")
        lines = [
            "Annotated(data=', Paris', event=None, comment=[], id=None)",
            """Annotated(data=", Paris it's", event=None, comment=[], id=None)""",
            r"""Annotated(data=', Paris it\'s "big"', event=None, comment=[], id=None)""",
        ]
        assert (annotated[0], annotated[1].splitlines(), annotated[2]) == (0, lines, "")
        assert at_once[1] == (0, f"{lines[-1]}\n", "")
        found = [json.loads(line) for line in objects[1].splitlines()]
        assert len({one.pop("request_id") for one in found}) == 1
        nothing = {"finish_reason": None, "usage": None}
        assert found[0] == {"text": ", Paris", "token_ids": [0], **nothing}
        assert found[3] == {"text": "", "token_ids": [], "finish_reason": "length", "usage": {"prompt_tokens": 3}}
        (single,) = [json.loads(line) for line in at_once[2][1].splitlines()]
        assert single["request_id"] in {call.request_id for call in worker.calls}
        assert (single["text"], single["token_ids"]) == (', Paris it\'s "big"', [0, 1, 2])
        assert (single["finish_reason"], single["usage"]) == ("length", {"prompt_tokens": 3})
        seeds = Sampling(max_tokens=10, temperature=0.5)
        assert {(call.prompt, call.sampling) for call in worker.calls} == {("what is the capital of france?", seeds)}

    play(pieces(", Paris", " it's", ' "big"'), scene)


def test_what_is_asked(play: Play, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("from a file\n")
    flags = [
        "--max-tokens",
        "3",
        "--temperature",
        "0",
        "--top-p",
        "0.25",
        "--seed",
        "-7",
        "--stop",
        "a",
        "--stop",
        "b",
        "--timeout",
        "9",
    ]

    async def scene(stage: Stage, worker: Worker) -> None:
        endings = [
            await client("--prompt", "pri\u00e9re", *flags),
            await client("--prompt-file", str(tmp_path / "prompt"), "--component", "tensorrt_llm"),
            await client("--prompt-file", "-", "--run", stage.config.namespace, stdin=b"from \xe2\x82\xac"),
        ]
        assert endings == [(0, "x\n", "")] * 3
        assert [call.prompt for call in worker.calls] == ["pri\u00e9re", "from a file", "from \u20ac"]
        assert worker.calls[0].sampling == Sampling(3, 0.0, 0.25, -7, ("a", "b")) and worker.calls[0].timeout <= 9

    play(pieces("x"), scene)


def test_a_run_that_was_started_by_hand(fake: FakeRun, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    fake.start("nats")

    async def main() -> None:
        async with on_stage(nats_server, etcd_server, fake.run.run_id) as stage:
            worker = await stage.worker("srv.0", pieces("x"))
            await stage.router(lambda call: Route(call.request_id, call.attempt, None, worker.instance, ""))
            assert await client("--run", str(fake.run.path)) == (0, "x\n", "")

    asyncio.run(main())


def test_text_that_the_terminal_cannot_carry(play: Play) -> None:
    async def scene(stage: Stage, worker: Worker) -> None:
        assert await client(PYTHONIOENCODING="ascii") == (0, "caf\\xe9 \\U0001f600\\udc80\n", "")
        assert await client(PYTHONIOENCODING="utf-8") == (0, "caf\u00e9 \U0001f600\\udc80\n", "")

    play(pieces("caf\u00e9 \U0001f600", "\udc80"), scene)


def test_failures_are_one_sentence(play: Play) -> None:
    async def act(worker: Worker, call: GenerateCall) -> None:
        if call.prompt == "refuse":
            raise Refusal("engine", "the engine does not like it")
        await worker.say(call, Chunk(call.attempt, 0, (1,), "some"), Failure("engine", "it broke", call.attempt, 1))

    async def scene(stage: Stage, worker: Worker) -> None:
        refused, broken, (code, out, err) = await asyncio.gather(
            client("--prompt", "refuse"), client(), client("--component", "routre")
        )
        assert refused == (1, "", "trtdist: the engine does not like it\n")
        assert broken == (1, "some\n", "trtdist: it broke\n")
        assert (code, out) == (2, "") and "no component 'routre'; registered is router, tensorrt-llm" in err

    play(act, scene)


async def endless(worker: Worker, call: GenerateCall) -> None:
    """Goes on until it is cancelled."""
    seq = 0
    while not worker.cancels:
        message = Chunk(call.attempt, seq, (seq,), f"{seq}\n") if seq < call.window else None
        await worker.say(call, message or Heartbeat(call.attempt, seq, worker.instance.lease_hex))
        seq += message is not None
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_request(play: Play, number: signal.Signals) -> None:
    async def act(worker: Worker, call: GenerateCall) -> None:
        worker.tasks.append(asyncio.ensure_future(endless(worker, call)))

    async def scene(stage: Stage, worker: Worker) -> None:
        process = await start()
        assert process.stdout is not None and await within(30, process.stdout.readline()) == b"0\n"
        process.send_signal(number)
        _, err = await within(30, process.communicate())
        assert (process.returncode, err) == (130, b"")
        await until(lambda: [one.request_id for one in worker.cancels] == [worker.calls[0].request_id])

    play(act, scene)


def test_nobody_reads_any_more(play: Play) -> None:
    async def act(worker: Worker, call: GenerateCall) -> None:
        worker.tasks.append(asyncio.ensure_future(endless(worker, call)))

    async def scene(stage: Stage, worker: Worker) -> None:
        read, write = os.pipe()
        process = await asyncio.create_subprocess_exec(*PROGRAM, stdout=write, stderr=asyncio.subprocess.PIPE)
        os.close(write)
        await until(lambda: len(worker.calls) == 1, 30)
        os.close(read)
        _, err = await within(30, process.communicate())
        assert (process.returncode, err) == (0, b"")
        await until(lambda: len(worker.cancels) == 1)

    play(act, scene)


def refusal(*args: str, kind: type[TrtdistError] = TrtdistError) -> str:
    with pytest.raises(kind) as caught:
        CliRunner().invoke(command, args, catch_exceptions=False)
    assert caught.value.exit_code == (2 if kind is InputError else 1)
    return str(caught.value)


def test_a_run_that_is_not_ready(fake: FakeRun) -> None:
    name = fake.run.run_id
    assert refusal().startswith(f"run {name} is PREPARING") and "`trtdist status`" in refusal()
    fake.ready()
    fake.verdict(state="FAILED", exit_code=1, reason="gen.0.0 was killed by SIGKILL")
    assert refusal("--run", "tiny") == (
        f"run {name} is FAILED (gen.0.0 was killed by SIGKILL): bring it up again, or name another run with --run"
    )


def test_a_run_that_waits_in_the_queue(fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho '7|PENDING|Priority|N/A|N/A||me|tiny'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    fake.run.slurm_job.write_text("7\n")
    assert refusal() == (
        f"run {fake.run.run_id} is in Slurm's queue, where job 7 waits (Priority): send the prompt once it is READY, "
        "which `trtdist status --watch` shows"
    )


def test_prompts_that_cannot_be_read(fake: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "empty").write_text("\n")
    assert "the prompt is empty" in refusal("--prompt", "", kind=InputError)
    assert "the prompt is empty" in refusal("--prompt-file", str(tmp_path / "empty"), kind=InputError)
    assert CliRunner().invoke(command, ["--timeout", "0"]).exit_code == 2
    assert "give one of them" in refusal("--prompt", "a", "--prompt-file", "b", kind=InputError)
    assert "no UTF-8: byte 3" in refusal("--prompt-file", str(tmp_path / "latin"), kind=InputError)
    assert "cannot read the prompt from /nowhere: No such file" in refusal("--prompt-file", "/nowhere", kind=InputError)
