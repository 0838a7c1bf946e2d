"""Whatever text is written: it arrives unchanged, or is refused at its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from trtdist.topology import Checked, Topology
from trtdist.topology.model import ServerSection
from trtdist.topology.names import core, section_model

NASTY = " \t\n\r'\"\\$`!#~*?[]{}()<>|&;=%:,/-@aé漢🚀\0\x01\x1b\x7f\x85\u2028\ud800\ufeff"
TEXT = st.text(st.sampled_from(NASTY), max_size=12) | st.text(max_size=12)
# Relative paths are made absolute from the folder of the file.
PATHS = ("model", "binary", "image", "mounts", "env_files", "keys", "certificate", "certificate_key")
TEMPLATE = """\
name: demo
model: org/model
engine: reference
servers: {reference: {}, extra_engine_args: {}}
container: {runtime: docker, image: img, mounts: [], env: {}, ulimits: {}}
services: {nats: {}, etcd: {}}
"""


def text_fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all values that may be text: fields, items of lists, values of mappings."""
    for name, field in model.model_fields.items():
        inner, kind = section_model(model, name), core(field.annotation)
        if inner is not None and (inner is not ServerSection or name == "servers"):
            yield from text_fields(inner, (*path, name))
        elif kind is str:
            yield (*path, name)
        elif get_origin(kind) is tuple and core(get_args(kind)[0]) is str:
            yield (*path, name, "0")
        elif get_origin(kind) is dict and core(get_args(kind)[1]) is not int:
            yield (*path, name, "A")


FIELDS = list(text_fields(Topology))


def quoted(text: str) -> str:
    """The text as YAML has it in double quotes, with an escape for whatever is not plain ASCII."""
    plain = (c if " " <= c <= "~" and c not in '\\"' else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(plain) + '"'


def arrived(topology: Topology, path: tuple[str, ...]) -> Any:
    return reduce(lambda value, step: value[int(step) if step == "0" else step], path, topology.model_dump())


def test_there_are_fields_of_every_kind() -> None:
    for path in (
        "name",
        "slurm.account",
        "slurm.setup.0",
        "container.env.A",
        "services.nats.external",
        "canary.prompt",
    ):
        assert tuple(path.split(".")) in FIELDS


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_any_text_arrives_or_is_refused_at_its_place(checked: Callable[..., Checked], path: tuple[str, ...]) -> None:
    name = ".".join(path)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TEXT)
    def holds(text: str) -> None:
        result = checked(TEMPLATE, f"{name}={quoted(text)}")
        if result.topology is None:
            assert all(str(found).startswith(f"--set {name}: error[TRT0") for found in result.diagnostics)
            assert all(str(found).isprintable() for found in result.diagnostics)
        elif not set(PATHS) & set(path):
            assert arrived(result.topology, path) == text

    holds()


def test_a_field_takes_any_text_that_a_program_can_be_given(tmp_path: Path, checked: Callable[..., Checked]) -> None:
    text = "$(touch x) `id` 'a' \"b\" \\ * ; & | <>\n\té漢🚀"
    result = checked(TEMPLATE, f"container.env.A={quoted(text)}", f"canary.prompt={quoted(text)}")
    assert result.topology is not None
    assert (result.topology.container.env["A"], result.topology.canary.prompt) == (text, text)
