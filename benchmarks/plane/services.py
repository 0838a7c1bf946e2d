"""NATS, etcd and run directories for the benchmark's own deployments."""

from __future__ import annotations

import contextlib
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
model: pretend
engine: reference
servers: {num_instances: 1, kv_cache_config: {free_gpu_memory_fraction: 0.5}}
"""


@dataclass(frozen=True)
class Services:
    """Running head services."""

    folder: Path
    nats: NatsServer
    etcd: EtcdServer

    def run_dir(self, name: str) -> Path:
        """The directory of a run of one monolithic server on these services."""
        run = RunDir(self.folder / name)
        for folder in (run.path, run.events, run.logs, run.secrets):
            folder.mkdir()
        topology = self.folder / "plane.yaml"
        topology.write_text(TOPOLOGY)
        made = replace(plan(load(topology, environ={}), Target.LOCAL), engine="pretend")
        run.plan.write_text(to_json(made))
        values = {"NATS_SERVER": self.nats.url, "ETCD_ENDPOINTS": self.etcd.endpoint}
        run.resolved_env.write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items()))
        (run.secrets / "nats.user").write_text(self.nats.user)
        (run.secrets / "nats.password").write_text(self.nats.password)
        return run.path


@contextlib.contextmanager
def services(folder: Path) -> Iterator[Services]:
    """NATS and etcd while in `with`."""
    with NatsServer(folder / "nats") as nats, EtcdServer(folder / "etcd") as etcd:
        yield Services(folder, nats, etcd)
