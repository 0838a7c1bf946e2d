"""The JSON Schema says what the loader does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from trtdist.topology import Checked, dump
from trtdist.topology.codes import CODES
from trtdist.topology.schema import json_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
# What the schema cannot say: it sees values, not their spelling, and no two keys at once.
BEYOND_SCHEMA = ("TRT2", "TRT10", "TRT02", "TRT00", "TRT010", "TRT014", "TRT018", "TRT030")


@pytest.fixture(scope="module")
def validator() -> Any:
    """A validator of the schema, which is itself valid."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_validate(validator: Any, path: Path) -> None:
    validator.validate(yaml.safe_load(path.read_text()))


def test_examples_of_codes(validator: Any) -> None:
    for code in CODES.values():
        if code.wrong.startswith("$ "):
            continue
        validator.validate(yaml.safe_load(code.right))
        if not code.code.startswith(BEYOND_SCHEMA):
            assert not validator.is_valid(yaml.safe_load(code.wrong)), code.code


def test_aliases_and_engine_arguments(validator: Any) -> None:
    good = {"name": "a", "model": "m", "servers": {"tp_size": 2, "gpu_fraction": 0.5, "max_batch_size": 4}}
    validator.validate(good)
    assert not validator.is_valid({**good, "servers": {"tp_size": "2"}})
    assert not validator.is_valid({**good, "servers": {"gpu_fraction": 1.5}})
    assert not validator.is_valid({**good, "servers": {"tp_szie": 2}})
    assert not validator.is_valid({**good, "servers": {"kv_cache_config": {"dtpe": "x"}}})
    validator.validate({**good, "container": {"env": {"A": 1, "B": True, "C": "x"}}})


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("slurm: {time: '01:00:00', mem: 64g, nodes: auto}", True),
        ("slurm: {time: 90, mem: 0, nodes: 2}", True),
        ("slurm: {time: unlimited}", True),
        ("slurm: {time: soon}", False),
        ("slurm: {mem: lots}", False),
        ("slurm: {mem: -1}", False),
        ("slurm: {nodes: 0}", False),
        ("slurm: {nodes: many}", False),
        ("slurm: {setup: module load cuda}", True),
        ("slurm: {extra_sbatch: --x}", False),
        ("router: {http: {port: 65535}}", True),
        ("router: {http: {port: 65536}}", False),
        ("router: {policy: random}", False),
        ("container: {runtime: docker, image: i, mounts: ['a:/b', './c:/d:ro'], shm_size: 64G}", True),
        ("container: {runtime: docker, image: i, mounts: ['x']}", False),
        ("container: {runtime: docker, image: i, mounts: ['a:b']}", False),
        ("container: {runtime: docker, image: i, mounts: ['a:/b:rx']}", False),
        ("container: {runtime: docker, image: i, shm_size: much}", False),
        ("container: {runtime: rkt}", False),
        ("network: {port_range: 9-x}", False),
        ("network: {port_range: [1, 70000]}", False),
        ("timeouts: {ready: 0}", False),
        ("timeouts: {stop: 0}", True),
        ("canary: {max_tokens: 0}", False),
        ("canary: {prompt: ''}", False),
        ("oversubscribe: 'yes'", False),
        ("hostname: localhost\nport: 8000\nbackend: pytorch", True),
    ],
)
def test_schema_and_loader_agree(validator: Any, checked: Callable[..., Checked], text: str, valid: bool) -> None:
    whole = f"name: a\nmodel: m\nservers: {{}}\n{text}\n"
    assert validator.is_valid(yaml.safe_load(whole)) is valid
    assert (checked(whole).topology is not None) is valid


def test_a_dumped_topology_validates(validator: Any, checked: Callable[..., Checked]) -> None:
    topology = checked("name: a\nmodel: m\nservers: {}\nnetwork: {port_range: 1-9}\n").topology
    assert topology is not None
    validator.validate(yaml.safe_load(dump(topology)))
