"""Configurations of other launchers become topologies that are valid, can be planned, and say what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import import_recipes
from tests.topology.conftest import ENVIRON
from trtdist.errors import InputError
from trtdist.plan import Plan
from trtdist.planning import Target, plan
from trtdist.topology import InvalidTopologyError, Topology, check_text
from trtdist.topology.importers.draft import CHANGED, LOST, Imported, Wishes
from trtdist.topology.importers.reading import import_files
from trtdist.topology.importers.writing import topology_text

IMPORTS = Path(__file__).parent / "imports"
MODEL = "org/model"
ARGUMENTS = '{"model": "org/model", "max_batch_size": 1}'
ENGINES = "aiconfigurator/disagg/prefill_config.yaml aiconfigurator/disagg/decode_config.yaml"

# Files, ranks (each with a GPU of its own) and nodes: as the files say them, or as they follow from their sizes and the
# GPUs of a node (8 where a file does not say).
PUBLIC = [
    ("disagg/example.yaml", 2, 1),
    ("disagg/service_discovery.yaml", 2, 1),
    ("disagg/cache_aware_balance.yaml", 4, 1),
    ("disagg/conditional.yaml", 2, 1),
    ("disagg/ctxtp2_gentp1.yaml", 4, 1),
    ("disagg/ctxtp2_gencp2.yaml", 4, 1),
    ("disagg/conversation.yaml", 3, 1),
    ("disagg/gen_only.yaml", 2, 1),
    ("disagg/ctx2dep4_gen1dep16.yaml", 24, 3),
    ("disagg/load_balance.yaml", 4, 1),
    ("disagg/trt_backend.yaml", 4, 1),
    ("disagg/attention_dp_one_mtp.yaml", 4, 1),
    ("disagg/ctxpp4_gentp4.yaml", 8, 1),
    ("disagg/ctxtp2ep2pp2_gentp4.yaml", 8, 1),
    ("disagg/gptoss_eagle.yaml", 8, 1),
    ("disagg/llama_nixl.yaml", 4, 1),
    ("disagg/cuda_graph_padding.yaml", 2, 1),
    ("disagg/overlap_cuda_graph.yaml", 4, 1),
    ("disagg/host_offload.yaml", 2, 1),
    ("disagg/mixed.yaml", 3, 1),
    ("disagg/transfer_over_mpi.yaml", 4, 1),
    ("disagg/empty_batch.yaml", 3, 1),
    ("disagg/kv_cache_overflow.yaml", 8, 1),
    ("disagg/ctxtp4_gencp4.yaml", 8, 1),
    ("simple/disagg_config.yaml simple/ctx_extra-llm-api-config.yaml simple/gen_extra-llm-api-config.yaml", 2, 1),
    ("simple/ctx_extra-llm-api-config.yaml simple/gen_extra-llm-api-config.yaml", 2, 1),
    ("simple/disagg_config.yaml", 2, 1),
    ("benchmark/config.yaml", 12, 3),
    ("benchmark/gpt_oss_ctx1_tp1_gen1_tp4.yaml", 5, 2),
    ("original/single_node_config.yaml original/model.json", 3, 1),
    ("original/single_node_config.yaml", 3, 1),
    ("original/multi_node_config.yaml original/model.json", 8, 1),
    ("original/single_node_config_new_keys.yaml original/model.json", 8, 1),
    ("original/model.json", 1, 1),
    ("options/llm_api_config.yaml", 8, 1),
    ("srtslurm/trtllm_serve.yaml", 32, 4),
    ("srtslurm/dynamo_dep32.yaml", 36, 9),
    ("srtslurm/aggregate_tep8.yaml", 8, 2),
    ("srtslurm/schema2_roles.yaml", 2, 1),
    ("srtslurm/schema2_roles.yaml srtslurm/srtslurm.yaml", 2, 1),
    ("srtslurm/schema2_old_keys.yaml", 2, 1),
    ("aiconfigurator/generator_config.yaml", 8, 1),
    (f"aiconfigurator/generator_config.yaml {ENGINES}", 8, 1),
    ("aiconfigurator/agg.yaml", 16, 2),
    ("aiconfigurator/naive.yaml", 8, 1),
    ("srtslurm/sweep.yaml", 8, 1),
    ("disagg/limited_cache.yaml", 2, 1),
    ("disagg/top_level_speculation.yaml", 8, 1),
    ("dynamo/wide_ep_prefill.yaml dynamo/wide_ep_decode.yaml", 32, 4),
]


def imported(names: str, **wishes: str) -> Imported:
    return import_files([IMPORTS / name for name in names.split()], Wishes(**wishes))


def topology_of(found: Imported) -> Topology:
    checked = check_text(topology_text(found, ["a.yaml"]), "a.yaml", environ=ENVIRON)
    assert checked.topology is not None, [str(diagnostic) for diagnostic in checked.diagnostics]
    return checked.topology


def lost(found: Imported) -> dict[str, str]:
    return {remark.key: f"{remark.why}; {remark.instead}" for remark in found.of_kind(LOST)}


@pytest.mark.parametrize(("names", "ranks", "nodes"), PUBLIC, ids=[names for names, *_ in PUBLIC])
def test_public_configurations_are_imported_valid_and_planned(names: str, ranks: int, nodes: int) -> None:
    topology = topology_of(imported(names, model=MODEL))
    planned: Plan = plan(topology, Target.SLURM)
    assert (planned.world_size, len(planned.gpus), planned.allocation.nodes) == (ranks, ranks, nodes)
    assert all(rank.gpu < planned.allocation.gpus_per_node for server in planned.servers for rank in server.ranks)


def test_recipes_are_compared_with_their_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file that is a recipe counts, and one whose plan has fewer GPUs than it says is told."""
    assert import_recipes.main(IMPORTS / "srtslurm") == 0
    assert capsys.readouterr().out == "6 recipes with the workers, GPUs and nodes that they say, 0 without\n"
    text = (IMPORTS / "srtslurm" / "dynamo_dep32.yaml").read_text()
    (tmp_path / "many.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text(text.replace("type: trtllm", "type: sglang"))
    assert import_recipes.main(tmp_path) == 0
    fewer = import_recipes.Counts(1, 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_recipes, "planned", lambda path: fewer)
        assert import_recipes.main(tmp_path) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith(f"{tmp_path}/many.yaml: says Counts(workers=")
    assert told[-1] == "0 recipes with the workers, GPUs and nodes that they say, 1 without"


def keys_of(value: Any) -> set[str]:
    """The keys of a configuration at all depths, without those whose values say that there is nothing."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return {key for key in value if value[key] not in ("", {})}.union(*map(keys_of, value.values()))


# What is meant by a file of a format as such, and by its sections.
STRUCTURE = {
    "agg", "aggregated", "args", "backend", "context_servers", "copyright", "ctx", "decode", "engine", "env",
    "environment", "frontend", "gen", "generation_servers", "hardware", "model", "params", "prefill", "resources",
    "roles", "schema", "slurm", "trtllm_config", "type", "worker_config", "Workers", "WorkerConfig", "NodeConfig",
    "ServiceConfig", "DynConfig", "aggregated_environment", "decode_environment", "prefill_environment", "health_check",
}  # fmt: skip
# Keys that become something else, which the tests below look at; defaults that are the same here; and estimates.
ELSEWHERE = {
    "hostname", "num_workers", "gpus_per_prefill", "gpus_per_decode", "gpus_per_agg", "nodes", "workers", "gpus",
    "name", "path", "container", "time_limit", "job_time", "max_attempts", "interval_seconds",
    "enable_multiple_frontends",
    "prefill_workers", "decode_workers", "agg_workers", "prefill_nodes", "decode_nodes", "agg_nodes", "model_name",
    "model_path", "served_model_path", "num_gpus_per_node", "num_ctx_servers", "num_gen_servers", "container_image",
    "container_mount", "worker_env_var", "extra_args", "srun_options", "mem", "cpu-bind", "container-remap-root",
    "job_name", "router", "gpus_per_worker", "memory", "gemm_quant_mode", "kvcache_quant_mode", "data_parallel_size",
    "K8sConfig", "k8s_image", "gpus_per_node", "SflowConfig", "mode",
}  # fmt: skip


@pytest.mark.parametrize("names", [names for names, *_ in PUBLIC])
def test_nothing_is_dropped(names: str) -> None:
    found = imported(names, model=MODEL)
    told = {part for remark in found.remarks for part in remark.key.split(".")}
    kept = keys_of(found.topology)
    for name in names.split():
        if name == "srtslurm/srtslurm.yaml":
            continue
        document = yaml.safe_load((IMPORTS / name).read_text())
        if name.endswith(".json"):
            document = {key: value for key, value in document.items() if value is not None}
        inside = {part for key in told & set(document) for part in keys_of(document[key])}
        missing = keys_of(document) - kept - told - inside - STRUCTURE - ELSEWHERE
        aliases = {"tp_size", "pp_size", "gpu_fraction", "free_gpu_memory_fraction"}
        assert missing <= aliases, f"{name}: {sorted(missing)} are neither carried over nor told"


def test_the_text_tells_what_is_not_in_it_and_where_it_was() -> None:
    found = imported("disagg/conditional.yaml")
    text = topology_text(found, ["conditional.yaml"])
    assert text.startswith(
        "# From conditional.yaml (TensorRT-LLM disaggregated configuration).\n#\n# Not carried over:\n"
    )
    remarks = {remark.key: remark for remark in found.remarks}
    remark = remarks["conditional_disagg_config"]
    assert (remark.origin.line, remark.origin.column) == (8, 1)
    assert "short prompts pass through context servers" in " ".join(text.replace("\n#  ", " ").split())
    assert "kv_cache_aware" in lost(found)["generation_servers.router.type"]
    assert remarks["context_servers.cache_transceiver_config.backend"].kind == CHANGED
    sections = (found.topology["context_servers"], found.topology["generation_servers"])
    assert [section["cache_transceiver_config"] for section in sections] == [{"backend": "DEFAULT"}] * 2
    assert [section["cuda_graph_config"] for section in sections] == [None, None]
    assert found.topology["router"] == {"http": {"port": 8000}}


def test_older_keys_become_todays() -> None:
    found = imported("disagg/load_balance.yaml")
    generation = found.topology["generation_servers"]
    assert generation["cuda_graph_config"] is None and generation["disable_overlap_scheduler"] is False
    assert found.topology["context_servers"]["disable_overlap_scheduler"] is True
    assert found.topology["router"]["policy"] == "least_loaded"
    kept = imported("disagg/load_balance.yaml", tensorrt_llm="0.19").topology["generation_servers"]
    assert kept["pytorch_backend_config"] == {"use_cuda_graph": False, "enable_overlap_scheduler": True}


def test_arguments_of_a_short_life_become_todays(tmp_path: Path) -> None:
    text = (
        "model: a/b\nstress_config: {mode: log_only}\n"
        "context_servers: {use_torch_sampler: true, pytorch_backend_config: {autotuner_enabled: false}}\n"
        "generation_servers: {router: {type: round_robin, track_routed_blocks: true}}\n"
    )
    found = import_files([write(tmp_path, "c.yaml", text)], Wishes())
    context = found.topology["context_servers"]
    assert (context["sampler_type"], context["enable_autotuner"]) == ("TorchSampler", False)
    assert not any("extra_engine_args" in found.topology[side] for side in ("context_servers", "generation_servers"))
    told = lost(found)
    assert "own stress test" in told["stress_config"]
    assert "kv_prefix" in told["generation_servers.router.track_routed_blocks"]


@pytest.mark.parametrize("name", ["llm_api_config.yaml", "agg_llm_api_config.yaml"])
def test_arguments_with_a_model_beside_a_configuration_hold_for_all_servers(name: str, tmp_path: Path) -> None:
    config = write(tmp_path, "c.yaml", "context_servers: {max_batch_size: 16}\ngeneration_servers: {}\n")
    shared = write(tmp_path, name, "model_name: a/b\nmax_batch_size: 4\nmax_num_tokens: 8192\n")
    found = import_files([config, shared], Wishes())
    sections = [found.topology[side] for side in ("context_servers", "generation_servers")]
    assert [section["max_batch_size"] for section in sections] == [16, 4]
    assert [section["max_num_tokens"] for section in sections] == [8192, 8192]
    assert (found.topology["model"], found.topology["launch"]) == ("a/b", "per_server")


def test_servers_that_share_nodes_are_told(tmp_path: Path) -> None:
    text = (
        "metadata: {config_index: 1}\nsequence: {input_length: 1}\nenvironment: {model_path: /m}\n"
        "hardware: {gpus_per_node: 4, num_ctx_servers: 1, num_gen_servers: 1}\n"
        "worker_config: {ctx: {tensor_parallel_size: 1}, gen: {tensor_parallel_size: 2}}\n"
    )
    found = import_files([write(tmp_path, "b.yaml", text)], Wishes())
    (remark,) = (remark for remark in found.of_kind(CHANGED) if remark.key == "hardware.gpus_per_node")
    assert "the 2 servers smaller than a node share nodes" in remark.why
    assert plan(topology_of(found), Target.SLURM).allocation.nodes == 1
    assert {"metadata", "sequence"} <= set(lost(found))


def test_a_transfer_over_mpi_needs_one_world() -> None:
    assert imported("disagg/transfer_over_mpi.yaml").topology["launch"] == "mpi_world"
    assert imported("disagg/mixed.yaml").topology["launch"] == "per_server"
    assert imported("original/multi_node_config.yaml").topology["launch"] == "mpi_world"


def test_the_original_example_with_its_model_json() -> None:
    found = imported("original/single_node_config.yaml original/model.json")
    assert found.topology["launch"] == "mpi_world"
    for side, number in (("context_servers", 2), ("generation_servers", 1)):
        section = found.topology[side]
        assert section["num_instances"] == number and section["tensor_parallel_size"] == 1
        assert section["kv_cache_config"] == {"dtype": "fp8", "free_gpu_memory_fraction": 0.25}
        assert section["cuda_graph_config"] == {"batch_sizes": [1, 2, 4], "enable_padding": True}
        assert section["disable_overlap_scheduler"] is True
    assert "localhost:8002 is one server for both roles" in lost(found)["urls"]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_originals_slips_are_told(tmp_path: Path) -> None:
    config = write(tmp_path, "c.yaml", "model: a/b\ncontext_servers: {tp_size: 2}\ngeneration_servers: {tp_size: 2}\n")
    given_model = '{"model": "c/d", "tensor_parallel_size": 4, "trust_remote_code": true, "disagg_config": "c.yaml"}'
    found = import_files([config, write(tmp_path, "model.json", given_model)], Wishes())
    told = lost(found)
    assert "where the original's disaggregated workers refuse it" in told["tensor_parallel_size"]
    assert "the original has no such field" in told["disagg_config"]
    assert "c/d is served" in told["model"] and found.topology["model"] == "c/d"
    assert topology_of(found).world_size == 4


def test_servers_of_both_roles_are_monolithic(tmp_path: Path) -> None:
    text = (
        "model: a/b\ncontext_servers: {num_instances: 2, urls: ['h:1', 'h:2']}\n"
        "generation_servers: {num_instances: 2, urls: ['h:1', 'h:2']}\n"
    )
    topology = topology_of(import_files([write(tmp_path, "mixed.yaml", text)], Wishes()))
    assert not topology.disaggregated and topology.world_size == 2


def test_contradictions_are_told(tmp_path: Path) -> None:
    text = (
        "model: a/b\nmax_batch_size: 8\nfree_gpu_memory_fraction: 0.5\nmystery: 1\nhostname: head1\n"
        "context_servers: {max_batch_size: 4, num_instances: 1, urls: ['h:1', 'h:2']}\n"
        "generation_servers: {kv_cache_config: {free_gpu_memory_fraction: 0.3, mystery: 2}}\n"
    )
    found = import_files([write(tmp_path, "c.yaml", text)], Wishes())
    told = lost(found)
    assert "context_servers counts" in told["max_batch_size"]
    assert "generation_servers counts" in told["kv_cache_config.free_gpu_memory_fraction"]
    assert "2 for num_instances 1" in told["context_servers.urls"]
    assert "the head node is found" in told["hostname"]
    section = found.topology["generation_servers"]
    assert section["max_batch_size"] == 8
    assert section["extra_engine_args"] == {"mystery": 1, "kv_cache_config": {"mystery": 2}}
    topology_of(found)


def test_a_recipe_of_srt_slurm_with_its_cluster_file() -> None:
    found = imported("srtslurm/schema2_roles.yaml srtslurm/srtslurm.yaml")
    assert (found.topology["model"], found.topology["container"]["image"]) == (
        "/models/Qwen3-0.6B",
        "/images/trtllm.sqsh",
    )
    assert found.topology["slurm"] == {
        "gpus_per_node": 8, "nodes": 1, "account": "lab", "partition": "gpu", "time": "00:30:00",
    }  # fmt: skip
    assert found.topology["container"]["mounts"] == ["/models:/models"]
    assert (found.topology["runtime"], found.topology["launch"]) == ("trtllm-serve", "per_server")
    assert found.topology["container"]["env"] == {"PYTHONUNBUFFERED": "1", "TLLM_LOG_LEVEL": "INFO"}
    assert found.topology["network"] == {"interface": "ib0"} and not any("site" in key for key in lost(found))
    alone = imported("srtslurm/schema2_roles.yaml")
    assert "an alias of srtslurm.yaml" in lost(alone)["model.path"]
    assert imported("srtslurm/trtllm_serve.yaml").topology["timeouts"] == {"ready": 3600.0}
    assert imported("srtslurm/dynamo_dep32.yaml").topology["runtime"] == "dynamo"
    assert "model.path" not in lost(imported("srtslurm/schema2_roles.yaml", model=MODEL))


def test_of_a_sweep_the_first_point_is_taken() -> None:
    found = imported("srtslurm/sweep.yaml")
    servers = found.topology["servers"]
    assert (servers["tensor_parallel_size"], servers["pipeline_parallel_size"]) == (4, 2)
    assert "the first of each list (tp 4, pp 2)" in lost(found)["sweep"]
    assert found.topology["container"]["mounts"] == ["configs/eplb:/eplb"]
    assert "tmpfs:/dev/shm:size=100% is a file system of enroot's own" in lost(found)["extra_mount"]


def test_different_environments_of_roles_are_told(tmp_path: Path) -> None:
    text = (IMPORTS / "srtslurm" / "schema2_roles.yaml").read_text().replace("INFO}", "DEBUG}", 1)
    found = import_files([write(tmp_path, "r.yaml", text)], Wishes())
    assert found.topology["container"]["env"] == {"PYTHONUNBUFFERED": "1"}
    assert {"roles.prefill.env.TLLM_LOG_LEVEL", "roles.decode.env.TLLM_LOG_LEVEL"} <= set(lost(found))


def test_aiconfigurator_with_and_without_the_files_of_its_engines() -> None:
    found = imported("aiconfigurator/generator_config.yaml")
    context = found.topology["context_servers"]
    assert (context["num_instances"], context["max_batch_size"]) == (4, 1)
    assert context["kv_cache_config"] == {"dtype": "fp8"}
    whole = imported(f"aiconfigurator/generator_config.yaml {ENGINES}")
    assert whole.topology["context_servers"]["max_num_tokens"] == 4512
    assert whole.topology["generation_servers"]["tensor_parallel_size"] == 4
    agg = imported("aiconfigurator/agg.yaml").topology["servers"]
    assert (agg["tensor_parallel_size"], agg["enable_attention_dp"], agg["num_instances"]) == (8, True, 2)


def test_words_without_an_end_are_told(tmp_path: Path) -> None:
    text = (IMPORTS / "benchmark/config.yaml").read_text()
    text = text.replace('extra_args: ""', 'extra_args: "--comment=it\'s"').replace("TLLM_LOG_LEVEL=INFO", "A='")
    found = import_files([write(tmp_path, "config.yaml", text)], Wishes(model=MODEL))
    assert "container" not in found.topology and "extra_sbatch" not in found.topology["slurm"]
    for key in ("slurm.extra_args", "environment.worker_env_var"):
        assert "a quote or backslash in it is not closed" in lost(found)[key]


def test_a_file_for_servers_that_there_are_not_is_told() -> None:
    name = str(IMPORTS / "options/llm_api_config.yaml")
    found = imported(f"aiconfigurator/generator_config.yaml {ENGINES} options/llm_api_config.yaml")
    assert "servers" not in found.topology
    assert "has no servers" in lost(found)[name]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({"a.yaml": "name: x\nmodel: y\ncontext_servers: {}\ngeneration_servers: {}\n"}, "is a topology already"),
        ({"a.yaml": "version: v1\nkind: Pod\n"}, "has none of the formats"),
        ({"a.yaml": "- 1\n"}, "holds no mapping"),
        ({"a.yaml": ""}, "holds no mapping"),
        ({"a.yaml": "context_servers: {}\ngeneration_servers: {}\n"}, "name no model: give --model"),
        ({"ctx.yaml": "max_batch_size: 1\n"}, "nothing describes generation_servers"),
        ({"model.json": '{"model": "a/b"}', "ctx.yaml": "max_batch_size: 1\n"}, "nothing describes generation_servers"),
        (
            {"a.yaml": "model: m\ncontext_servers: {}\n", "b.yaml": "model: m\ngeneration_servers: {}\n"},
            "each describe a whole deployment",
        ),
        (
            {"a.yaml": "model: m\ncontext_servers: {}\ngeneration_servers: {}\n", "o.yaml": "max_batch_size: 1\n"},
            "does not show whether it is for context or generation servers",
        ),
        ({"r.yaml": "name: r\nmodel: {path: m}\nresources: {}\nbackend: {type: sglang}\n"}, "a recipe for sglang"),
        ({"srtslurm.yaml": "default_account: a\nmodel_paths: {}\n"}, "name a recipe beside it"),
        (
            {"srtslurm.yaml": "default_account: a\n", "a.yaml": "context_servers: {}\ngeneration_servers: {}\n"},
            "does not belong to",
        ),
        *(
            (
                {"d.yaml": "model: m\ncontext_servers: {}\n", one: ARGUMENTS, other: ARGUMENTS},
                f"{other} are both for {section}",
            )
            for one, other, section in (
                ("llm_api_config.yaml", "other.yaml", "servers"),
                ("llm_api_config.yaml", "model.json", "servers"),
                ("model.json", "agg.yaml", "servers"),
                ("ctx.yaml", "prefill.yaml", "context_servers"),
            )
        ),
        (dict.fromkeys(("ctx.yaml", "gen.yaml", "agg.yaml"), ARGUMENTS), "nothing describes the servers"),
    ],
)
def test_what_cannot_be_understood_is_told_in_one_sentence(texts: dict[str, str], why: str, tmp_path: Path) -> None:
    paths = [write(tmp_path, name, text) for name, text in texts.items()]
    with pytest.raises(InputError, match=why) as caught:
        import_files(paths, Wishes())
    assert "\n" not in str(caught.value)


def test_what_is_no_yaml_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidTopologyError, match=r"a\.yaml:1:5: error\[TRT004\]|a\.yaml:\d+:\d+: error"):
        import_files([write(tmp_path, "a.yaml", "a: [1\n")], Wishes())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(0, 1) | st.sampled_from(["UCX", "None", "x:1", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "num_instances",
        "urls",
        "router",
        "tp_size",
        "tensor_parallel_size",
        "gpu_fraction",
        "kv_cache_config",
        "free_gpu_memory_fraction",
        "cache_transceiver_config",
        "use_cuda_graph",
        "cuda_graph_config",
        "cuda_graph_batch_sizes",
        "pytorch_backend_config",
        "backend",
        "build_config",
        "enable_overlap_scheduler",
        "moe_backend",
        "kv_cache_dtype",
        "num_nextn_predict_layers",
        "novel",
        "port",
        "hostname",
        "num_workers",
        "model",
        "name",
        "resources",
        "roles",
        "worker_config",
        "hardware",
        "environment",
        "slurm",
        "params",
        "WorkerConfig",
    ]
)
SECTION = st.dictionaries(KEYS, VALUES, max_size=6)


@given(top=st.dictionaries(KEYS, VALUES | SECTION, max_size=6), context=SECTION, generation=SECTION)
@settings(deadline=None, max_examples=60)
def test_whatever_stands_in_a_file_it_ends_in_an_import_or_a_sentence(
    top: dict[str, Any], context: dict[str, Any], generation: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.yaml"
    path.write_text(yaml.safe_dump({**top, "context_servers": context, "generation_servers": generation}))
    try:
        found = import_files([path], Wishes(model=MODEL))
    except InputError:
        return
    # What comes out is YAML of a topology, right or wrong.
    check_text(topology_text(found, ["a.yaml"]), "a.yaml", environ=ENVIRON)


def test_strange_names_cannot_leave_the_comments(tmp_path: Path) -> None:
    text = 'name: r\nmodel: {path: a/b}\nresources: {}\nengine: trtllm\nroles: {agg: {}}\n"x\\nname: evil": 1\n'
    found = import_files([write(tmp_path, "r.yaml", text)], Wishes())
    assert topology_of(found).name == "r"
    assert "x\\nname: evil" in topology_text(found, ["a\nname: evil.yaml"])


@pytest.mark.parametrize(("line", "port"), [("port: 8000\n", 8000), ("", None)])
def test_the_port_of_servers_for_both_roles_is_not_that_of_the_front(
    tmp_path: Path, line: str, port: int | None
) -> None:
    """Users asked the router at `port`, and go on asking there; where servers listened is told as not carried over."""
    role = 'num_instances: 1\n  urls: ["localhost:8001"]\n'
    text = f"hostname: localhost\n{line}model: a/b\ncontext_servers:\n  {role}generation_servers:\n  {role}"
    found = import_files([write(tmp_path, "both.yaml", text)], Wishes())
    assert found.topology["servers"] == {"num_instances": 1}
    assert found.topology.get("router", {}).get("http", {}).get("port") == port
    changed = [remark.key for remark in found.of_kind(CHANGED)]
    assert {"context_servers.urls", "generation_servers.urls"} <= set(changed)
