"""NATS, etcd and run directories for the benchmark's own deployments."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.serving.servers import EtcdServer, NatsServer, free_ports
from trtdist.plan import to_json
from trtdist.planning import Target, plan
from trtdist.rundir import RunDir
from trtdist.topology import load

__all__ = ["Services", "free_ports", "services"]

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
    """Running head services."""

    folder: Path
    nats: NatsServer
    etcd: EtcdServer

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
        for folder in (run.path, run.events, run.logs, run.secrets):
            folder.mkdir()
        topology = self.folder / "plane.yaml"
        topology.write_text(TOPOLOGY.format(model=self.model, servers=servers, processes=processes))
        made = replace(plan(load(topology, environ={}), Target.LOCAL), engine="pretend")
        run.plan.write_text(to_json(made))
        values = {"NATS_SERVER": self.nats.url, "ETCD_ENDPOINTS": self.etcd.endpoint}
        values["TRTDIST_HTTP_PORT"] = str(http_port)
        run.resolved_env.write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items()))
        (run.secrets / "nats.user").write_text(self.nats.user)
        (run.secrets / "nats.password").write_text(self.nats.password)
        return run.path


@contextlib.contextmanager
def services(folder: Path) -> Iterator[Services]:
    """NATS and etcd while in `with`."""
    with NatsServer(folder / "nats") as nats, EtcdServer(folder / "etcd") as etcd:
        yield Services(folder, nats, etcd)
