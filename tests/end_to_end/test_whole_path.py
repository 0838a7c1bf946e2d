"""From the topology file to the streamed answer and back to nothing, as a user does it."""

from __future__ import annotations

import ast
import asyncio
import json
import ssl
import subprocess
import sys
from pathlib import Path

import nats
import pytest

from tests.end_to_end.workplace import QUICKSTART, ROOT, TENSOR_PARALLEL, Workplace

ASK = ("client", "--prompt", "exact", "--max-tokens", 12, "--seed", 7, "--temperature", 0.8)
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").rglob("*.yaml")
    if "engine: reference" in path.read_text() and path.parent.name != "slurm"
)
HEAD, TAIL = "Annotated(data=", ", event=None, comment=[], id=None)"
NASTY = """$(touch pwned) `id` 'single' "double" \\ ; & | > < * ? ~ # ! {a,b} é 漢 \t\n end"""


def annotated(line: str) -> str:
    """The text in a line of the annotated form, which must be exact."""
    assert line.startswith(HEAD) and line.endswith(TAIL)
    literal = line[len(HEAD) : -len(TAIL)]
    text = ast.literal_eval(literal)
    assert isinstance(text, str) and repr(text) == literal
    return text


def test_from_the_topology_to_the_answer_and_back_to_nothing(place: Workplace) -> None:
    """Two runs side by side: the quickstart in one MPI world, and servers of two ranks in a world each."""
    text = TENSOR_PARALLEL.format(launch="per_server") + f"container: {{env: {{NASTY: {json.dumps(NASTY)}}}}}\n"
    (place.folder / "json.py").write_text("raise SystemExit('nobody may import this')\n")
    assert "e2e-" in place.up(place.topology(text))
    assert "is READY" in place.up(QUICKSTART)

    annotated_answers_grow(place)
    status_names_each_rank(place)
    strangers_tools_see_the_instances(place)
    arbitrary_text_arrives(place)
    for run in ("quickstart", "e2e"):
        assert "reference" in place.trtdist("logs", run, "gen.0").stdout
    answers = {place.trtdist(*ASK, "--run", run).stdout for run in ("quickstart", "e2e", "quickstart")}
    assert len(answers) == 1 and len(answers.pop().strip()) > 0

    assert "is down and nothing is left" in place.trtdist("down").stdout
    assert place.status("e2e")["state"] == "READY"
    assert "is down and nothing is left" in place.trtdist("down", "e2e").stdout
    place.nothing_left()
    for run in ("quickstart", "e2e"):
        status = place.status(run)
        assert (status["state"], status["failure"]) == ("STOPPED", None)
        assert {rank["state"] for rank in status["ranks"]} == {"STOPPED"}


def annotated_answers_grow(place: Workplace) -> None:
    done = place.trtdist(
        "client", "--prompt", "Describe the capital of France", "--max-tokens", 10, "--temperature", 0.5,
        "--format", "annotated",
    )  # fmt: skip
    texts = [annotated(line) for line in done.stdout.splitlines()]
    assert 1 < len(texts) <= 11
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))


def status_names_each_rank(place: Workplace) -> None:
    status = place.status("quickstart")
    assert status["state"] == "READY"
    assert {rank["name"]: rank["state"] for rank in status["ranks"]} == {"ctx.0.0": "READY", "gen.0.0": "READY"}
    assert {server["rung"] for server in status["servers"]} == {"canary"}
    for entry in (*status["ranks"], *status["services"]):
        assert Path(entry["log"]).is_file()
        assert entry["state"] in ("READY", "DONE")


def strangers_tools_see_the_instances(place: Workplace) -> None:
    status = place.status("quickstart")
    found = json.loads(place.trtdist("url", "quickstart", "--json").stdout)
    etcdctl = [str(Path(sys.executable).with_name("etcdctl")), "--endpoints", found["etcd"]]
    etcdctl += ["--cacert", found["ca_file"], "--cert", found["certificate_file"], "--key", found["key_file"]]
    done = subprocess.run(
        [*etcdctl, "get", "--prefix", status["run_id"], "--write-out", "json"],
        env={**place.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    kvs = json.loads(done.stdout)["kvs"]
    assert len(kvs) == 3 and all(kv["lease"] for kv in kvs)
    assert asyncio.run(ping(found)) == 3


async def ping(ends: dict[str, str]) -> int:
    """How many instances answer $SRV.PING."""
    user, password = Path(ends["user_file"]).read_text().strip(), Path(ends["password_file"]).read_text().strip()
    tls = ssl.create_default_context(cafile=ends["ca_file"])
    tls.load_cert_chain(ends["certificate_file"], ends["key_file"])
    client = await nats.connect(ends["nats"], user=user, password=password, tls=tls)
    try:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.publish("$SRV.PING", b"", reply=inbox)
        found = [json.loads((await answers.next_msg(60)).data) for _ in range(3)]
        return len({answer["id"] for answer in found})
    finally:
        await client.close()


def arbitrary_text_arrives(place: Workplace) -> None:
    for rank in place.status("e2e")["ranks"]:
        assert b"NASTY=" + NASTY.encode() in Path(f"/proc/{rank['pid']}/environ").read_bytes().split(b"\0")
    assert not list(place.folder.rglob("pwned"))


@pytest.mark.long
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
def test_examples_answer(place: Workplace, example: Path, launch: str) -> None:
    place.up(example, "--set", f"launch={launch}")
    assert len(place.trtdist("client", "--max-tokens", 4, "--temperature", 0).stdout.strip()) > 0
