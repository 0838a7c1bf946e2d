"""docs/tensorrt-llm-support.md has each flag, key and variable that programs of TensorRT-LLM and Dynamo are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import yaml

from tests.house.source import ROOT
from tests.planning.topologies import section, topology
from trtdist.planning import Target, plan
from trtdist.rendering import render_slurm

PAGE = (ROOT / "docs" / "tensorrt-llm-support.md").read_text()
NAMED = set(re.findall(r"`([^`\s]+)`", PAGE))
# Variables of ours, and of the scripts themselves.
OURS = re.compile(r"TRTDIST_|PYTHON|CUDA_|SLURM_|PMI|OMPI_|HF_|TRANSFORMERS_")
ROLES: list[dict[str, Any]] = [
    {"servers": section(cp=2)},
    {"context_servers": section(2, 2), "generation_servers": section(1, 2, cp=2)},
]


def deployments(runtime: str) -> Iterator[dict[str, str]]:
    """The scripts of each kind of deployment."""
    policies = ("round_robin", "least_loaded", "kv_prefix")
    discoveries = ("static", "etcd") if runtime == "trtllm-serve" else ("static",)
    for roles, policy, discovery, release in product(ROLES, policies, discoveries, (None, "0.20", "1.4")):
        router = {"policy": policy, "discovery": discovery}
        given = topology(**roles, runtime=runtime, launch="per_server", router=router, tensorrt_llm=release)
        yield dict(render_slurm(plan(given, Target.SLURM), given))


def commands(files: dict[str, str]) -> Iterator[str]:
    """The command lines of programs that are not ours."""
    for text in files.values():
        yield from re.findall(r"COMMAND=\(\n(.*?)\n\)", text, re.DOTALL)


def keys(value: Any) -> Iterator[str]:
    """All keys of a configuration, the engine's own arguments aside."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)


@pytest.mark.parametrize("runtime", ["trtllm-serve", "dynamo"])
def test_each_flag_has_a_source(runtime: str) -> None:
    lines = [line for files in deployments(runtime) for line in commands(files)]
    flags = {flag for line in lines for flag in re.findall(r"(?<=\s)--?[a-zA-Z][\w-]*", line)} - {"-m", "-I", "-S"}
    assert len(flags) >= 8
    assert flags - NAMED == set()
    # And none is named that is not given.
    said = {flag for flag in NAMED if flag.startswith("-")}
    others = {"--config", "--set", "--ready-timeout", "--"}
    assert runtime == "dynamo" or flags - said == others & flags


@pytest.mark.parametrize("runtime", ["trtllm-serve", "dynamo"])
def test_each_variable_has_a_source(runtime: str) -> None:
    texts = [
        text
        for files in deployments(runtime)
        for name, text in files.items()
        if re.search(r"\.(task|server)\.sh", name)
    ]
    exported = {
        name
        for text in texts
        for line in re.findall(r"^\s*export (.*)$", text, re.MULTILINE)
        for name in re.findall(r"(?:^|\s)([A-Z][A-Z_]+)(?==|\s|$)", line)
    }
    assert {name for name in exported if not OURS.match(name)} - NAMED == set()


@pytest.mark.parametrize("runtime", ["trtllm-serve", "dynamo"])
def test_each_key_has_a_source(runtime: str) -> None:
    texts = {text for files in deployments(runtime) for name, text in files.items() if name.endswith(".yaml")}
    found = {key for text in texts for key in keys(yaml.safe_load(text))}
    of_engines = {"tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size", "kv_cache_config"}
    assert found - NAMED - of_engines - {"free_gpu_memory_fraction"} == set()
