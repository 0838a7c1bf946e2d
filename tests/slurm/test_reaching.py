"""A deployment on nodes to which the submit host has no route, reached from there through Slurm."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import PYTHON, Cluster
from tests.supervisor.runs import wait_for
from tests.terminal import CTRL_C, on_terminal
from trtdist.slurm import parse

TOPOLOGY = """\
name: reached
model: reference/tiny
engine: reference
launch: per_server
context_servers: {}
generation_servers: {reference: {step_delay: 0.005}}
container: {runtime: none, env: {HF_TOKEN: %s}}
slurm: {gpus_per_node: 1, nodes: 2, gpu_directive: none, mem: 600}
"""
TOKEN = "hf_nobody_else_sees_this"


@dataclass
class Reached:
    """A run that is up; `trtdist` runs commands on the submit host."""

    cluster: Cluster
    run: Path
    job: str

    def trtdist(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.cluster.run(PYTHON, "-m", "trtdist.cli", *arguments, timeout=90)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def state(self) -> str:
        return str(json.loads(self.trtdist("status", f"{self.run}/", "--json").stdout)["state"])


@pytest.fixture
def reached(cluster: Cluster) -> Iterator[Reached]:
    """The reference deployment over two nodes of the mini cluster."""
    (cluster.folder / "cluster.yaml").write_text(TOPOLOGY % TOKEN)
    run = cluster.folder / "run"
    found = Reached(cluster, run, "")
    found.trtdist("render", "cluster.yaml", str(run))
    found.job = parse.job_id(cluster.output("sbatch", "--parsable", str(run / "job.sbatch")))
    try:
        wait_for(lambda: found.state() in ("READY", "FAILED", "TIMEOUT"), 120, "the end of coming up")
        assert found.state() == "READY", (run / "logs" / "supervisor.log").read_text()
        yield found
    finally:
        cluster.run("scancel", found.job)
        gone = lambda: not cluster.run("squeue", "--noheader", "--jobs", found.job).stdout.strip()  # noqa: E731
        wait_for(gone, 60, "the end of the job")


def test_from_a_host_without_a_route(reached: Reached) -> None:
    run = f"{reached.run}/"
    ask = ("client", "--run", run, "--temperature", "0", "--max-tokens", "8")
    first, second = reached.trtdist(*ask).stdout, reached.trtdist(*ask, "--via", "step").stdout
    assert first == second and first.strip()
    chunks = [json.loads(line) for line in reached.trtdist(*ask, "--format", "json").stdout.splitlines()]
    assert "".join(chunk["text"] for chunk in chunks) + "\n" == first
    # What fails there fails here, with the same words and exit code.
    missing = reached.trtdist(*ask, "--component", "tensorrt-llm", "--timeout", "3", code=1)
    assert missing.stderr.startswith("trtdist: ") and "srun" not in missing.stderr

    exec_on = ("exec", "--run", run, "gen.0.0", "--", "bash", "-c")
    where = reached.trtdist(*exec_on, 'echo "$SLURMD_NODENAME $TRTDIST_RUN_ID"').stdout.split()
    rank = next(
        rank
        for rank in json.loads(reached.trtdist("status", run, "--json").stdout)["ranks"]
        if rank["name"] == "gen.0.0"
    )
    assert where == [rank["node"], "run"]
    assert reached.trtdist(*exec_on, "exit 5", code=5).stdout == ""

    problems = json.loads(reached.trtdist("status", run, "--gpus", "--json").stdout)["gpu_problems"]
    assert [re.sub(r"^node\d: ", "", problem) for problem in problems] == ["there is no nvidia-smi"] * 2


@pytest.mark.long
def test_ctrl_c_cancels_through_a_step(reached: Reached) -> None:
    ask = ("client", "--run", f"{reached.run}/", "--via", "step", "--max-tokens", "16000", "--format", "json")
    script = "import signal, subprocess, sys; child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
    script += "child.stdout.readline(); child.send_signal(signal.SIGINT); print(child.wait(30))"
    assert reached.cluster.output(PYTHON, "-c", script, PYTHON, "-m", "trtdist.cli", *ask) == "130"
    steps = lambda: reached.cluster.output("squeue", "--steps", "--noheader", "--format=%j", "--jobs", reached.job)  # noqa: E731
    wait_for(lambda: "client" not in steps().split(), 20, "the end of the step")
    assert reached.state() == "READY"


@pytest.mark.long
def test_a_shell_beside_a_rank_has_the_terminal(reached: Reached) -> None:
    argv = (PYTHON, "-m", "trtdist.cli", "exec", "--run", f"{reached.run}/", "gen.0.0", "--", "bash", "--norc")
    with on_terminal(
        reached.cluster.argv("env", "PS1=at $SLURMD_NODENAME> ", *argv), reached.cluster.folder
    ) as terminal:
        terminal.wait_for("at node", 60)
        terminal.type("[ -t 0 ] && [ -t 1 ] && echo it has $((1 + 1)) ends on $TRTDIST_RUN_ID\r")
        terminal.wait_for("it has 2 ends on run", 30)
        # Ctrl-C is for what runs in there, and not for srun.
        terminal.type("(echo asleep for $((500 + 500)); exec sleep 1000)\r")
        terminal.wait_for("asleep for 1000", 30)
        prompts = terminal.shown.count("at node")
        terminal.type(CTRL_C)
        # The terminal drops what was typed before the Ctrl-C was read.
        terminal.wait_for("at node", 30, prompts + 1)
        terminal.type("echo and $((40 + 2))\r")
        terminal.wait_for("and 42", 30)
        terminal.type("exit 5\r")
        assert terminal.ends(30) == 5
    assert reached.state() == "READY"


@pytest.mark.long
def test_a_client_of_its_own_through_forward(reached: Reached) -> None:
    direct = reached.trtdist("client", "--run", f"{reached.run}/", "--via", "direct", code=1)
    assert "Permission denied" in direct.stderr
    script = """\
import asyncio, json, ssl, subprocess, sys
import nats
async def main(program, run):
    found = json.loads(subprocess.run([*program, "url", run, "--json"], capture_output=True, check=True).stdout)
    forward = subprocess.Popen([*program, "forward", run], stdout=subprocess.PIPE, text=True)
    tls = ssl.create_default_context(cafile=found["ca_file"])
    tls.check_hostname = False
    tls.load_cert_chain(found["certificate_file"], found["key_file"])
    login = {key: open(found[key + "_file"]).read() for key in ("user", "password")}
    client = await nats.connect(forward.stdout.readline().strip(), tls=tls, **login)
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish("$SRV.PING", reply=inbox)
    print({json.loads((await answers.next_msg(10)).data)["name"] for _ in range(3)})
    await client.close()
    forward.terminate()
    print(forward.wait(20))
asyncio.run(main([sys.executable, "-m", "trtdist.cli"], sys.argv[1]))
"""
    done = reached.cluster.run(PYTHON, "-c", script, f"{reached.run}/", timeout=90)
    assert done.returncode == 0, done.stderr
    assert "router" in done.stdout and done.stdout.endswith("\n0\n")


@pytest.mark.long
def test_a_client_of_openai_through_forward(reached: Reached) -> None:
    told = reached.trtdist("url", f"{reached.run}/", "--json")
    found = json.loads(told.stdout)
    assert found["http"].startswith("http://127.0.0.1:") and found["http_node"] in told.stderr
    script = """\
import subprocess, sys
from openai import OpenAI
forward = subprocess.Popen([*sys.argv[2:], "--to", "http"], stdout=subprocess.PIPE, text=True)
key = open(sys.argv[1]).read().strip()
with OpenAI(base_url=forward.stdout.readline().strip() + "/v1", api_key=key) as client:
    asked = dict(model="reference/tiny", prompt="The capital of France is", max_tokens=8, temperature=0)
    whole = client.completions.create(**asked).choices[0].text
    chunks = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True) if chunk.choices]
    print(len(chunks) > 1 and "".join(chunks) == whole != "")
forward.terminate()
print(forward.wait(20))
"""
    forward = (PYTHON, "-m", "trtdist.cli", "forward", f"{reached.run}/")
    done = reached.cluster.run(PYTHON, "-c", script, found["http_keys_file"], *forward, timeout=90)
    assert done.stdout == "True\n0\n", done.stdout + done.stderr
    direct = reached.cluster.run("curl", "--silent", "--max-time", "5", f"{found['http']}/live")
    assert direct.returncode != 0
