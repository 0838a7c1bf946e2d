"""Engine arguments against the release that is to take them."""

from __future__ import annotations

import difflib
from typing import Any

from trtdist.topology.diagnostics import WARNING
from trtdist.topology.engine_args import RENAMED_KEYS
from trtdist.topology.lint.arguments_table import ARGUMENTS, NESTED, Argument
from trtdist.topology.lint.case import Case, mapping
from trtdist.topology.lint.versions import NEWEST, OLDEST, Version, of_image
from trtdist.topology.model import ServerSection
from trtdist.topology.nodes import at
from trtdist.topology.problems import shown

__all__ = ["argument_rules", "version_rules"]

# What a server section says by keys of its own, or the runtime around the engine does.
_OWN = {
    "model": "set the topology's `model`",
    "tensor_parallel_size": "set it in the server section",
    "pipeline_parallel_size": "set it in the server section",
    "context_parallel_size": "set it in the server section",
    "tp_size": "set tensor_parallel_size in the server section",
    "pp_size": "set pipeline_parallel_size in the server section",
    "cp_size": "set context_parallel_size in the server section",
    "num_instances": "set it in the server section",
    "_mpi_session": "the worker makes it",
}


def version_rules(case: Case) -> None:
    """The release itself: whether it is known here, and whether the image has another one."""
    version, said = case.version, case.topology.tensorrt_llm
    if version is None:
        return
    where = at(case.root, ("tensorrt_llm",) if said is not None else ("container", "image"))
    if not version.known:
        oldest, newest = (".".join(map(str, minor)) for minor in (OLDEST, NEWEST))
        case.warning(
            "TRT204",
            f"TensorRT-LLM {version.text} is none of the releases {oldest} to {newest} whose arguments are known here; "
            "arguments are not checked by release",
            where,
        )
    image = of_image(case.topology.container.image)
    if said is not None and image is not None and image.minor != version.minor:
        case.warning(
            "TRT204",
            f"tensorrt_llm says {said} and the image is tagged {image.text}; correct one, or leave tensorrt_llm out",
            where,
        )


def argument_rules(case: Case) -> None:
    """Arguments that the release does not have, keys within them that none has, and what the plan decides."""
    for key, section in case.sections():
        _owned(case, key, section)
        _nested(case, key, section)
        if case.version is not None and case.version.known:
            _by_release(case, key, section, case.version)
    if case.version is not None and case.version.known:
        _forget_general_hints(case)


def _owned(case: Case, key: str, section: ServerSection) -> None:
    for name in section.extra_engine_args:
        if name in _OWN:
            case.error(
                "TRT230",
                f"{shown(name)} in {key}.extra_engine_args would contradict the plan; {_OWN[name]}",
                at(case.root, (key, "extra_engine_args", name, "[key]")),
            )


def _nested(case: Case, key: str, section: ServerSection) -> None:
    for argument, known in NESTED.items():
        for name in mapping(section.extra.get(argument)):
            if name not in known:
                near = difflib.get_close_matches(name[:64], known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "; is it newer than this trtdist?"
                where = at(case.root, (key, argument, name, "[key]"))
                case.warning("TRT203", f"unknown key {shown(name)} in {key}.{argument}{hint}", where)


def _by_release(case: Case, key: str, section: ServerSection, version: Version) -> None:
    given = {**section.extra, "kv_cache_config": section.kv_cache_config.extra}
    for row in ARGUMENTS:
        if _given(given, row.path):
            _judge(case, key, row, version)


def _judge(case: Case, key: str, row: Argument, version: Version) -> None:
    where = at(case.root, (key, *row.path.split("."), "[key]"))
    name = f"{key}.{row.path}"
    instead = f"; write {row.instead}" if row.instead and not row.instead.startswith("nothing") else ""
    if row.first is not None and version.minor < row.first:
        certain = row.not_in is not None and version.minor <= row.not_in
        verb = "does not have" if certain else "may not have"
        case.tell("TRT202", f"TensorRT-LLM {version.text} {verb} {name} yet{instead}", where, certain=certain)
    elif row.last is not None and version.minor > row.last:
        surely = row.gone is not None and version.minor >= row.gone
        certain = surely and not (version.early and version.minor == row.gone)
        verb = "does not have" if certain else "may not have"
        case.tell("TRT201", f"TensorRT-LLM {version.text} {verb} {name} any more{instead}", where, certain=certain)


def _given(arguments: dict[str, Any], path: str) -> bool:
    first, _, rest = path.partition(".")
    return first in arguments and (not rest or rest in mapping(arguments[first]))


def _forget_general_hints(case: Case) -> None:
    """Where the release is known, the general word about older names says nothing, or says it twice."""
    tabled = {row.path for row in ARGUMENTS}
    spoken = {f"{name!r}" for name in RENAMED_KEYS if name in tabled}
    case.problems.found[:] = [
        found
        for found in case.problems.found
        if not (found.code == "TRT102" and found.severity == WARNING and found.message.partition(" ")[0] in spoken)
    ]
