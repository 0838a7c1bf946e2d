"""From a file to a topology, with every problem found on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from trtdist.topology.checks import cross_checks
from trtdist.topology.diagnostics import Diagnostic, InvalidTopologyError, Origin, Source
from trtdist.topology.faults import report_faults
from trtdist.topology.files import read_text
from trtdist.topology.imported import with_imported_image
from trtdist.topology.model import Topology
from trtdist.topology.names import canonical
from trtdist.topology.nodes import Node, Section, at, read
from trtdist.topology.overrides import apply_overrides
from trtdist.topology.paths import absolute
from trtdist.topology.problems import Problems
from trtdist.topology.site import load_site, read_site, site_path, with_defaults
from trtdist.topology.values import section

if TYPE_CHECKING:
    from trtdist.topology.lint.model_facts import ModelFacts

__all__ = ["Checked", "FactsOfModel", "ModelCheck", "RoomCheck", "check", "check_text", "dump", "load", "load_site"]


@dataclass(frozen=True)
class Checked:
    """A topology, None when there are errors, and every problem in order of position."""

    topology: Topology | None
    diagnostics: tuple[Diagnostic, ...]


ModelCheck = Callable[[Topology], str]
"""What is wrong with the model that a topology names, "" for nothing; looks at the disk, which this room does not."""


RoomCheck = Callable[[Topology], str]
"""Why a topology cannot be placed, "" when it can: planning is another room."""

FactsOfModel = Callable[[Topology], "ModelFacts | None"]
"""What the files of the model that a topology names say of its size, None when they cannot be seen."""


def _trusting(topology: Topology) -> str:
    return ""


def _blind(topology: Topology) -> ModelFacts | None:
    return None


def load(
    path: Path, *, overrides: Sequence[str] = (), environ: Mapping[str, str], model_check: ModelCheck = _trusting
) -> Topology:
    """The topology of a file, under `path=value` overrides and the site profile that `environ` points to.

    InvalidTopologyError has every problem; warnings alone do not raise (`check` gives them too).
    """
    checked = check(path, overrides=overrides, environ=environ, model_check=model_check)
    if checked.topology is None:
        raise InvalidTopologyError(checked.diagnostics)
    return checked.topology


def check(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str],
    model_check: ModelCheck = _trusting,
    model_facts: FactsOfModel = _blind,
    room_check: RoomCheck = _trusting,
) -> Checked:
    """The topology of a file with all its problems."""

    def judge(problems: Problems) -> Topology | None:
        root = _tree(*read_text(path, 0, problems), overrides, environ, problems)
        topology = _topology(root, problems)
        if topology is not None:
            topology = absolute(topology, os.path.dirname(os.path.abspath(path)), environ)
            topology = with_imported_image(topology, environ)
            if problem := model_check(topology):
                problems.error("TRT028", problem, at(root, ("model",)))
            _look(topology, root, problems, model_facts, room_check)
        return topology

    return _checked(judge)


def check_text(text: str, name: str, *, environ: Mapping[str, str], room_check: RoomCheck = _trusting) -> Checked:
    """The topology of a text that is in no file yet, called `name` in its problems; its paths stay as they are."""

    def judge(problems: Problems) -> Topology | None:
        root = _tree(text, Source(name, 0, tuple(text.splitlines())), (), environ, problems)
        topology = _topology(root, problems)
        if topology is not None:
            _look(topology, root, problems, _blind, room_check)
        return topology

    return _checked(judge)


def _checked(judge: Callable[[Problems], Topology | None]) -> Checked:
    problems = Problems()
    try:
        topology = judge(problems)
    except InvalidTopologyError:
        # Whoever stopped the reading has noted why.
        topology = None
    found = tuple(sorted(set(problems.found), key=lambda diagnostic: diagnostic.sort_key))
    return Checked(None if problems.errors else topology, found)


def _look(
    topology: Topology, root: Section, problems: Problems, model_facts: FactsOfModel, room_check: RoomCheck
) -> None:
    """Note what only a whole topology shows."""
    if problem := room_check(topology):
        problems.error("TRT029", problem, at(root, ("slurm",)))
    if topology.engine == "tensorrt_llm":
        _lint(topology, root, problems, model_facts)


def _lint(topology: Topology, root: Section, problems: Problems, model_facts: FactsOfModel) -> None:
    from trtdist.topology.lint.case import Case
    from trtdist.topology.lint.rules import lint

    lint(Case(topology, root, problems, model_facts(topology)))


def dump(topology: Topology) -> str:
    """The topology as YAML with defaults filled in; it loads to the same topology."""
    return yaml.safe_dump(
        _written(topology), sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000
    )


def _written(section: BaseModel) -> dict[str, Any]:
    """A section as it could be written: fields that hold nothing are left out."""
    data: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            data[name] = _written(value)
        elif value is not None:
            data[name] = list(value) if isinstance(value, tuple) else value
    return {**data, **(section.__pydantic_extra__ or {})}


def _tree(
    text: str, source: Source, overrides: Sequence[str], environ: Mapping[str, str], problems: Problems
) -> Section:
    root = read(text, source, problems)
    if root is None:
        problems.fatal("TRT005", "is empty; `name`, `model` and servers are needed", _start(source))
    if isinstance(root, Section) and any(_holds(entry.value, "urls") for entry in root.entries):
        from trtdist.topology.lint.pasted import pasted

        pasted(root, problems)
    root = canonical(root, Topology, problems)
    if not isinstance(root, Section):
        problems.fatal("TRT005", "is no mapping of keys and values", root.origin)
    root = apply_overrides(root, overrides, Topology, problems)
    profile = site_path(environ)
    if profile is not None:
        _, site = read_site(profile, problems)
        root = with_defaults(root, site) if site is not None else root
    return root


def _holds(node: Node, key: str) -> bool:
    return isinstance(node, Section) and node.get(key) is not None


def _topology(root: Section, problems: Problems) -> Topology | None:
    data = section(root, Topology, problems)
    cross_checks(data, root, problems)
    try:
        return Topology.model_validate(data)
    except ValidationError as error:
        report_faults(error, root, problems)
        return None


def _start(source: Source) -> Origin:
    return Origin(source, 1, 1)
