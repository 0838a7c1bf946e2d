"""`--set path=value`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trtdist.topology import Checked, Topology

TEXT = """\
name: demo
model: org/model
context_servers: {tp_size: 2, gpu_fraction: 0.5, speculative_config: {max_draft_len: 3}}
generation_servers: {tensor_parallel_size: 2}
container: {mounts: ["/a:/a", "/b:/b"]}
"""

Check = Callable[..., Checked]


def good(checked: Checked) -> Topology:
    assert checked.topology is not None, checked.diagnostics
    return checked.topology


def test_any_spelling_replaces_any_spelling(checked: Check) -> None:
    overrides = (
        "context_servers.tensor_parallel_size=4",
        "generation_servers.tp_size=8",
        "context_servers.kv_cache_config.free_gpu_memory_fraction=0.25",
        "generation_servers.gpu_fraction=0.75",
    )
    topology = good(checked(TEXT, *overrides))
    assert [section.tensor_parallel_size for _, section in topology.sections] == [4, 8]
    assert [section.memory_fraction for _, section in topology.sections] == [0.25, 0.75]


def test_sections_lists_and_engine_arguments(checked: Check) -> None:
    overrides = (
        "slurm.account=0123",
        "slurm.time=01:00:00",
        "container.mounts.1=/c:/c",
        "container.mounts.2=/d:/d:ro",
        "container.env.HF_HOME=/cache",
        "container.env.EQUAL=a=b.c",
        "context_servers.speculative_config.max_draft_len=5",
        "context_servers.cuda_graph_config.batch_sizes=[1, 2]",
        "generation_servers={tp_size: 1, num_instances: 3}",
        "router.http={port: 8080}",
    )
    topology = good(checked(TEXT, *overrides))
    assert topology.slurm.account == "0123" and topology.slurm.time == "01:00:00"
    assert topology.container.mounts == ("/a:/a", "/c:/c", "/d:/d:ro")
    assert topology.container.env == {"HF_HOME": "/cache", "EQUAL": "a=b.c"}
    assert topology.router.http.port == 8080
    assert topology.context_servers is not None and topology.generation_servers is not None
    assert topology.context_servers.engine_args["speculative_config"] == {"max_draft_len": 5}
    assert topology.context_servers.engine_args["cuda_graph_config"] == {"batch_sizes": [1, 2]}
    assert topology.generation_servers.num_instances == 3


def test_nothing_takes_a_key_away(checked: Check) -> None:
    overrides = ("context_servers=", "generation_servers=null", "servers.tp_size=4", "container.mounts=")
    topology = good(checked(TEXT, *overrides))
    assert topology.servers is not None and not topology.disaggregated
    assert topology.servers.tensor_parallel_size == 4
    assert topology.container.mounts == ()


@pytest.mark.parametrize(("override", "there"), [("router.http=", True), ("router.http=null", False)])
def test_null_takes_away_what_would_be_there(checked: Check, override: str, there: bool) -> None:
    topology = good(checked(TEXT, override))
    assert (topology.router.http is not None) is there


def test_the_last_one_counts(checked: Check) -> None:
    assert good(checked(TEXT, "name=a", "name=b")).name == "b"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "context_servers.tp_szie=2",
            (
                "--set context_servers.tp_szie: error[TRT012]: unknown key 'tp_szie' in context_servers; "
                "did you mean 'tp_size'?"
            ),
        ),
        ("contextservers.tp_size=2", "unknown key 'contextservers'; did you mean 'context_servers'?"),
        ("context_servers={tp_szie: 2}", "--set context_servers: error[TRT012]: unknown key 'tp_szie'"),
        ("slurm.gpus_per_node=none", "--set slurm.gpus_per_node: error[TRT013]: gpus_per_node in slurm needs a whole"),
        ("context_servers.num_instances=0", "--set context_servers.num_instances: error[TRT016]"),
        ("name.first=x", "--set name.first: error[TRT018]: 'name' holds a single value"),
        ("container.mounts.7=/a:/a", "--set container.mounts.7: error[TRT018]: the list has 2 items"),
        ("container.mounts.x=/a:/a", "error[TRT018]: there is a list at this path: 'x' must be a number from 0"),
        ("name", "--set name: error[TRT018]: write it as --set path.to.key=value"),
        ("=x", "error[TRT018]"),
        ("a..b=x", "--set a..b: error[TRT018]"),
        ("name=[", "--set name: error[TRT004]"),
        ("name=a\0b", "--set name: error[TRT003]: holds a NUL byte"),
        ("name=a\udcffb", "--set name: error[TRT003]: holds the byte 0xff, which is no text here"),
        ("name=!x y", "--set name: error[TRT007]"),
        ("context_servers.num_instances=010", "--set context_servers.num_instances: error[TRT026]"),
        ("na\nme=x", "--set na\\nme: error[TRT012]"),
    ],
)
def test_what_cannot_be_set(checked: Check, override: str, expected: str) -> None:
    result = checked(TEXT, override)
    assert result.topology is None
    assert any(expected in str(found) for found in result.diagnostics), result.diagnostics
