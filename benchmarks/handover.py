"""What a hand-over costs: how long it takes, and which requests fail of it.

    python benchmarks/handover.py [--time MINUTES] [--lead SECONDS] [--streams N] [--launch MODE] [--json]

Through Slurm, on a machine from which the nodes are reached. Submits a context and a generation server of the reference
engine with a short time limit and `slurm.handover`. Streams go to the run over NATS, short ones and some of half a
minute, each kind as one requester that is opened once; requests over HTTP go through one `trtdist forward`, on
connections that are kept as long as they may be. None is sent again by itself. When the first job has ended the load
goes on for a moment, then everything is taken down. Printed are seconds from the submission of the next job to its
READY and to the end of the first one, the requests, those that failed, the longest time without an answer, and how many
long answers the first run finished after it had begun to stop.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.steady_load import PROMPT, Outcome, steady_load
from trtdist import chain
from trtdist.events import EventReader, RunState, Successor
from trtdist.rundir import RunDir

TOPOLOGY = """\
name: handover
model: reference/tiny
engine: reference
launch: {launch}
context_servers: {{num_instances: 1, reference: {{prefill_delay: 0.02}}}}
generation_servers: {{num_instances: 1, reference: {{step_delay: 0.02}}}}
slurm: {{nodes: 1, gpus_per_node: 2, mem: 500, time: "{minutes}", handover: {lead}}}
"""
TRTDIST = [sys.executable, "-m", "trtdist.cli"]
LIMIT_S = 600.0
AFTER_S = 5.0
# At 20 ms each.
LONG_TOKENS = 1500


@dataclass
class HttpLoad:
    """So many clients that ask over HTTP, one request after the other, each on a connection that is kept."""

    url: str
    key: str
    streams: int
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(self.streams)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more and wait for what is open."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _work(self) -> None:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        while not self._stop.is_set():
            begun, text, problem = time.time(), "", ""
            try:
                text = self._ask(connection)
            except (OSError, http.client.HTTPException, KeyError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
                connection.close()
                time.sleep(0.1)
            self.outcomes.append(Outcome(begun, time.time(), text, problem))

    def _ask(self, connection: http.client.HTTPConnection) -> str:
        body = {"model": "reference/tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {answer[:200]!r}")
        return str(json.loads(answer)["choices"][0]["text"])


@dataclass(frozen=True)
class Measured:
    """What came of it; times in seconds."""

    run: str
    heir: str
    verdict: dict[str, Any]
    ready_after: float
    left_after: float
    requests: int
    failed: list[str]
    long_requests: int
    long_failed: list[str]
    drained: int
    gap: float
    http_requests: int
    http_failed: list[str]
    http_gap: float
    answers: int


class Deployment:
    """A run that hands over, in a folder of runs."""

    def __init__(self, folder: Path, minutes: int, lead: float, launch: str) -> None:
        self._environ = {**os.environ, "TRTDIST_RUNS": str(folder / "runs")}
        file = folder / "cluster.yaml"
        file.write_text(TOPOLOGY.format(minutes=minutes, lead=lead, launch=launch))
        told = json.loads(self.call("submit", str(file), "--wait", "--json"))
        self.run = RunDir(Path(told["run_dir"]))

    def call(self, *words: str) -> str:
        """What a command prints."""
        done = subprocess.run([*TRTDIST, *words], env=self._environ, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"trtdist {' '.join(words)}: {done.stderr}")
        return done.stdout

    @contextmanager
    def forwarded(self) -> Iterator[str]:
        """A local address that leads to the HTTP front end."""
        words = [*TRTDIST, "forward", self.run.run_id, "--to", "http"]
        process = subprocess.Popen(words, env=self._environ, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(60)

    def stopping(self) -> float:
        """When the first run began to stop."""
        records = EventReader(self.run.events).poll()
        states = [(record.time, record.event.state) for record in records if isinstance(record.event, RunState)]
        return next((at for at, state in states if state == "STOPPING"), float("inf"))

    def succession(self) -> dict[str, float]:
        """When the next run was asked for, became ready, and so on."""
        records = EventReader(self.run.events).poll()
        return {record.event.state: record.time for record in records if isinstance(record.event, Successor)}


def measure(deployment: Deployment, streams: int) -> Measured:
    """Load it until its first job has handed over and ended, and a little longer."""
    run = deployment.run
    key = (run.secrets / "http.keys").read_text().split()[0]
    with (
        deployment.forwarded() as url,
        steady_load(run.path, streams) as load,
        steady_load(run.path, max(1, streams // 2), LONG_TOKENS, 120.0) as long_ones,
    ):
        over_http = HttpLoad(url, key, max(1, streams // 4))
        over_http.start()
        until = time.monotonic() + LIMIT_S
        while not run.verdict.exists() and time.monotonic() < until:
            time.sleep(0.2)
        ended = time.time()
        time.sleep(AFTER_S)
        over_http.stop()
    told, heir = deployment.succession(), chain.heir(run)
    begun = told.get("asked", ended)
    short = {each.text for each in (*load.outcomes, *over_http.outcomes) if not each.error}
    return Measured(
        run=run.run_id,
        heir="" if heir is None else heir.run_id,
        verdict=json.loads(run.verdict.read_text()),
        ready_after=told.get("ready", float("nan")) - begun,
        left_after=ended - begun,
        requests=len(load.outcomes),
        failed=[each.error for each in load.failed()],
        long_requests=len(long_ones.outcomes),
        long_failed=[each.error for each in long_ones.failed()],
        drained=sum(
            each.begun < told.get("ready", 0.0) and each.ended > deployment.stopping() for each in long_ones.outcomes
        ),
        gap=load.longest_gap(begun),
        http_requests=len(over_http.outcomes),
        http_failed=[each.error for each in over_http.outcomes if each.error],
        http_gap=_gap(over_http.outcomes, begun),
        answers=len(short) + len(long_ones.answers()),
    )


def _gap(outcomes: list[Outcome], after: float) -> float:
    """The longest time in which no request ended well, from `after` on."""
    ends = [after, *sorted(each.ended for each in outcomes if not each.error and each.ended >= after)]
    return max((later - earlier for earlier, later in zip(ends, ends[1:], strict=False)), default=0.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", type=int, default=3)
    parser.add_argument("--lead", type=float, default=120.0)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--launch", choices=("per_server", "mpi_world"), default="per_server")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the runs go, which all nodes must see")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="handover-", dir=given.folder or Path.home()))
    deployment = Deployment(folder, given.time, given.lead, given.launch)
    try:
        found = measure(deployment, given.streams)
    finally:
        print(deployment.call("down"), file=sys.stderr)
    if given.json:
        print(json.dumps(asdict(found)))
        return
    print(f"READY after {found.ready_after:.1f} s, the first job ended after {found.left_after:.1f} s")
    print(f"NATS: {found.requests} requests, {len(found.failed)} failed, longest gap {found.gap:.2f} s")
    failed = f"{len(found.long_failed)} failed, {found.drained} drained"
    print(f"long answers over NATS: {found.long_requests} requests, {failed}")
    print(f"HTTP: {found.http_requests} requests, {len(found.http_failed)} failed, longest gap {found.http_gap:.2f} s")


if __name__ == "__main__":
    main()
