"""Files that are right, and what becomes of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trtdist.topology import Checked, InvalidTopologyError, Topology, dump, load, redacted

BASE = "name: demo\nmodel: org/model\n"
ENVIRON = {"TRTDIST_SITE": "", "HOME": "/home/somebody"}

DESIGN = """\
name: tinyllama
model: TinyLlama/TinyLlama-1.1B-Chat-v1.0     # hub id or a path seen from the workers
engine: tensorrt_llm
runtime: trtdist
launch: mpi_world
context_servers:
  num_instances: 2
  tensor_parallel_size: 2
  pipeline_parallel_size: 1
  kv_cache_config: {free_gpu_memory_fraction: 0.25}
generation_servers: {num_instances: 2, tensor_parallel_size: 2}
router: {policy: round_robin, http: {port: auto}}
container: {runtime: pyxis, image: /images/trtllm.sqsh, mounts: [".:/workspace"], env: {HF_HOME: /cache}}
services: {nats: {}, etcd: {}}
slurm: {account: a, partition: batch, time: "01:00:00", gpus_per_node: 8, nodes: auto, cpus_per_task: 8, mem: 0}
"""

TRITON_DISTRIBUTED = """\
name: older
model: TinyLlama/TinyLlama-1.1B-Chat-v1.0
##################
hostname: localhost
port: 8000
backend: "pytorch"
##################
context_servers: # servers is a list of servers
  num_instances: 1 # The number of servers to launch
  gpu_fraction: 0.25
  tp_size: 2 # each server will be a TP=1 instance
  pp_size: 1 # each server will be a PP=1 instance
  urls:
      - "localhost:8001" # The URL of the server.
generation_servers:
  num_instances: 2
  gpu_fraction: 0.25
  tp_size: 1
  pp_size: 1
  urls:
      - "localhost:8002"
      - "localhost:8003"
"""

Check = Callable[..., Checked]


def good(checked: Checked) -> Topology:
    assert checked.topology is not None, checked.diagnostics
    return checked.topology


def test_the_design_example(checked: Check, tmp_path: Path) -> None:
    topology = good(checked(DESIGN))
    assert topology.world_size == 8
    assert [role for role, _ in topology.sections] == ["context", "generation"]
    assert topology.disaggregated
    assert topology.context_servers is not None and topology.generation_servers is not None
    assert topology.context_servers.memory_fraction == 0.25
    assert topology.generation_servers.memory_fraction == 0.9
    assert topology.container.mounts == (f"{tmp_path}:/workspace",)
    assert checked(DESIGN).diagnostics == ()


def test_the_file_of_triton_distributed_with_a_name(checked: Check) -> None:
    result = checked(TRITON_DISTRIBUTED)
    topology = good(result)
    assert topology.world_size == 4
    assert topology.context_servers is not None
    assert topology.context_servers.tensor_parallel_size == 2
    assert topology.context_servers.memory_fraction == 0.25
    assert {(found.code, found.severity) for found in result.diagnostics} == {("TRT101", "warning")}
    assert [found.origin.line for found in result.diagnostics] == [4, 5, 6, 13, 20]


def test_engine_arguments_pass_through(checked: Check) -> None:
    text = BASE + "servers: {tp_size: 2, max_batch_size: 8, kv_cache_config: {dtype: fp8}, extra_engine_args:"
    topology = good(checked(text + " {brand_new: 1, kv_cache_config: {newer: true}}}"))
    assert topology.servers is not None
    assert topology.servers.engine_args == {
        "max_batch_size": 8,
        "brand_new": 1,
        "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9, "newer": True},
    }


def test_reference_knobs_reach_the_engine(checked: Check) -> None:
    topology = good(checked(BASE + "engine: reference\nservers: {reference: {step_delay: 0.5}}"))
    assert topology.servers is not None
    assert topology.servers.engine_args["reference"]["step_delay"] == 0.5


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0123", "0123"),
        ("NO", "NO"),
        ("1e3", "1e3"),
        ("1.10", "1.10"),
        ("0x10", "0x10"),
        ("true", "true"),
        ("2024-01-01", "2024-01-01"),
        ("12:30:45", "12:30:45"),
        ("'quoted'", "quoted"),
        ("$(rm -rf /); `x` \"y\" 'z' \\ *", "$(rm -rf /); `x` \"y\" 'z' \\ *"),
        ("naïve 模型 🚀", "naïve 模型 🚀"),
        ('"a\\x1b[0m"', "a\x1b[0m"),
        ('"a\\nb"', "a\nb"),
    ],
)
def test_text_is_taken_as_it_was_written(checked: Check, written: str, value: str) -> None:
    topology = good(checked(BASE + f"servers: {{}}\ncontainer:\n  env:\n    A: {written}\n"))
    assert topology.container.env == {"A": value}


@pytest.mark.parametrize("time", ["01:00:00", "1:00", "90", "1-00:00:00", "2-12", '"01:00:00"'])
def test_time_limits_need_no_quotes(checked: Check, time: str) -> None:
    assert good(checked(BASE + f"servers: {{}}\nslurm: {{time: {time}}}")).slurm.time == time.strip('"')


def test_numbers_with_exponents_are_numbers(checked: Check) -> None:
    assert good(checked(BASE + "servers: {}\ntimeouts: {ready: 1e3}")).timeouts.ready == 1000.0


def test_nothing_behind_a_key_is_as_if_it_was_not_there(checked: Check) -> None:
    topology = good(checked(BASE + "servers:\nslurm:\n  account:\nservices:\n  nats:\n"))
    assert topology.servers is not None
    assert topology.slurm.account is None


@pytest.mark.parametrize(("written", "there"), [("", True), ("null", False), ("~", False)])
def test_null_takes_away_what_would_be_there(checked: Check, written: str, there: bool) -> None:
    topology = good(checked(BASE + f"servers:\nrouter:\n  http: {written}\n"))
    assert (topology.router.http is not None) is there


def test_anchors_and_merge_keys(checked: Check) -> None:
    text = BASE + "context_servers: &c {tp_size: 2, gpu_fraction: 0.5}\ngeneration_servers: {<<: *c, tp_size: 4}\n"
    topology = good(checked(text))
    assert topology.generation_servers is not None
    assert topology.generation_servers.tensor_parallel_size == 4
    assert topology.generation_servers.memory_fraction == 0.5


def test_relative_paths_are_relative_to_the_file(checked: Check, tmp_path: Path) -> None:
    text = BASE.replace("org/model", "./models/a") + (
        "servers: {}\nservices: {nats: {binary: bin/nats-server}, etcd: {binary: etcd}}\n"
        "container: {runtime: docker, image: ~/x.sif, mounts: ['data:/data:ro', '/abs:/abs']}"
    )
    topology = good(checked(text))
    assert topology.model == f"{tmp_path}/models/a"
    assert topology.services.nats.binary == f"{tmp_path}/bin/nats-server"
    assert topology.services.etcd.binary == "etcd"
    assert topology.container.image == "/home/somebody/x.sif"
    assert topology.container.mounts == (f"{tmp_path}/data:/data:ro", "/abs:/abs")


def test_dump_loads_to_the_same_topology(checked: Check) -> None:
    topology = good(checked(DESIGN))
    assert good(checked(dump(topology))) == topology


def test_redacted_keeps_no_credentials(checked: Check) -> None:
    text = "servers: {}\nservices: {nats: {external: 'nats://u:secret@h:4222'}, etcd: {external: 'http://a:b@h:1'}}"
    written = dump(redacted(good(checked(BASE + text))))
    assert "secret" not in written and "a:b" not in written and "nats://***@h:4222" in written


def test_load_raises_with_the_whole_report(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BASE + "servers: {tp_szie: 2, num_instances: 0}\n")
    with pytest.raises(InvalidTopologyError) as caught:
        load(path, environ=ENVIRON)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == [
        f"{path}:3:11: error[TRT012]: unknown key 'tp_szie' in servers; did you mean 'tp_size'?",
        f"{path}:3:38: error[TRT016]: num_instances in servers must be at least 1, not 0",
        "2 errors",
    ]


def test_the_package_imports_nothing_until_it_is_used() -> None:
    program = "import sys, trtdist.topology; sys.exit('pydantic' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
