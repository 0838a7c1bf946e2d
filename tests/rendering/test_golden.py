"""Every rendered file of a few deployments, as it is kept under golden/.

After a change that is meant: TRTDIST_UPDATE_GOLDEN=1 pytest tests/rendering/test_golden.py, and read the difference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.house.source import SHELLCHECK
from tests.planning.topologies import section, topology
from trtdist.planning import Target, plan
from trtdist.rendering import render_local, render_slurm

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "TRTDIST_UPDATE_GOLDEN"
NASTY = 'it\'s "$HOME" `id`\nsecond line\t\\ é'

CASES: dict[str, dict[str, Any]] = {
    "mpi_world": {
        "engine": "reference",
        "context_servers": section(1, 2),
        "generation_servers": section(2),
    },
    "per_server": {
        "engine": "reference",
        "launch": "per_server",
        "context_servers": section(),
        "generation_servers": section(),
        "services": {"nats": {"external": "nats://broker:4222"}},
    },
    "tensorrt_llm": {
        "name": "tinyllama",
        "model": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "context_servers": section(1, 2, fraction=0.25),
        "generation_servers": section(2, 2, fraction=0.25),
        "slurm": {"gpus_per_node": 4},
        "container": {"env": {"HF_HOME": "/cache", "NASTY": NASTY}, "workdir": "/work space"},
    },
    "slurm_mpi_world": {
        "engine": "reference",
        "context_servers": section(2, 2),
        "generation_servers": section(2, 2),
        "slurm": {"gpus_per_node": 4, "time": "01:00:00", "account": "a", "partition": "batch"},
    },
    "slurm_uneven": {
        "engine": "reference",
        "context_servers": section(2, 3),
        "generation_servers": section(2, 1),
        "slurm": {
            "gpus_per_node": 4,
            "cpus_per_task": 2,
            "mem": "10G",
            "constraint": "a&(b|c)",
            "account": "it's \\ #1",
            "extra_sbatch": ["--comment=two words"],
            "extra_srun": ["--comment=two $words"],
            "setup": ["module load 'cuda/12'", "export A=$B"],
        },
    },
    "slurm_tensorrt_llm": {
        "launch": "per_server",
        "context_servers": section(1, 2),
        "generation_servers": section(1, 8),
        "slurm": {"gpus_per_node": 4, "gpu_directive": "gres", "exclusive": True, "segment": 3},
        "container": {"env": {"HF_HOME": "/cache"}},
        "timeouts": {"stop": 60},
    },
    "slurm_charliecloud": {
        "engine": "reference",
        "context_servers": section(1, 2),
        "generation_servers": section(1, 2),
        "slurm": {"gpus_per_node": 2, "setup": ["module load charliecloud"]},
        "container": {
            "runtime": "charliecloud",
            "image": "/images/it's one",
            "mounts": ["/data:/data:ro", "/scratch:/scratch"],
            "env": {"HF_HOME": "/data/hf"},
            "env_files": {"HF_TOKEN": "/home/me/.token"},
            "also": ["router"],
            "ulimits": {"memlock": -1},
        },
    },
    "slurm_pyxis": {
        "launch": "per_server",
        "context_servers": section(1, 2),
        "generation_servers": section(1, 2),
        "slurm": {"gpus_per_node": 4, "setup": ["module load slurm"]},
        "container": {
            "runtime": "pyxis",
            "image": "/images/trtllm.sqsh",
            "mounts": ["/data:/data:ro"],
            "env": {"NVIDIA_DRIVER_CAPABILITIES": "all", "HF_HOME": "/data"},
            "python": "/opt/python/bin/python3",
        },
    },
    "trtllm_serve": {
        "runtime": "trtllm-serve",
        "launch": "per_server",
        "model": "/models/it's mine",
        "context_servers": section(1, 2, fraction=0.25),
        "generation_servers": section(2, 1, cp=2, fraction=0.25),
        "tensorrt_llm": "1.2",
        "slurm": {"gpus_per_node": 6},
        "container": {"env": {"OMP_NUM_THREADS": "4"}, "workdir": "/work space"},
    },
    "slurm_trtllm_serve": {
        "runtime": "trtllm-serve",
        "launch": "per_server",
        "context_servers": section(1, 2),
        "generation_servers": section(1, 8),
        "router": {"discovery": "etcd", "policy": "kv_prefix"},
        "slurm": {"gpus_per_node": 4},
        "container": {"runtime": "pyxis", "image": "/images/trtllm.sqsh", "env_files": {"HF_TOKEN": "/home/me/.token"}},
    },
    "slurm_dynamo": {
        "runtime": "dynamo",
        "launch": "per_server",
        "context_servers": section(1, 2),
        "generation_servers": section(1, 2),
        "router": {"policy": "kv_prefix"},
        "slurm": {"gpus_per_node": 4},
        "container": {"runtime": "apptainer", "image": "/images/dynamo.sif", "mounts": ["/models:/models:ro"]},
    },
    "docker": {
        "context_servers": section(1, 2, fraction=0.25),
        "generation_servers": section(1, 2, fraction=0.25),
        "container": {
            "runtime": "docker",
            "image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1",
            "mounts": [".:/workspace"],
            "env": {"NVIDIA_DRIVER_CAPABILITIES": "all"},
            "workdir": "/workspace",
            "shm_size": "64G",
            "ulimits": {"memlock": -1, "stack": 67108864},
        },
    },
}


def rendered(case: str) -> Mapping[str, str]:
    given = topology(**CASES[case])
    if case.startswith("slurm_"):
        return render_slurm(plan(given, Target.SLURM), given)
    return render_local(plan(given, Target.LOCAL), given)


@pytest.mark.parametrize("case", CASES)
def test_files_are_as_they_were(case: str) -> None:
    files = dict(rendered(case))
    folder = GOLDEN / case
    if UPDATE in os.environ:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    kept = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert sorted(kept) == sorted(files), f"set {UPDATE}=1 if that is meant"
    for name, text in files.items():
        assert text == kept[name], f"{name} has changed; set {UPDATE}=1 if that is meant"


@pytest.mark.parametrize("case", CASES)
def test_scripts_are_sound(case: str) -> None:
    scripts = sorted(str(path) for path in (GOLDEN / case).rglob("*") if path.suffix in (".sh", ".sbatch"))
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    found = subprocess.run([SHELLCHECK, *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("case", CASES)
def test_a_person_can_read_them(case: str) -> None:
    for name, text in rendered(case).items():
        assert text.endswith("\n") and not text.endswith("\n\n"), name
        assert "\n\n\n" not in text, name
        assert max(len(line) for line in text.splitlines()) <= 120, name
        assert not any(line != line.rstrip() for line in text.splitlines()), name
