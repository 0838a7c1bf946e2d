"""Files that are wrong: one clear message each, at its place, fast."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trtdist.topology import check
from trtdist.topology.diagnostics import report

BASE = "name: demo\nmodel: org/model\n"
ENVIRON = {"TRTDIST_SITE": ""}

Told = Callable[..., list[str]]

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


NO_TOPOLOGY: list[tuple[str | bytes, str]] = [
    ("", "1:1: error[TRT005]: is empty"),
    ("# only a comment\n", "1:1: error[TRT005]: is empty"),
    ("just a word", "1:1: error[TRT005]: is no mapping"),
    ("- a\n- b\n", "1:1: error[TRT005]: is no mapping"),
    ("name: [a, b\n", "2:1: error[TRT004]: is not YAML"),
    ("name: a\n  model: b\n", "2:8: error[TRT004]: is not YAML: mapping values"),
    ("name: a\n\tmodel: b\n", "2:1: error[TRT004]: a tab cannot indent YAML"),
    ("name: 'a\n", "error[TRT004]: is not YAML"),
    (BASE + "---\nname: b\n", "3:1: error[TRT006]: a second document"),
    ("model: m\n...\nservers: {}\n", "3:1: error[TRT004]: something follows the line '...'"),
    ("name: a\0b\n", "1:8: error[TRT003]: holds a NUL byte"),
    ("name: a\nmodel: \x1b[31m\n", "2:8: error[TRT003]: holds the control character '\\x1b'"),
    (b"name: a\nmodel: \xff\xfe\n", "2:8: error[TRT003]: holds the byte 0xff"),
    ("name: a".encode("utf-16"), "1:1: error[TRT003]: holds the byte 0xff"),
    ("name: !!python/object/apply:os.system [ls]\n", "1:7: error[TRT007]: the tag"),
    ("name: !secret x\n", "1:7: error[TRT007]: the tag"),
    ("? [a, b]\n: c\n", "1:3: error[TRT007]: a list or mapping cannot be a key"),
    ("a: &a [*a]\n", "1:8: error[TRT008]: the anchor 'a' is used inside of itself"),
    ("a: *b\n", "1:4: error[TRT008]: the anchor 'b' is used and never defined"),
    (LAUGHS, "error[TRT002]: its aliases expand to more than 20000 values"),
    ("a: " + "[" * 100_000, "error[TRT002]: is nested more than 64 levels deep"),
    ("a: " + "{a: " * 100_000, "error[TRT002]: is nested more than 64 levels deep"),
    ("? " * 10_000, "error[TRT002]: is nested more than 64 levels deep"),
    ("- " * 10_000, "error[TRT002]: is nested more than 64 levels deep"),
    ("a: b\n" * 200_000, "error[TRT002]: holds more than 20000 values"),
    ("x" * 1_000_000, "1:1: error[TRT005]: is no mapping"),
    ("x" * 10_000_000, "error[TRT002]: is larger than 1 MiB"),
    (bytes(range(256)) * 40_000, "error[TRT002]: is larger than 1 MiB"),
    (random.Random(1).randbytes(1_000_000), "error[TRT003]: holds"),
    ("\n".join(f"k{n}: v" for n in range(9_000)), "unknown key 'k0'"),
    (BASE + "servers: {}\ncontainer:\n  env:\n" + "".join(f"    a b{n}: v\n" for n in range(9_000)), "cannot name"),
    ("&a " * 1000, "error[TRT004]"),
    ("{" * 3 + "}" * 4, "error[TRT00"),
    ("%YAML 9.9\n---\na: b", "error[TRT004]"),
]


@pytest.mark.parametrize(("text", "expected"), NO_TOPOLOGY, ids=[str(number) for number in range(len(NO_TOPOLOGY))])
def test_what_is_no_topology(told: Told, text: str | bytes, expected: str) -> None:
    start = time.process_time()
    found = told(text)
    assert time.process_time() - start < 5.0
    assert any(expected in line for line in found), found[:3]


def test_files_that_are_none(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        tmp_path: "is a directory",
        tmp_path / "missing.yaml": "there is no such file",
        fifo: "is no regular file",
        Path("/dev/zero"): "is no regular file",
        tmp_path / "loop": "cannot be read",
        tmp_path / ("x" * 300): "cannot be read",
        Path("a\0b"): "is no file name",
    }
    for path, words in cases.items():
        checked = check(path, environ=ENVIRON)
        assert checked.topology is None
        assert [found.code for found in checked.diagnostics] == ["TRT001"]
        assert words in checked.diagnostics[0].message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root, who may run the tests, reads everything: the refusal has to be made.
    def refuse(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("trtdist.topology.files.os.open", refuse)
    checked = check(tmp_path / "cluster.yaml", environ=ENVIRON)
    monkeypatch.undo()
    assert [found.message for found in checked.diagnostics] == ["cannot be read: Permission denied"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("servers: {tp_szie: 2}", "3:11: error[TRT012]: unknown key 'tp_szie' in servers; did you mean 'tp_size'?"),
        ("servers: {Max_Batch_Sise: 2}", "did you mean 'max_batch_size'?"),
        ("servers: {}\nmodle: x", "4:1: error[TRT012]: unknown key 'modle'; did you mean 'model'?"),
        ("servers: {}\naccount: x", "4:1: error[TRT012]: unknown key 'account'; it belongs into slurm"),
        (
            "servers: {}\nrouter: {port: 1}",
            "4:10: error[TRT012]: unknown key 'port' in router; it belongs into router.http",
        ),
        ("servers: {zzz: 2}", "unknown key 'zzz' in servers; if the engine knows it, put it into extra_engine_args"),
        (
            "servers: {kv_cache_config: {dtpe: x}}",
            "unknown key 'dtpe' in servers.kv_cache_config; did you mean 'dtype'?",
        ),
        ("servers: {}\nservers: {}", "4:1: error[TRT010]: the key 'servers' is given twice, first written in line 3"),
        ("servers: {tp_size: 2, tensor_parallel_size: 2}", "3:23: error[TRT014]: 'tensor_parallel_size' and 'tp_size'"),
        (
            "servers: {gpu_fraction: 0.5, kv_cache_config: {free_gpu_memory_fraction: 0.5}}",
            "3:48: error[TRT014]: 'free_gpu_memory_fraction' and 'gpu_fraction' mean the same",
        ),
        (
            "servers: {kv_cache_config: {free_gpu_memory_fraction: 0.5}, gpu_fraction: 0.5}",
            "3:61: error[TRT014]: 'gpu_fraction' and 'free_gpu_memory_fraction' mean the same",
        ),
        ("servers: {num_instances: 0}", "3:26: error[TRT016]: num_instances in servers must be at least 1, not 0"),
        (
            "servers: {num_instances: two}",
            "3:26: error[TRT013]: num_instances in servers needs a whole number, not the",
        ),
        ("servers: {num_instances: 1.5}", "needs a whole number, not 1.5"),
        ("servers: {num_instances: true}", "needs a whole number, not true"),
        ("servers: {num_instances: [1]}", "needs a whole number, not a list"),
        ("servers: {num_instances: 010}", "3:26: error[TRT026]: 010 is 8 to some readers of YAML and 10 to others"),
        ("servers: {num_instances: 08}", "3:26: error[TRT026]: 08 is a text to some readers of YAML and 8 to others"),
        ('servers: {}\nslurm: {account: "a}\n', "4:18: error[TRT004]: is not YAML: found unexpected end of stream"),
        ("servers: {num_instances: 1:30}", "needs a whole number, not the text '1:30'"),
        ("servers: {num_instances: " + "9" * 5000 + "}", "3:26: error[TRT016]"),
        ("servers: {max_num_tokens: .nan}", "3:27: error[TRT016]"),
        ("servers: {gpu_fraction: -0.1}", "(written gpu_fraction) must be more than 0, not -0.1"),
        ("servers: {gpu_fraction: 1.1}", "3:25: error[TRT016]"),
        ("servers: {gpu_fraction: yes}", "3:25: error[TRT013]"),
        ("servers: []", "3:10: error[TRT013]: servers needs a section with keys, not a list"),
        ("servers: {}\nengine: tensorrt-llm", "4:9: error[TRT015]: engine must be one of tensorrt_llm, reference"),
        ("servers: {}\nslurm: {time: soon}", "4:15: error[TRT017]: time in slurm: 'soon' is no time limit"),
        ("servers: {}\nslurm: {nodes: many}", "4:16: error[TRT013]: nodes in slurm: needs 'auto' or a number"),
        (
            "servers: {restart: {backoff: 5 weeks}}",
            "3:30: error[TRT013]: backoff in servers.restart: needs seconds such as 5, or",
        ),
        ("servers: {}\nslurm: {nodes: 0}", "4:16: error[TRT016]"),
        ("servers: {}\nslurm: {handover: 0}", "4:19: error[TRT017]: handover in slurm: needs `auto` or a time above 0"),
        ("servers: {}\nslurm: {handover: never}", "4:19: error[TRT013]: handover in slurm: needs `auto`, seconds such"),
        ("servers: {}\nslurm: {mem: lots}", "4:14: error[TRT017]"),
        ("servers: {}\nslurm: {extra_sbatch: --x}", "4:23: error[TRT013]: extra_sbatch in slurm needs a list"),
        ("servers: {}\nrouter: {http: {port: 70000}}", "4:23: error[TRT016]"),
        ("servers: {}\nnetwork: {port_range: 9-1}", "4:23: error[TRT016]: port_range in network: 9-1 is no range"),
        ("servers: {}\nnetwork: {subnet: 10.0.0.0/99}", "4:19: error[TRT017]"),
        ("servers: {}\nservices: {nats: {external: 'http://x'}}", "4:29: error[TRT017]"),
        ("servers: {}\nservices: {nats: {external: 'nats://x', binary: y}}", "4:49: error[TRT025]"),
        ("servers: {}\ncontainer: {mounts: [x]}", "4:22: error[TRT017]: mounts[0] in container: 'x' is no mount"),
        ("servers: {}\ncontainer: {mounts: ['a:/b:rx']}", "has the mode 'rx'"),
        ("servers: {}\ncontainer: {env: {'a b': c}}", "4:19: error[TRT017]: env in container: 'a b' cannot name"),
        ("servers: {}\ncontainer: {env: {A: }}", "needs text, not nothing"),
        ("servers: {}\ncontainer: {image: x}", "4:20: error[TRT024]"),
        ("servers: {}\ncontainer: {runtime: docker}", "error[TRT024]: container runtime docker needs an image"),
        ("servers: {}\ncontext_servers: {}", "3:10: error[TRT020]"),
        ("context_servers: {}", "3:18: error[TRT021]: 'context_servers' needs 'generation_servers' beside it"),
        ("generation_servers: {}", "'generation_servers' needs 'context_servers' beside it"),
        ("", "1:1: error[TRT021]: there are no servers"),
        ("servers: {}\nruntime: dynamo", "4:10: error[TRT022]"),
        ("servers: {}\nruntime: dynamo\nlaunch: mpi_world", "5:9: error[TRT022]"),
        ("servers: {}\nruntime: trtllm-serve", "4:10: error[TRT022]"),
        ("servers: {num_instances: 2}\nruntime: trtllm-serve\nlaunch: per_server", "3:26: error[TRT030]"),
        ("servers: {}\nruntime: dynamo\nlaunch: per_server\nrouter: {http: {keys: k}}", "6:23: error[TRT030]"),
        ("servers: {}\nruntime: dynamo\nlaunch: per_server\nslurm: {spares: 1}", "6:17: error[TRT030]"),
        ("servers: {}\nrouter: {discovery: etcd}", "4:21: error[TRT030]"),
        ("servers: {}\nruntime: trtllm-serve\nengine: reference", "5:9: error[TRT023]"),
        ("servers: {reference: {step_delay: 1}}", "3:22: error[TRT023]"),
        ("servers: {tp_size: 3}\nengine: reference", "3:20: error[TRT027]"),
        ("servers: {tensor_parallel_size: 16}\nengine: reference", "3:33: error[TRT027]"),
        ("servers: {pp_size: 2}\nengine: reference", "3:20: error[TRT027]"),
        ("servers: {cp_size: 2}\nengine: reference", "3:20: error[TRT027]"),
        ('servers: {}\nslurm: {account: "a\\nb"}', "4:18: error[TRT017]: account in slurm: holds a line break"),
        ('servers: {}\nslurm: {partition: "a\\x07"}', "4:20: error[TRT017]"),
        (
            'servers: {}\ncontainer: {env: {A: "a\\0b"}}',
            "4:22: error[TRT017]: A in container.env: holds a NUL character",
        ),
        ("servers: {use_cuda_graph: true}", "3:11: warning[TRT102]"),
    ],
)
def test_each_problem_at_its_place(told: Told, text: str, expected: str) -> None:
    found = told(BASE + text)
    assert any(expected in line for line in found), found


def test_names_that_cannot_name_a_job(told: Told) -> None:
    for name in ("a b", "a/b", "-a", "a.b", "é", '"a\\nb"', "x" * 49, "latest", '""', "$(x)"):
        assert any("TRT017" in line for line in told(f"name: {name}\nmodel: m\nservers: {{}}")), name


def test_missing_keys_are_told_once_each(told: Told) -> None:
    assert told("servers: {}") == [
        "1:1: error[TRT011]: the key 'model' is missing; add it, such as `model: org/model`: a hub id or a path",
        "1:1: error[TRT011]: the key 'name' is missing; add it, such as `name: demo`: runs are called and found by it",
    ]


def test_all_problems_come_in_one_pass_in_order(told: Told) -> None:
    text = "name: a b\nmodel: m\nservers: {tp_szie: 1, num_instances: 0}\nengine: x\ncontext_servers: {}\n"
    assert [line.split("]")[0] for line in told(text, "slurm.tme=1")] == [
        "1:7: error[TRT017",
        "3:10: error[TRT020",
        "3:11: error[TRT012",
        "3:38: error[TRT016",
        "4:9: error[TRT015",
        "--set slurm.tme: error[TRT012",
    ]


def test_a_long_list_of_problems_is_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(BASE + "servers: {}\n" + "".join(f"k{number}: 1\n" for number in range(500)))
    lines = report(check(path, environ=ENVIRON).diagnostics).splitlines()
    assert len(lines) == 102
    assert lines[-2:] == ["... and 400 more like these", "500 errors"]


def test_excerpts_point_at_the_place(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(BASE + "servers: {tp_szie: 2}\n")
    lines = report(check(path, environ=ENVIRON).diagnostics, excerpts=True).splitlines()
    assert lines[1] == "    3 | servers: {tp_szie: 2}"
    assert lines[2] == "      |           ^"
