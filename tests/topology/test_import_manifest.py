"""Dynamo's manifests become topologies with the workers, GPUs and nodes that they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topology.test_import import IMPORTS, MODEL, imported, lost, topology_of, write
from trtdist.errors import InputError
from trtdist.planning import Target, plan
from trtdist.topology.diagnostics import InvalidTopologyError
from trtdist.topology.importers.draft import Wishes
from trtdist.topology.importers.reading import import_files

SERVICES = "dynamo/services.yaml"
COMPONENTS = "dynamo/components.yaml dynamo/decode.yaml"


@pytest.mark.parametrize(("names", "ranks", "nodes"), [(SERVICES, 40, 10), (COMPONENTS, 7, 1)])
def test_manifests_are_imported_valid_and_planned(names: str, ranks: int, nodes: int) -> None:
    found = imported(names)
    planned = plan(topology_of(found), Target.SLURM)
    assert (planned.world_size, len(planned.gpus), planned.allocation.nodes) == (ranks, ranks, nodes)
    assert (found.topology["runtime"], found.topology["launch"]) == ("dynamo", "per_server")


def test_each_worker_has_the_configuration_that_its_pod_mounts() -> None:
    topology = imported(SERVICES).topology
    context, generation = topology["context_servers"], topology["generation_servers"]
    assert (topology["name"], topology["model"]) == ("wide-ep", "/models/deepseek-r1")
    assert (context["num_instances"], context["tensor_parallel_size"]) == (2, 4)
    assert (generation["num_instances"], generation["tensor_parallel_size"]) == (1, 32)
    assert generation["extra_engine_args"] == {"novel_argument": 3}
    assert topology["router"] == {"http": {"port": 8080}, "policy": "kv_prefix"}
    assert topology["slurm"] == {"gpus_per_node": 4}
    assert topology["container"] == {
        "image": "nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:1.0.1",
        "runtime": "pyxis",
        "env": {"NCCL_MNNVL_ENABLE": "1", "ENGINE_ARGS": "/config/config.yaml"},
    }


def test_what_is_for_kubernetes_is_told() -> None:
    told = lost(imported(SERVICES))
    assert set(told) == {
        "ComputeDomain", "Frontend --router-reset-states", "Planner", "decode.env.TRITON_CACHE_DIR", "decode.pod",
        "generation-config.unused.yaml", "prefill --served-model-name", "prefill.env.POD_UID", "prefill.pod",
        "prefill.sharedMemory", "spec.backendFramework", "spec.pvcs",
    }  # fmt: skip
    assert "with tolerations, volumes" in told["prefill.pod"]
    assert "add it to container.env" in told["decode.env.TRITON_CACHE_DIR"]


def test_arguments_of_a_config_map_have_their_place_in_the_manifest() -> None:
    lines = (IMPORTS / SERVICES).read_text().splitlines()
    origins = {remark.key: remark.origin for remark in imported(SERVICES).remarks}
    for key in ("novel_argument", "ComputeDomain", "spec.pvcs"):
        origin = origins[key]
        word = {"ComputeDomain": "apiVersion", "spec.pvcs": "pvcs"}.get(key, key)
        assert lines[origin.line - 1][origin.column - 1 :].startswith(word)


def test_flags_count_after_the_file_and_files_may_stand_beside() -> None:
    found = imported(COMPONENTS)
    generation = found.topology["generation_servers"]
    assert generation["max_batch_size"] == 16
    assert generation["kv_cache_config"] == {"free_gpu_memory_fraction": 0.5}
    assert found.topology["context_servers"] == {"num_instances": 1, "enable_attention_dp": True}
    told = lost(found)
    assert "4 GPUs are not the 2 ranks" in told["decode.resources"]
    assert "container helper" in told["decode.pod"]
    alone = lost(imported("dynamo/components.yaml"))
    assert "name it beside this file" in alone["decode --extra-engine-args"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("apiVersion: v1\nkind: Pod\n---\napiVersion: v1\nkind: Pod\n", "has 0 objects of kind DynamoGraphDeployment"),
        ("apiVersion: n/v1\nkind: DynamoGraphDeployment\nspec: {services: {a: {replicas: 1}}}\n", "has no worker"),
    ],
)
def test_other_objects_are_refused(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        import_files([write(tmp_path, "a.yaml", text)], Wishes(model=MODEL))


def test_a_file_of_separators_is_no_manifest(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "apiVersion: v1\nkind: Pod\n" + "---\n" * 100_000)
    with pytest.raises(InvalidTopologyError, match="TRT006"):
        import_files([path], Wishes(model=MODEL))


def graph(*arguments: str, **more: Any) -> str:
    container = {"command": ["python3", "-m", "dynamo.trtllm"], "args": list(arguments)}
    spec = {"services": {"worker": {"extraPodSpec": {"mainContainer": container}, **more}}}
    return json.dumps({"apiVersion": "n/v1", "kind": "DynamoGraphDeployment", "spec": spec})


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--disaggregation-mode", "encode"], "worker --disaggregation-mode encode"),
        (["--override-engine-args", '{"max_batch_size": 1}'], "worker --override-engine-args"),
        (["--modality=multimodal"], "worker --modality"),
    ],
)
def test_flags_without_a_place_are_told(arguments: list[str], key: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(graph(*arguments))
    assert key in lost(import_files([path], Wishes(model=MODEL)))


@pytest.mark.parametrize("replicas", [0, -1, 2.0, "${N}", 1234567, True, [1]])
def test_a_count_that_is_none_is_told(replicas: Any, tmp_path: Path) -> None:
    text = graph("--model", "a", replicas=replicas, multinode={"nodeCount": "all"}, resources={"limits": {"gpu": "4x"}})
    found = import_files([write(tmp_path, "a.yaml", text)], Wishes())
    assert found.topology["servers"] == {"num_instances": 1}
    told = lost(found)
    assert set(told) == {"worker.replicas", "worker.multinode.nodeCount", "worker.resources.gpu"}
    assert "is no whole number from 1 to 999999; 1 stands in its place" in told["worker.replicas"]
    usual = graph("--model", "a", replicas="2", multinode=None, resources={"limits": {"gpu": 0}})
    found = import_files([write(tmp_path, "a.yaml", usual)], Wishes())
    assert found.topology["servers"] == {"num_instances": 2} and not found.remarks


def test_a_variable_of_null_has_no_value(tmp_path: Path) -> None:
    found = import_files(
        [write(tmp_path, "a.yaml", graph("--model", "a", envs=[{"name": "X", "value": None}]))], Wishes()
    )
    assert "container" not in found.topology
    assert "its value is not in the manifest; set it in container.env" in lost(found)["worker.env.X"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    services = {
        mode: {
            "extraPodSpec": {
                "mainContainer": {
                    "command": ["python3", "-m", "dynamo.trtllm"],
                    "args": ["--disaggregation-mode", mode, "--extra-engine-args", f"/engines/{mode}/config.yaml"],
                }
            }
        }
        for mode in ("prefill", "decode")
    }
    text = json.dumps({"apiVersion": "n/v1", "kind": "DynamoGraphDeployment", "spec": {"services": services}})
    deployment = write(tmp_path, "deploy.yaml", text)
    for folder, size in (("prefill", 1), ("decode", 2), ("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "config.yaml", f"max_batch_size: {size}\n")
    found, turned = (
        import_files([deployment, *(tmp_path / folder / "config.yaml" for folder in folders)], Wishes(model=MODEL))
        for folders in (("prefill", "decode"), ("decode", "prefill"))
    )
    assert found.topology == turned.topology and not found.remarks
    assert found.topology["context_servers"]["max_batch_size"] == 1
    assert found.topology["generation_servers"]["max_batch_size"] == 2
    files = [tmp_path / folder / "config.yaml" for folder in ("a", "b")]
    told = lost(import_files([deployment, *files], Wishes(model=MODEL)))
    assert f"/engines/prefill/config.yaml may be {files[0]} or {files[1]}" in told["prefill --extra-engine-args"]
    assert set(told) == {"prefill --extra-engine-args", "decode --extra-engine-args"}


@pytest.mark.parametrize("around", ["---\n{}", "{}---\n", "{}---", "# a\n---\n# b\n---\n\n---\n{}---\n# c\n"])
def test_parts_without_an_object_are_nothing(around: str, tmp_path: Path) -> None:
    text = yaml.safe_dump(json.loads(graph("--model", "a")))
    found = import_files([write(tmp_path, "a.yaml", around.format(text))], Wishes())
    assert found.topology["model"] == "a" and not found.remarks


def through_shell(script: str, **more: Any) -> str:
    container = {"command": ["/bin/sh", "-c"], "args": [script], **more}
    spec = {"services": {"worker": {"extraPodSpec": {"mainContainer": container}}}}
    return json.dumps({"apiVersion": "n/v1", "kind": "DynamoGraphDeployment", "spec": spec})


@pytest.mark.parametrize("end", ["\nother --model b", "; other --model b", "& wait", " --publish-kv-events > log"])
def test_flags_end_with_their_command(end: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", through_shell(f"# it's one\npython3 -m dynamo.trtllm --model a{end}"))
    assert import_files([path], Wishes()).topology["model"] == "a"


ANY = st.recursive(
    st.none() | st.integers(-1, 10**7) | st.sampled_from(["--model", "x", "$X", "$(X)", "'", "prefill", "2.5"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "value", "limits", "gpu", "containers", "spec", 7]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
AROUND = ["componentType", "env", "multinode", "podTemplate", "replicas", "resources", "subComponentType", 5]
INSIDE = ["env", "image", "resources", "volumeMounts", 6]


@given(
    around=st.dictionaries(st.sampled_from(AROUND), ANY),
    inside=st.dictionaries(st.sampled_from(INSIDE), ANY),
    pod=st.dictionaries(st.sampled_from(["volumes", "tolerations", True]), ANY),
    flags=st.lists(st.sampled_from(["--max-batch-size", "--extra-engine-args", "--novel", "x", "3", "$X", "$(X)"])),
)
@settings(deadline=None, max_examples=40)
def test_whatever_is_around_the_command_of_a_worker_it_is_imported(
    around: dict[Any, Any],
    inside: dict[Any, Any],
    pod: dict[Any, Any],
    flags: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    container = {**inside, "command": ["python3", "-m", "dynamo.trtllm"], "args": flags}
    worker = {**around, "extraPodSpec": {**pod, "mainContainer": container}}
    spec = {"services": {"w": worker}}
    text = yaml.safe_dump({"apiVersion": "n/v1", "kind": "DynamoGraphDeployment", "spec": spec})
    found = import_files([write(tmp_path_factory.mktemp("any"), "a.yaml", text)], Wishes(model=MODEL))
    (section,) = found.topology.keys() & {"servers", "context_servers", "generation_servers"}
    assert found.topology[section]["num_instances"] >= 1
    keys = {remark.key for remark in found.remarks}
    assert ("w.5" in keys) == (5 in around)
    assert ("w.pod" in keys) == bool(pod or inside.keys() & {"volumeMounts", 6})
