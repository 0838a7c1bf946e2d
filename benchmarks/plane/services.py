"""NATS, etcd and run directories for the benchmark's own deployments."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.plane.machine import Program, python
from tests.serving.servers import free_ports
from trtdist.plan import to_json
from trtdist.planning import Target, plan
from trtdist.rundir import RunDir
from trtdist.services.authority import make_certificates
from trtdist.services.binaries import find_binary
from trtdist.services.envfile import write_env
from trtdist.services.health import probe
from trtdist.services.tls import UNPROTECTED
from trtdist.topology import load

__all__ = ["Services", "free_ports", "services"]

START_S = 20.0

TOPOLOGY = """\
name: plane
model: {model}
engine: reference
servers: {{num_instances: {servers}, kv_cache_config: {{free_gpu_memory_fraction: 0.1}}}}
router: {{http: {{processes: {processes}}}}}
"""
# In the manner of the templates of current models.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@dataclass(frozen=True)
class Services:
    """Running head services: the run that they are of, and its resolved.env."""

    run: RunDir
    env: Mapping[str, str]
    nats: Program

    @property
    def folder(self) -> Path:
        """Where the runs lie that use them."""
        return self.run.path.parent

    @property
    def model(self) -> Path:
        """The folder of a model that has nothing but a chat template."""
        folder = self.folder / "pretend-model"
        folder.mkdir(exist_ok=True)
        config = {"chat_template": CHAT_TEMPLATE, "bos_token": "<|begin_of_text|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    def run_dir(self, name: str, servers: int = 1, processes: int = 1, http_port: int = 0) -> Path:
        """The directory of a run of monolithic servers on these services, with so many processes of a front end."""
        run = RunDir(self.folder / name)
        for folder in (run.path, run.events, run.logs):
            folder.mkdir()
        shutil.copytree(self.run.secrets, run.secrets)
        topology = self.folder / "plane.yaml"
        topology.write_text(TOPOLOGY.format(model=self.model, servers=servers, processes=processes))
        made = replace(plan(load(topology, environ={}), Target.LOCAL), engine="pretend")
        run.plan.write_text(to_json(made))
        write_env(run.resolved_env, {**self.env, "TRTDIST_HTTP_PORT": str(http_port)})
        return run.path


@contextlib.contextmanager
def services(folder: Path, *, clear: bool = False) -> Iterator[Services]:
    """NATS and etcd as a run has them while in `with`: its configuration, its certificates; in clear without these."""
    run = RunDir(folder / "plane-services")
    run.secrets.mkdir(parents=True)
    for name, text in {"nats.user": "plane", "nats.password": "plane", **make_certificates(time.time())}.items():
        (run.secrets / name).write_text(text)
    env = _env(run, clear)
    write_env(run.resolved_env, env)
    with contextlib.ExitStack() as stack:
        started = {}
        for name in ("nats", "etcd"):
            started[name] = Program.start(python("trtdist.services", name, str(run.path)), folder / f"{name}.log")
            stack.callback(started[name].stop)
        for name, program in started.items():
            _wait(name, program, env)
        yield Services(run, env, started["nats"])


def _env(run: RunDir, clear: bool) -> dict[str, str]:
    """What `resolved.env` of a run on this machine says of its services."""
    nats, etcd, peer = free_ports(3)
    plain = {UNPROTECTED: "1"} if clear else {}
    return {
        "TRTDIST_RUN_ID": run.run_id,
        "TRTDIST_RUN_DIR": str(run.path),
        "TRTDIST_LOCAL_DIR": str(run.path),
        "TRTDIST_HEAD_ADDRESS": "127.0.0.1",
        "TRTDIST_NATS_BINARY": find_binary("nats", os.environ),
        "TRTDIST_NATS_PORT": str(nats),
        "NATS_SERVER": f"{'nats' if clear else 'tls'}://127.0.0.1:{nats}",
        "TRTDIST_ETCD_BINARY": find_binary("etcd", os.environ),
        "TRTDIST_ETCD_PORT": str(etcd),
        "TRTDIST_ETCD_PEER_PORT": str(peer),
        "ETCD_ENDPOINTS": f"{'http' if clear else 'https'}://127.0.0.1:{etcd}",
        **plain,
    }


def _wait(name: str, program: Program, env: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_S
    while not (found := asyncio.run(probe(name, env))).healthy:
        if program.ended or time.monotonic() > deadline:
            raise SystemExit(f"{name} at {found.url} {found.detail}; {program.ended}")
        time.sleep(0.05)
