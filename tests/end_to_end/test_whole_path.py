"""From the topology file to the streamed answer and back to nothing, as a user does it."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from tests.end_to_end.workplace import QUICKSTART, ROOT, TENSOR_PARALLEL, Workplace, workplace

ASK = ("client", "--prompt", "exact", "--max-tokens", 12, "--seed", 7, "--temperature", 0.8)
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if "engine: reference" in path.read_text())
HEAD, TAIL = "Annotated(data=", ", event=None, comment=[], id=None)"
NASTY = """$(touch pwned) `id` 'single' "double" \\ ; & | > < * ? ~ # ! {a,b} é 漢 \t\n end"""


@pytest.fixture(scope="module")
def quickstart() -> Iterator[Workplace]:
    """The quickstart, up (one MPI world)."""
    with workplace() as place:
        place.up(QUICKSTART)
        yield place


@pytest.fixture(scope="module")
def separate() -> Iterator[Workplace]:
    """Two servers of two ranks, each in a world of its own, up; one of their variables is all metacharacters."""
    with workplace() as place:
        text = TENSOR_PARALLEL.format(launch="per_server")
        place.up(place.topology(f"{text}container: {{env: {{NASTY: {json.dumps(NASTY)}}}}}\n"))
        yield place


def annotated(line: str) -> str:
    """The text in a line of the annotated form, which must be exact."""
    assert line.startswith(HEAD) and line.endswith(TAIL)
    literal = line[len(HEAD) : -len(TAIL)]
    text = ast.literal_eval(literal)
    assert isinstance(text, str) and repr(text) == literal
    return text


def test_annotated_answers_grow(quickstart: Workplace) -> None:
    done = quickstart.trtdist(
        "client", "--prompt", "Describe the capital of France", "--max-tokens", 10, "--temperature", 0.5,
        "--format", "annotated",
    )  # fmt: skip
    texts = [annotated(line) for line in done.stdout.splitlines()]
    assert 1 < len(texts) <= 11
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))


def test_status_names_each_rank_and_where_things_are(quickstart: Workplace) -> None:
    status = quickstart.status()
    assert status["state"] == "READY"
    assert {rank["name"]: rank["state"] for rank in status["ranks"]} == {"ctx.0.0": "READY", "gen.0.0": "READY"}
    assert {server["rung"] for server in status["servers"]} == {"canary"}
    for entry in (*status["ranks"], *status["services"]):
        assert Path(entry["log"]).is_file()
        assert entry["state"] in ("READY", "DONE")


def test_the_logs_of_a_server(quickstart: Workplace, separate: Workplace) -> None:
    for place in (quickstart, separate):
        assert "reference" in place.trtdist("logs", "gen.0").stdout


def test_strangers_tools_see_the_instances(quickstart: Workplace) -> None:
    status = quickstart.status()
    etcdctl = [str(Path(sys.executable).with_name("etcdctl")), "--endpoints", status["endpoints"]["etcd"]["url"]]
    done = subprocess.run(
        [*etcdctl, "get", "--prefix", status["run_id"], "--write-out", "json"],
        env={**quickstart.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    kvs = json.loads(done.stdout)["kvs"]
    assert all(kv["lease"] for kv in kvs)
    assert len(kvs) == 3
    assert asyncio.run(_ping(status)) == 3


async def _ping(status: dict[str, dict[str, dict[str, str]]]) -> int:
    """How many instances answer $SRV.PING."""
    ends = status["endpoints"]["nats"]
    user, password = Path(ends["user_file"]).read_text().strip(), Path(ends["password_file"]).read_text().strip()
    client = await nats.connect(ends["url"], user=user, password=password)
    try:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.publish("$SRV.PING", b"", reply=inbox)
        found = [json.loads((await answers.next_msg(5)).data) for _ in range(3)]
        return len({answer["id"] for answer in found})
    finally:
        await client.close()


def test_both_launch_modes_and_any_split_give_the_same_answer(quickstart: Workplace, separate: Workplace) -> None:
    answers = {place.trtdist(*ASK).stdout for place in (quickstart, separate, quickstart)}
    assert len(answers) == 1
    assert len(answers.pop().strip()) > 0


def test_arbitrary_text_arrives(separate: Workplace) -> None:
    for rank in separate.status()["ranks"]:
        assert b"NASTY=" + NASTY.encode() in Path(f"/proc/{rank['pid']}/environ").read_bytes().split(b"\0")
    assert not list(separate.folder.rglob("pwned"))


def test_down_leaves_nothing(place: Workplace) -> None:
    assert "is READY" in place.up(QUICKSTART)
    assert "is down and nothing is left" in place.trtdist("down").stdout
    place.nothing_left()
    status = place.status()
    assert (status["state"], status["failure"]) == ("STOPPED", None)
    assert {rank["state"] for rank in status["ranks"]} == {"STOPPED"}


@pytest.mark.long
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
def test_examples_answer(place: Workplace, example: Path, launch: str) -> None:
    place.up(example, "--set", f"launch={launch}")
    assert len(place.trtdist("client", "--max-tokens", 4, "--temperature", 0).stdout.strip()) > 0
