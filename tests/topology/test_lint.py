"""Each rule of the lint for TensorRT-LLM on topologies that break it, that nearly do, and that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.topology.conftest import ENVIRON
from trtdist.topology import Checked, check
from trtdist.topology.engine_args import KV_CACHE_KEYS, LLM_KEYS
from trtdist.topology.lint.arguments_table import ARGUMENTS, NESTED, Argument
from trtdist.topology.lint.model_facts import ModelFacts
from trtdist.topology.lint.versions import NEWEST, OLDEST, of_image, parse

Told = Callable[..., list[str]]
HEAD = "name: demo\nmodel: org/model\n"
LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}
GIB = 1 << 30


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., list[str]]:
    """The problems of a text for a model, as `line:column: severity[CODE]: message`."""

    def run(text: str, facts: ModelFacts | None = None) -> list[str]:
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        found: Checked = check(path, environ=ENVIRON, model_facts=lambda topology: facts)
        return [str(diagnostic).partition("cluster.yaml:")[2] for diagnostic in found.diagnostics]

    return run


def known(row: Argument) -> bool:
    first, _, rest = row.path.partition(".")
    inner = KV_CACHE_KEYS if first == "kv_cache_config" else NESTED.get(first, frozenset())
    return rest in inner if rest else first in LLM_KEYS


@pytest.mark.parametrize("row", ARGUMENTS, ids=lambda row: row.path)
def test_a_row_of_the_table_can_be_hit_and_is_in_order(row: Argument) -> None:
    assert known(row) and row.source
    if row.first is not None:
        assert row.not_in is not None and row.not_in < row.first and row.last is None
        assert row.not_in >= OLDEST and row.first <= NEWEST
    else:
        assert row.last is not None and row.last >= OLDEST and (row.gone is None or row.last < row.gone <= NEWEST)


def written(path: str) -> str:
    first, _, rest = path.partition(".")
    return f"{first}: {{{rest}: 1}}" if rest else f"{first}: 1"


@pytest.mark.parametrize("row", ARGUMENTS, ids=lambda row: row.path)
def test_a_release_refuses_what_it_does_not_have(row: Argument, judged: Told) -> None:
    wrong, right = (row.not_in, row.first) if row.first else (row.gone, row.last)
    assert right
    for minor, expected in ((wrong or NEWEST, "error" if wrong else "warning"), (right, "")):
        lines = judged(f"{HEAD}tensorrt_llm: {minor[0]}.{minor[1]}\nservers: {{{written(row.path)}}}\n")
        told = [line for line in lines if f"servers.{row.path} " in line]
        assert [line.split(": ")[1].split("[")[0] for line in told] == ([expected] if expected else [])
        if expected:
            assert told[0].startswith("4:") and "TensorRT-LLM" in told[0]


def test_between_two_releases_it_is_a_warning_and_nothing_without_a_release(judged: Told) -> None:
    servers = "servers: {kv_cache_dtype: fp8}\n"
    (line,) = judged(f"{HEAD}tensorrt_llm: 1.0\n{servers}")
    assert line.startswith("4:11: warning[TRT201]: TensorRT-LLM 1.0 may not have servers.kv_cache_dtype any more")
    (line,) = judged(f"{HEAD}tensorrt_llm: 1.1.0rc5\n{servers}")
    assert "warning[TRT201]" in line
    (line,) = judged(HEAD + servers)
    assert "warning[TRT102]" in line


def test_the_release_is_read_from_the_tag_of_an_image(judged: Told) -> None:
    container = 'container: {runtime: pyxis, image: "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc23"}\n'
    (line,) = judged(f"{HEAD}servers: {{use_cuda_graph: true}}\n{container}")
    assert line.startswith("3:11: error[TRT201]: TensorRT-LLM 1.3.0rc23 does not have")
    (line,) = judged(f"{HEAD}tensorrt_llm: 1.2\nservers: {{}}\n{container}")
    assert line.startswith("3:15: warning[TRT204]: tensorrt_llm says 1.2 and the image is tagged 1.3.0rc23")
    assert [of_image(name) for name in (None, "img.sqsh", "x/tensorrt-llm/release:latest")] == [None, None, None]
    assert of_image("nvcr.io#nvidia/tensorrt-llm/release:0.21.0") == parse("0.21.0")


def test_a_release_is_written_as_text_or_number(judged: Told) -> None:
    assert judged(f"{HEAD}tensorrt_llm: 1.10\nservers: {{}}\n")[0].startswith(
        "3:15: warning[TRT204]: TensorRT-LLM 1.10"
    )
    assert judged(f"{HEAD}tensorrt_llm: newest\nservers: {{}}\n")[0].startswith("3:15: error[TRT017]")


def test_unknown_keys_within_arguments_are_told_with_the_nearest(judged: Told) -> None:
    (line,) = judged(HEAD + "servers: {cache_transceiver_config: {backned: UCX}}\n")
    assert line.endswith("unknown key 'backned' in servers.cache_transceiver_config; did you mean 'backend'?")


def sides(context: str, generation: str, more: str = "") -> str:
    return f"{HEAD}{more}context_servers: {{{context}}}\ngeneration_servers: {{{generation}}}\n"


def transfer(text: str) -> str:
    return f"cache_transceiver_config: {{{text}}}"


@pytest.mark.parametrize(
    ("context", "generation", "more", "expected"),
    [
        ("backend: UCX", "backend: NIXL", "", "TRT210"),
        ("backend: NIXL, transceiver_runtime: PYTHON", "backend: NIXL", "", "TRT210"),
        ("backend: UCX, max_tokens_in_buffer: 1", "backend: UCX, max_tokens_in_buffer: 2", "", ""),
        ("backend: ucx", "backend: UCX", "", ""),
        ("backend: MPI", "backend: MPI", "", ""),
        ("backend: MPI", "backend: MPI", "launch: per_server\n", "TRT211"),
        ("backend: MOONCAKE", "backend: MOONCAKE", "tensorrt_llm: 1.0\n", "TRT211"),
        ("backend: MOONCAKE", "backend: MOONCAKE", "tensorrt_llm: 1.2\n", ""),
        ("backend: ucx", "backend: ucx", "tensorrt_llm: 1.2\n", "TRT211"),
        ("backend: UCX", "backend: UCX", "tensorrt_llm: 0.21\n", "TRT211"),
        ("backend: PIGEON", "backend: PIGEON", "", "TRT211"),
        ("backend: DEFAULT", "backend: DEFAULT", "", "TRT212"),
    ],
)
def test_both_sides_transfer_alike(context: str, generation: str, more: str, expected: str, judged: Told) -> None:
    lines = judged(sides(transfer(context), transfer(generation), more))
    assert {line.split("[")[1][:6] for line in lines} == ({expected} if expected else set())


def test_one_side_without_transfer_settings(judged: Told) -> None:
    (line,) = judged(sides("", transfer("backend: UCX")))
    assert line.startswith(
        "4:48: error[TRT210]: generation_servers.cache_transceiver_config is given and context_servers."
    )


@pytest.mark.parametrize(
    ("limits", "backend", "release", "severity"),
    [
        ("max_input_len: 4096", "NIXL", "1.1", "error"),
        ("max_input_len: 4096", "UCX", "1.1", "warning"),
        ("max_seq_len: 4096", "NIXL", "1.1", "warning"),
        ("max_input_len: 2048, max_seq_len: 4096", "NIXL", "1.1", ""),
        ("max_seq_len: 2048", "NIXL", "1.1", ""),
        ("max_input_len: 4096", "NIXL", "1.3", ""),
    ],
)
def test_the_buffer_holds_a_prompt(limits: str, backend: str, release: str, severity: str, judged: Told) -> None:
    one = transfer(f"backend: {backend}, max_tokens_in_buffer: 2048")
    lines = judged(sides(f"{limits}, {one}", one, f"tensorrt_llm: {release}\n"))
    assert [line.split("[")[0].split()[-1] for line in lines] == [severity] * 2 * bool(severity)


def test_newer_releases_leave_the_overlap_scheduler_on(judged: Told) -> None:
    assert judged(sides("disable_overlap_scheduler: false", "", "tensorrt_llm: 1.3\n")) == []
    assert judged(sides("disable_overlap_scheduler: false", "", "tensorrt_llm: 1.2\n")) != []


def test_the_overlap_scheduler_of_context_servers(judged: Told) -> None:
    for argument in ("enable_overlap_scheduler: true", "pytorch_backend_config: {enable_overlap_scheduler: true}"):
        assert any("TRT213" in line for line in judged(sides(argument, "")))
    assert judged(sides("disable_overlap_scheduler: true", "disable_overlap_scheduler: false")) == []


@pytest.mark.parametrize(
    ("size", "more", "expected"),
    [
        (6, "", "6 ranks cannot share the model's 32 attention heads evenly; tensor_parallel_size can be 4 or 8"),
        (8, "", ""),
        (16, "", ""),
        (6, ", enable_attention_dp: true", ""),
    ],
)
def test_heads_are_shared(size: int, more: str, expected: str, judged: Told) -> None:
    lines = judged(f"{HEAD}servers: {{tensor_parallel_size: {size}{more}}}\n", ModelFacts.of(LLAMA))
    assert [line for line in lines if "TRT220" in line] == lines and len(lines) == bool(expected)
    assert all(line.endswith(expected) for line in lines)


def test_kv_heads_are_shared_or_repeated(judged: Told) -> None:
    facts = ModelFacts.of({**LLAMA, "num_attention_heads": 24})
    (line,) = judged(f"{HEAD}servers: {{tensor_parallel_size: 6}}\n", facts)
    assert "6 ranks can neither share nor repeat the model's 8 KV heads" in line
    latent = ModelFacts.of({**LLAMA, "num_attention_heads": 24, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert judged(f"{HEAD}servers: {{tensor_parallel_size: 6}}\n", latent) == []


def test_layers_and_experts(judged: Told) -> None:
    facts = ModelFacts.of({**LLAMA, "num_experts": 4})
    (line,) = judged(f"{HEAD}servers: {{pipeline_parallel_size: 64}}\n", facts)
    assert "TRT221" in line
    (line,) = judged(f"{HEAD}servers: {{tensor_parallel_size: 8, moe_expert_parallel_size: 8}}\n", facts)
    assert "more than the model's 4 experts" in line
    both = "moe_expert_parallel_size: 4, moe_tensor_parallel_size: 4"
    (line,) = judged(f"{HEAD}servers: {{tensor_parallel_size: 8, {both}}}\n", facts)
    assert "more than the 8 ranks of a layer" in line


def test_memory_is_estimated_with_its_numbers(judged: Told) -> None:
    facts = ModelFacts.of(LLAMA, weight_bytes=100 * GIB)
    gpu = "slurm: {gpu_memory: 80G}\n"
    (line,) = judged(f"{HEAD}servers: {{}}\n{gpu}", facts)
    assert "each of 1 ranks holds at least 100.0 GiB of weights, and a GPU has 80.0 GiB" in line
    assert judged(f"{HEAD}servers: {{tp_size: 2}}\n{gpu}", facts) == []
    # 128 KiB a token on one rank (2 x 8 heads x 128 x 32 layers x 2 bytes), 64 on two: 3 GiB hold 49,152 tokens.
    (line,) = judged(f"{HEAD}servers: {{tp_size: 2, gpu_fraction: 0.1, max_seq_len: 50000}}\n{gpu}", facts)
    assert "about 49,152 tokens, less than one sequence of max_seq_len 50,000 (3.0 GiB: 0.1 of 80.0 GiB" in line
    assert "64 KiB a token" in line and "warning[TRT224]" in line
    half = "servers: {tp_size: 2, kv_cache_config: {free_gpu_memory_fraction: 0.1, dtype: fp8}, max_seq_len: 50000}\n"
    assert judged(HEAD + half + gpu, facts) == []
    assert judged(f"{HEAD}servers: {{}}\n", facts) == []


@pytest.mark.parametrize("config", [{}, {"num_attention_heads": "many"}, {"text_config": 1, "hidden_size": True}])
def test_a_strange_configuration_of_a_model_says_nothing(config: dict[str, Any], judged: Told) -> None:
    text = f"{HEAD}servers: {{tp_size: 3, max_seq_len: 10}}\nslurm: {{gpu_memory: 80G}}\n"
    assert judged(text, ModelFacts.of(config, GIB)) == []


def test_what_the_plan_decides_is_no_extra_argument(judged: Told) -> None:
    (line,) = judged(HEAD + "servers: {extra_engine_args: {model: x, novel_argument: 1}}\n")
    assert line.startswith("3:31: error[TRT230]: 'model' in servers.extra_engine_args would contradict the plan")


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ("container: {env: {CUDA_VISIBLE_DEVICES: '0'}}", "TRT231"),
        ("container: {env: {UCX_TLS: tcp}}", "TRT231"),
        ("container: {env: {UCX_TLS: 'rc,cuda_copy,cuda_ipc'}}", ""),
        ("container: {env: {NIXL_BACKEND: UCX, TRTLLM_NIXL_KVCACHE_BACKEND: UCX}}", "TRT231"),
        ("container: {env: {TRTLLM_USE_UCX_KVCACHE: '1'}}", ""),
        ("container: {env: {TRTLLM_USE_UCX_KVCACHE: '1'}}\ntensorrt_llm: 1.2", "TRT231"),
        ("services: {nats: {external: 'nats://0.0.0.0:4222'}}", "TRT233"),
        ("services: {etcd: {external: 'http://a:2379,http://[::]:2379'}}", "TRT233"),
        ("slurm: {extra_srun: ['-n 8']}", "TRT234"),
        ("slurm: {extra_srun: ['--network=ib']}", ""),
        ("container: {runtime: docker, image: 'gitlab-master.nvidia.com:5005/dl/x'}", "TRT235"),
    ],
)
def test_surroundings(section: str, code: str, judged: Told) -> None:
    assert [line.split("[")[1][:6] for line in judged(f"{HEAD}servers: {{}}\n{section}\n")] == [code] * bool(code)


def test_pasted_urls_show_slips(judged: Told) -> None:
    lines = judged(sides("urls: ['a:1', 'b:2']", "urls: ['b:2']"))
    told = [line for line in lines if "TRT232" in line]
    assert told[0].startswith("3:1: warning[TRT232]: context_servers has 2 urls and num_instances 1")
    assert "the URL 'b:2' stands in context_servers and again in generation_servers" in told[1]
    assert not any("TRT232" in line for line in judged(sides("urls: ['a:1']", "num_instances: 1, urls: ['b:1']")))


def test_other_engines_are_not_linted(judged: Told) -> None:
    text = "engine: reference\nservers: {}\ncontainer: {env: {UCX_TLS: tcp}}\n"
    assert judged("name: demo\nmodel: reference/tiny\n" + text) == []
