"""TensorRT-LLM's own files of a deployment: what is in them, and that importing them gives the deployment back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.plan import Plan
from trtdist.planning import Target, plan
from trtdist.rendering.trtllm_files import addresses_by_name, disagg_config, engine_options, model_json, trtllm_files
from trtdist.topology import check_text
from trtdist.topology.importers.draft import LOST, Wishes
from trtdist.topology.importers.reading import import_files
from trtdist.topology.importers.writing import topology_text
from trtdist.topology.model import ServerSection, Topology


def planned(**given_keys: Any) -> Plan:
    return plan(Topology(**{"name": "demo", "model": "org/model", **given_keys}), Target.SLURM)


def sides(context: dict[str, Any], generation: dict[str, Any], **more: Any) -> Plan:
    return planned(context_servers=ServerSection(**context), generation_servers=ServerSection(**generation), **more)


def test_what_disaggregated_servers_cannot_do_without_is_written() -> None:
    deployment = sides(
        {"num_instances": 2, "tensor_parallel_size": 2}, {"context_parallel_size": 2}, launch="per_server"
    )
    context, generation = (engine_options(deployment, deployment.server(name)) for name in ("ctx.0", "gen.0"))
    assert context == {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "kv_cache_config": {"free_gpu_memory_fraction": 0.9},
        "cache_transceiver_config": {"backend": "UCX"},
        "disable_overlap_scheduler": True,
    }
    assert generation["context_parallel_size"] == 2 and "disable_overlap_scheduler" not in generation
    config = disagg_config(deployment, addresses_by_name(deployment))
    assert config["context_servers"]["urls"] == ["node0:8001", "node0:8002"]
    assert config["generation_servers"]["urls"] == ["node0:8003"]
    assert config["context_servers"]["num_instances"] == 2


def test_what_is_said_counts() -> None:
    transfer = {"cache_transceiver_config": {"backend": "NIXL", "max_tokens_in_buffer": 8192}}
    deployment = sides({**transfer, "disable_overlap_scheduler": False}, transfer, launch="mpi_world")
    options = engine_options(deployment, deployment.server("ctx.0"))
    assert options["cache_transceiver_config"] == transfer["cache_transceiver_config"]
    assert options["disable_overlap_scheduler"] is False


@pytest.mark.parametrize(
    ("release", "transfer", "overlap"),
    [
        ("0.19", None, False),
        ("0.20", None, True),
        ("0.21", {"backend": "mpi"}, True),
        ("1.2", {"backend": "MPI"}, True),
    ],
)
def test_what_a_release_does_not_have_is_not_written(release: str, transfer: Any, overlap: bool) -> None:
    options = yaml.safe_load(trtllm_files(sides({}, {}), release)["context.extra_llm_api_options.yaml"])
    assert options.get("cache_transceiver_config") == transfer
    assert ("disable_overlap_scheduler" in options) is overlap


def test_model_json_has_what_all_servers_share_by_older_names() -> None:
    graphs = {"cuda_graph_config": {"batch_sizes": [1, 2], "enable_padding": True}, "dtype": "bfloat16"}
    deployment = sides({**graphs, "trust_remote_code": True}, {**graphs, "trust_remote_code": True, "revision": "x"})
    assert json.loads(model_json(deployment)) == {
        "model": "org/model",
        "dtype": "bfloat16",
        "use_cuda_graph": True,
        "cuda_graph_batch_sizes": [1, 2],
        "cuda_graph_padding_enabled": True,
    }
    alone = planned(servers=ServerSection(tensor_parallel_size=4, cuda_graph_config=None, trust_remote_code=True))
    assert json.loads(model_json(alone)) == {
        "model": "org/model",
        "tensor_parallel_size": 4,
        "trust_remote_code": True,
        "use_cuda_graph": False,
    }
    assert set(trtllm_files(alone)) == {"extra_llm_api_options.yaml", "model.json"}


NUMBERS = st.integers(-(10**6), 10**6)
SIZES = st.sampled_from([1, 2, 4])
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "max_batch_size": st.integers(1, 512),
        "max_num_tokens": st.integers(1, 16384),
        "enable_attention_dp": st.booleans(),
        "disable_overlap_scheduler": st.just(True),
        "cuda_graph_config": st.none() | st.fixed_dictionaries({"enable_padding": st.booleans()}),
        "moe_config": st.just({"backend": "TRTLLM"}),
        "speculative_config": st.just({"decoding_type": "MTP", "max_draft_len": 1}),
        "kv_cache_config": st.fixed_dictionaries(
            {"free_gpu_memory_fraction": st.sampled_from([0.25, 0.5, 0.9])},
            optional={"dtype": st.sampled_from(["fp8", "auto"]), "enable_block_reuse": st.booleans()},
        ),
        "extra_engine_args": st.dictionaries(st.sampled_from(["novel_one", "novel_two"]), NUMBERS, max_size=2),
    },
)
SERVERS = st.builds(
    lambda count, tensor, pipeline, context, arguments: {
        "num_instances": count,
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "context_parallel_size": context,
        **arguments,
    },
    st.integers(1, 3), SIZES, st.sampled_from([1, 2]), st.sampled_from([1, 2]), ARGUMENTS,
)  # fmt: skip


def topology(**sections: Any) -> Topology:
    text = yaml.safe_dump({"name": "demo", "model": "org/model", **sections})
    checked = check_text(text, "a.yaml", environ={"TRTDIST_SITE": ""})
    assert checked.topology is not None, checked.diagnostics
    return checked.topology


def brought_back(files: dict[str, str], names: list[str]) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in names]
        for path in paths:
            path.write_text(files[path.name])
        found = import_files(paths, Wishes(name="demo", model="org/model"))
    assert not [remark for remark in found.of_kind(LOST) if "engine" in remark.key]
    checked = check_text(topology_text(found, names), "a.yaml", environ={"TRTDIST_SITE": ""})
    assert checked.topology is not None, checked.diagnostics
    return plan(checked.topology, Target.SLURM)


def engines(deployment: Plan) -> list[tuple[str, dict[str, Any]]]:
    return [(server.name, engine_options(deployment, server)) for server in deployment.servers]


@given(
    context=SERVERS,
    generation=SERVERS,
    launch=st.sampled_from(["mpi_world", "per_server"]),
    policy=st.sampled_from(["round_robin", "least_loaded"]),
)
@settings(deadline=None, max_examples=25)
def test_a_disaggregated_deployment_comes_back(
    context: dict[str, Any], generation: dict[str, Any], launch: str, policy: str
) -> None:
    before = plan(
        topology(context_servers=context, generation_servers=generation, launch=launch, router={"policy": policy}),
        Target.SLURM,
    )
    files = trtllm_files(before)
    for names in (["disagg_config.yaml"], [name for name in files if name != "model.json"]):
        after = brought_back(files, names)
        assert engines(after) == engines(before)
        assert (after.launch, after.router_policy, after.model) == (launch, policy, before.model)
        assert [server.ranks for server in after.servers] == [server.ranks for server in before.servers]


@given(servers=SERVERS)
@settings(deadline=None, max_examples=15)
def test_a_monolithic_deployment_comes_back_but_for_the_number_of_servers(servers: dict[str, Any]) -> None:
    before = plan(topology(servers={**servers, "num_instances": 1}), Target.SLURM)
    after = brought_back(trtllm_files(before), ["extra_llm_api_options.yaml"])
    assert engines(after) == engines(before)
