"""The way of the KV cache from context to generation servers, which nothing negotiates: both sides must agree."""

from __future__ import annotations

from typing import Any

from trtdist.topology.lint.arguments_table import BACKENDS
from trtdist.topology.lint.case import Case, mapping
from trtdist.topology.lint.versions import Version
from trtdist.topology.model import ServerSection
from trtdist.topology.problems import shown

__all__ = ["transfer_rules"]

_KEY = "cache_transceiver_config"
_SIDES = ("context_servers", "generation_servers")
# What both sides must have alike; sizes and time limits may differ.
_COMMON = ("backend", "transceiver_runtime")
# Releases whose buffer must hold a whole prompt, or KV blocks run out and requests stop (facts of 1.0 to 1.2).
_BUFFER_HOLDS_PROMPT = ((1, 0), (1, 2))


def transfer_rules(case: Case) -> None:
    """Sides that differ, backends that cannot work, buffers that are too small, the scheduler of context servers."""
    context, generation = case.topology.context_servers, case.topology.generation_servers
    if context is None or generation is None:
        return
    _alike(case, context, generation)
    for key, section in zip(_SIDES, (context, generation)):
        _backend(case, key, section)
        _buffer(case, key, section, context)
    _overlap(case, context)


def _config(section: ServerSection) -> dict[str, Any]:
    return mapping(section.engine_args.get(_KEY))


def _alike(case: Case, context: ServerSection, generation: ServerSection) -> None:
    configs = dict(zip(_SIDES, (_config(context), _config(generation))))
    there = [key for key in _SIDES if configs[key]]
    if len(there) == 1:
        other = _SIDES[1 - _SIDES.index(there[0])]
        case.error(
            "TRT210",
            f"{there[0]}.{_KEY} is given and {other}.{_KEY} is not; write the same on both sides",
            case.place(there[0], _KEY),
        )
        return
    for name in _COMMON:
        values = [configs[key].get(name) for key in _SIDES]
        if values[0] != values[1] and _upper(values[0]) != _upper(values[1]):
            told = " and ".join(f"{shown(str(value))} in {key}" for key, value in zip(_SIDES, values))
            case.error(
                "TRT210", f"{_KEY}.{name} is {told}; both sides must have the same", case.place(_SIDES[1], _KEY, name)
            )


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _backend(case: Case, key: str, section: ServerSection) -> None:
    backend = _config(section).get("backend")
    if backend is None:
        return
    where, name = case.place(key, _KEY, "backend"), str(backend).upper()
    rows = {row.name: row for row in BACKENDS}
    if name not in rows:
        case.warning(
            "TRT211",
            f"{key}.{_KEY}.backend {shown(str(backend))} is none of {', '.join(rows)} that are known here",
            where,
        )
        return
    if name == "MPI" and case.topology.launch == "per_server":
        case.error(
            "TRT211",
            "with `launch: per_server` the servers share no MPI world, so their KV cache cannot go over MPI; write UCX "
            "or NIXL, or `launch: mpi_world`",
            where,
        )
    if case.version is not None and case.version.known:
        _spelling(case, str(backend), case.version, key)
    if name == "DEFAULT":
        case.warning(
            "TRT212",
            f"{key}.{_KEY}.backend DEFAULT means UCX in some releases and NIXL in others; write the one you want",
            where,
        )


def _spelling(case: Case, backend: str, version: Version, key: str) -> None:
    where, row = case.place(key, _KEY, "backend"), next(row for row in BACKENDS if row.name == backend.upper())
    if row.first is not None and version.minor < row.first:
        certain = row.not_in is not None and version.minor <= row.not_in
        case.tell("TRT211", f"TensorRT-LLM {version.text} has no backend {row.name} yet", where, certain=certain)
    elif backend.islower() and version.minor >= (1, 1):
        case.error(
            "TRT211", f"TensorRT-LLM {version.text} knows {backend!r} as {backend.upper()!r}; write it so", where
        )
    elif not backend.islower() and version.minor < (1, 0):
        case.warning("TRT211", f"TensorRT-LLM {version.text} writes {backend!r} in small letters", where)


def _buffer(case: Case, key: str, section: ServerSection, context: ServerSection) -> None:
    size = _config(section).get("max_tokens_in_buffer")
    if not isinstance(size, int) or isinstance(size, bool) or case.version is None:
        return
    first, last = _BUFFER_HOLDS_PROMPT
    where = case.place(key, _KEY, "max_tokens_in_buffer")
    longest, limit = _count(context, "max_input_len"), _count(context, "max_seq_len")
    if not first <= case.version.minor <= last:
        return
    told = f"{key}.{_KEY}.max_tokens_in_buffer is {size}"
    if longest and size < longest:
        # Longer prompts take a buffer made for each, which fails with NIXL, as a warning of these releases says.
        certain = str(_config(section).get("backend")).upper() == "NIXL"
        case.tell(
            "TRT214",
            f"{told}, and prompts have up to {longest} tokens (max_input_len); in TensorRT-LLM {case.version.text} it "
            "should hold a whole prompt" + (", since NIXL has no other buffer" if certain else ""),
            where,
            certain=certain,
        )
    elif not longest and limit and size < limit:
        case.warning(
            "TRT214",
            f"{told}, less than max_seq_len {limit} of the context servers; in TensorRT-LLM {case.version.text} it "
            "should hold a whole prompt",
            where,
        )


def _count(section: ServerSection, name: str) -> int:
    value = section.engine_args.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _overlap(case: Case, context: ServerSection) -> None:
    # Configurations of 1.3 in TensorRT-LLM's own performance tests leave it on (tests/scripts/perf-sanity at 00be09f7).
    if case.version is not None and case.version.minor >= (1, 3):
        return
    arguments = context.engine_args
    old = mapping(arguments.get("pytorch_backend_config"))
    on = {
        "disable_overlap_scheduler": arguments.get("disable_overlap_scheduler") is False,
        "enable_overlap_scheduler": arguments.get("enable_overlap_scheduler") is True,
        "pytorch_backend_config": old.get("enable_overlap_scheduler") is True,
    }
    for name, wrong in on.items():
        if wrong:
            case.warning(
                "TRT213",
                "context servers before 1.3 do without the overlap scheduler; write `disable_overlap_scheduler: true`",
                case.place("context_servers", name),
            )
