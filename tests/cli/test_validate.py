"""`trtdist validate` and its neighbours as they are called: what is told, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from trtdist.cli.main import cli
from trtdist.observe.signatures import known
from trtdist.topology.codes import CODES

GOOD = "name: demo\nmodel: org/model\nservers: {}\n"
TOLD = """\
a.yaml:3:11: error[TRT012]: unknown key 'tp_szie' in servers; did you mean 'tp_size'?
    3 | servers: {tp_szie: 2}
      |           ^
--set slurm.tme: error[TRT012]: unknown key 'tme' in slurm; did you mean 'time'?
2 errors
"""
TRTDIST = str(Path(sys.executable).with_name("trtdist"))

Called = Callable[..., tuple[int, str, str]]


def test_a_good_file_is_told_in_one_line(called: Called) -> None:
    Path("a.yaml").write_text(GOOD)
    said = called("validate", "a.yaml")
    assert said == (0, "a.yaml is valid: demo, 1 monolithic server (TP1), 1 rank\n", "")


def test_warnings_leave_a_file_valid(called: Called) -> None:
    Path("a.yaml").write_text(GOOD + "hostname: localhost\n")
    code, out, errors = called("validate", "a.yaml")
    assert code == 0 and out.startswith("a.yaml is valid")
    assert errors.splitlines()[0].startswith("a.yaml:4:1: warning[TRT101]: 'hostname' has no effect")
    assert errors.splitlines()[-1] == "1 warning"


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_problems_are_told_as_a_compiler_does(called: Called, command: str) -> None:
    Path("a.yaml").write_text(GOOD.replace("{}", "{tp_szie: 2}"))
    assert called(command, "a.yaml", "--set", "slurm.tme=1") == (
        2,
        "",
        TOLD,
    )


def test_json_says_the_same(called: Called) -> None:
    Path("a.yaml").write_text(GOOD.replace("{}", "{tp_szie: 2}"))
    code, out, errors = called("validate", "--json", "a.yaml")
    told = json.loads(out)
    assert (code, errors, told["valid"], told["topology"]) == (2, "", False, None)
    assert told["diagnostics"] == [
        {
            "code": "TRT012",
            "severity": "error",
            "message": "unknown key 'tp_szie' in servers; did you mean 'tp_size'?",
            "source": "a.yaml",
            "line": 3,
            "column": 11,
        }
    ]


def test_the_resolved_file_is_valid_again(called: Called) -> None:
    Path("a.yaml").write_text(GOOD)
    code, out, _ = called("validate", "--resolved", "--set", "servers.tp_size=2", "a.yaml")
    assert code == 0
    Path("b.yaml").write_text(out)
    assert called("validate", "--resolved", "b.yaml") == (0, out, "")


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    with open("/dev/full", "w") as full:
        done = subprocess.run([TRTDIST, "validate", "a.yaml"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"trtdist: No space left on device\n")
    # Longer than what is held back, and shorter.
    for words in (["schema"], ["--version"], ["explain"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([TRTDIST, *words], stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (1, b"trtdist: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["statu"], "No such command 'statu'; did you mean 'status'?"),
        (["zzz"], "No such command 'zzz'; `trtdist --help` tells more"),
        (["up"], "Missing argument 'FILE'; `trtdist up --help` tells more"),
        (["client", "--format", "x"], "Invalid value for '--format': 'x' is not one of 'text', 'annotated', 'json'; "),
    ],
)
def test_wrong_words_are_told_in_one_sentence(called: Called, words: list[str], said: str) -> None:
    code, out, errors = called(*words)
    assert (code, out) == (2, "")
    assert errors.startswith(f"trtdist: {said}") and errors.count("\n") == 1


@pytest.mark.parametrize("name", ["up", "validate", "plan", "render"])
def test_a_file_that_may_not_be_read_is_told_as_a_diagnostic(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert [each.type.readable for each in command.params if isinstance(each.type, click.Path)] == [False] * (
        1 + (name == "render")
    )


def test_what_is_no_topology_is_refused_in_time(tmp_path: Path) -> None:
    # A process of its own: the time of a user, with Python's start and all imports.
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    (tmp_path / "laughs.yaml").write_text(GOOD + laughs)
    (tmp_path / "nonsense.yaml").write_bytes(os.urandom(10_000_000))
    for name, words in {
        "laughs.yaml": "laughs.yaml:8:",
        "nonsense.yaml": "larger than 1 MiB",
        ".": "directory",
    }.items():
        before = os.times()
        done = subprocess.run([TRTDIST, "validate", name], cwd=tmp_path, capture_output=True, text=True)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr and done.stderr.endswith("\n1 error\n")
        assert used < 1.0


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained(called: Called, code: str) -> None:
    ended, out, _ = called("explain", code.lower())
    assert ended == 0
    assert out.startswith(f"{code}: {CODES[code].title}\n") and "Wrong:" in out and "Right:" in out
    assert all(character.isprintable() or character == "\n" for character in out)


def test_codes_are_listed_and_guessed(called: Called) -> None:
    ended, out, _ = called("explain")
    assert (ended, len(out.splitlines())) == (0, len(CODES) + 1 + len(known().all))
    assert "gpu-memory" in out
    ended, said, _ = called("explain", "gpu-memory")
    assert ended == 0 and said.startswith("gpu-memory (certain): the GPU had not enough free memory")
    assert called("explain", "12")[1].startswith("TRT012: ")
    ended, out, errors = called("explain", "TRT999")
    assert (ended, out) == (2, "")
    assert errors.startswith("trtdist: there is no code 'TRT999'; ")


def test_the_schema_is_one_json_object(called: Called) -> None:
    ended, out, _ = called("schema")
    assert ended == 0
    assert json.loads(out)["title"] == "trtdist topology"


def test_what_no_node_can_hold_is_told_with_the_change_that_helps(called: Called) -> None:
    Path("a.yaml").write_text("name: demo\nmodel: org/model\nservers: {tp_size: 16}\nslurm: {nodes: 1}\n")
    code, _, errors = called("validate", "a.yaml")
    assert code == 2
    assert errors.startswith("a.yaml:4:8: error[TRT029]: the 16 ranks of one server (servers) need a GPU each")
    assert "--set slurm.nodes=2" in errors


def test_sizes_are_read_from_a_model_that_can_be_seen(called: Called) -> None:
    Path("model").mkdir()
    config = {"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 2, "hidden_size": 4096}
    Path("model/config.json").write_text(json.dumps(config))
    Path("model/tokenizer.json").write_text("{}")
    Path("model/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    Path("a.yaml").write_text("name: demo\nmodel: ./model\nservers: {tp_size: 6}\n")
    code, _, errors = called("validate", "a.yaml")
    assert code == 2 and "error[TRT220]: servers: 6 ranks cannot share the model's 32 attention heads" in errors
    code, out, _ = called("validate", "a.yaml", "--set", "servers.tp_size=8", "--set", "slurm.gpu_memory=80G")
    assert code == 0
    # 2 x 1 of 8 heads x 128 x 2 layers x 2 bytes = 1 KiB a token on each of 8 ranks, and no weights to speak of.
    assert (
        "servers: about 75,497,4" in out and "(72.0 GiB: 0.9 of 80.0 GiB less 0.0 GiB of weights, 1 KiB a token)" in out
    )
    code, out, errors = called("submit", "a.yaml", "--dry-run", "--set", "servers.enable_overlap_scheduler=true")
    assert code == 2 and "TRT220" in errors and not out


def test_warnings_are_told_before_a_job_is_handed_over(called: Called) -> None:
    Path("a.yaml").write_text(GOOD + "container: {env: {UCX_TLS: tcp}}\n")
    code, out, errors = called("submit", "a.yaml", "--dry-run")
    assert code == 0 and out.startswith("#!")
    assert errors.startswith("a.yaml:4:19: warning[TRT231]: UCX_TLS=tcp")
