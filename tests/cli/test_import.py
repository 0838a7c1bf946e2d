"""`trtdist import` as it is called: what is written, what is told, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

IMPORTS = Path(__file__).parents[1] / "topology" / "imports"
Called = Callable[..., tuple[int, str, str]]


def test_a_file_is_written_that_validates_and_says_what_is_missing(called: Called) -> None:
    source = str(IMPORTS / "disagg" / "conditional.yaml")
    code, out, errors = called("import", source, "--output", "c.yaml", "--name", "mine", "--tensorrt-llm", "1.0")
    assert code == 0
    assert out == (
        "c.yaml is written from TensorRT-LLM disaggregated configuration;"
        " 2 keys are not carried over and listed in it\n"
    )
    assert f"not carried over: {source}:8:1: conditional_disagg_config: short prompts pass" in errors
    assert "c.yaml:" in errors and "warning[TRT212]" in errors
    text = Path("c.yaml").read_text()
    assert "# Not carried over:" in text and "\nname: mine\n" in text and "\ntensorrt_llm: '1.0'\n" in text
    code, out, _ = called("validate", "c.yaml")
    assert code == 0 and out.startswith(
        "c.yaml is valid: mine, 1 context server (TP1), 1 generation server (TP1), 2 ranks"
    )
    code, _, errors = called("import", source, "--output", "c.yaml")
    assert (code, errors) == (2, "trtdist: c.yaml is there already: choose another --output\n")


def test_the_folder_of_a_result_of_aiconfigurator(called: Called) -> None:
    code, out, errors = called("import", str(IMPORTS / "aiconfigurator"))
    assert code == 0 and "max_num_tokens: 4512" in out and "SlaConfig" in errors
    code, _, errors = called("import", str(IMPORTS / "disagg"))
    assert code == 2 and "is a folder without generator_config.yaml" in errors


def test_json_has_the_topology_and_all_remarks(called: Called) -> None:
    code, out, errors = called("import", "--json", str(IMPORTS / "original" / "single_node_config.yaml"))
    found = json.loads(out)
    assert (code, errors, found["version"], found["output"]) == (0, "", 1, None)
    assert found["topology"]["context_servers"]["num_instances"] == 2
    assert found["text"].startswith("# From single_node_config.yaml (")
    (lost,) = found["lost"]
    assert lost["key"] == "urls" and lost["line"] == 7 and lost["instead"]
    assert {each["key"] for each in found["changed"]} >= {"backend", "context_servers.urls"}


def test_what_makes_no_valid_topology_is_told_and_not_written(called: Called) -> None:
    sides = [f"{side}: {{cache_transceiver_config: {{backend: {kind}}}}}" for side, kind in
             (("context_servers", "UCX"), ("generation_servers", "NIXL"))]  # fmt: skip
    Path("a.yaml").write_text("\n".join(["model: org/model", *sides, ""]))
    code, out, errors = called("import", "a.yaml", "--output", "c.yaml")
    assert code == 2 and not out and not Path("c.yaml").exists()
    assert "error[TRT210]" in errors and "backend: NIXL" in errors


def test_what_cannot_be_read_is_told(called: Called) -> None:
    code, _, errors = called("import", "nothing.yaml")
    assert code == 2 and errors.startswith("nothing.yaml: error[TRT001]: there is no such file")
    Path("pod.yaml").write_text("kind: Pod\n")
    code, _, errors = called("import", "pod.yaml")
    assert code == 2 and errors.startswith("trtdist: pod.yaml has none of the formats that can be imported: ")


def test_render_writes_the_way_back(called: Called) -> None:
    called("import", str(IMPORTS / "disagg" / "llama_nixl.yaml"), "--output", "c.yaml")
    code, out, _ = called("render", "c.yaml", "out")
    assert code == 0 and "out/trtllm/disagg_config.yaml" in out
    code, out, _ = called("import", "out/trtllm/disagg_config.yaml", "--name", "llama_nixl")
    assert code == 0 and "backend: NIXL" in out and "gather_generation_logits: true" in out


def test_where_nothing_can_be_written_is_told(called: Called) -> None:
    code, _, errors = called("import", str(IMPORTS / "disagg" / "llama_nixl.yaml"), "--output", "no/such/c.yaml")
    assert (code, errors.splitlines()[-1]) == (2, "trtdist: cannot write no/such/c.yaml: No such file or directory")
