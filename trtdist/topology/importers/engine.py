"""Engine arguments of any release as a server section writes them: today's names, each only once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from trtdist.topology.engine_args import KV_CACHE_KEYS, LLM_KEYS, PLACEMENT_KEYS
from trtdist.topology.importers.draft import Draft, Fields, merged
from trtdist.topology.lint.versions import parse
from trtdist.topology.model import ServerSection
from trtdist.topology.names import ALIASES
from trtdist.topology.nodes import Entry

__all__ = ["FRACTION", "engine_arguments", "leave_backend", "ranks_of"]

FRACTION = "kv_cache_config.free_gpu_memory_fraction"
_TRANSCEIVER = "cache_transceiver_config"
_BUILD = ("max_batch_size", "max_beam_width", "max_input_len", "max_num_tokens", "max_seq_len")

# Older arguments with the path that each has today.
_MOVED = {
    "autotuner_enabled": "enable_autotuner",
    "kv_cache_dtype": "kv_cache_config.dtype",
    "cuda_graph_batch_sizes": "cuda_graph_config.batch_sizes",
    "cuda_graph_max_batch_size": "cuda_graph_config.max_batch_size",
    "cuda_graph_padding_enabled": "cuda_graph_config.enable_padding",
    "moe_backend": "moe_config.backend",
    "moe_load_balancer": "moe_config.load_balancer",
    "moe_max_num_tokens": "moe_config.max_num_tokens",
    "torch_compile_fullgraph": "torch_compile_config.enable_fullgraph",
    "torch_compile_inductor_enabled": "torch_compile_config.enable_inductor",
    "torch_compile_piecewise_cuda_graph": "torch_compile_config.enable_piecewise_cuda_graph",
}
_SWITCHES = {"use_cuda_graph": "cuda_graph_config", "torch_compile_enabled": "torch_compile_config"}


def engine_arguments(fields: Fields, draft: Draft) -> dict[str, Any]:
    """All entries that are left, as keys of a server section; each is carried over or remarked on.

    Older names become today's, unless the release that is wished for knows only the older ones.
    """
    version = parse(draft.wishes.tensorrt_llm or "")
    modern = version is None or version.minor >= (1, 0)
    arguments = _Arguments(fields, draft)
    for entry in list(fields.left()):
        fields.entry(entry.key)
        (arguments.today if modern else arguments.as_written)(entry, fields.named(entry.key))
    return arguments.finished()


def leave_backend(fields: Fields, draft: Draft) -> None:
    """Take the choice of an engine out: there is only PyTorch, which is also what newer releases have alone."""
    backend = fields.text("backend")
    if backend in ("pytorch", "_torch"):
        draft.change(fields.named("backend"), fields.at("backend"), "PyTorch is the engine in any case")
    elif backend is not None:
        why = f"trtdist drives the PyTorch engine and not {backend}, whose arguments differ"
        draft.lose(fields.named("backend"), fields.at("backend"), why)


def ranks_of(arguments: dict[str, Any]) -> int:
    """The ranks of one server by its sizes; a size that is no number counts as 1."""
    sizes = [arguments.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline", "context")]
    return math.prod(size for size in sizes if isinstance(size, int))


class _Arguments:
    """The arguments found so far, by path."""

    def __init__(self, fields: Fields, draft: Draft) -> None:
        self._plain = fields.plain
        self._draft = draft
        self._found: dict[str, Any] = {}
        self._off: set[str] = set()

    def finished(self) -> dict[str, Any]:
        """A server section; a mapping that a switch turned off is null."""
        section: dict[str, Any] = {}
        for path, value in self._found.items():
            *above, last = path.split(".")
            if above and above[0] in self._off:
                continue
            section = merged(section, _nested([*above, last], value))
        return {**section, **dict.fromkeys(self._off)}

    def as_written(self, entry: Entry, name: str) -> None:
        """Carry an argument over under its own name, an alias under the name that it stands for."""
        self._put(entry, name, self._value(entry, name))

    def today(self, entry: Entry, name: str) -> None:
        """Carry an argument over under today's name."""
        key = entry.key
        special: dict[str, Callable[[Entry, str, Any], None]] = {
            "pytorch_backend_config": self._opened,
            "build_config": self._build,
            "enable_overlap_scheduler": self._overlap,
            "enable_cache_transceiver": self._transceiver_switch,
            "num_nextn_predict_layers": self._prediction,
            "use_torch_sampler": self._sampler,
            _TRANSCEIVER: self._transceiver,
        }
        value = self._value(entry, name)
        if key in special and value is not None:
            special[key](entry, name, value)
        elif key in _SWITCHES and isinstance(value, bool):
            self._switch(entry, name, value)
        elif key in _MOVED:
            if value is not None:
                self._draft.change(name, entry.origin, f"is written {_MOVED[key]} today")
                self._set(_MOVED[key], value, entry, name)
        else:
            self._put(entry, name, value)

    def _value(self, entry: Entry, name: str) -> Any:
        value = self._plain(entry.value)
        if value == "None":
            self._draft.change(name, entry.origin, "is the text None and was meant as null")
            return None
        return value

    def _put(self, entry: Entry, name: str, value: Any) -> None:
        key = entry.key
        path = ".".join(ALIASES[ServerSection].get(key, (key,)))
        if key == "kv_cache_config" and isinstance(value, dict):
            for inner, each in value.items():
                known = inner in KV_CACHE_KEYS
                self._set(f"{'' if known else 'extra_engine_args.'}kv_cache_config.{inner}", each, entry, name)
        elif path.split(".")[0] in LLM_KEYS | PLACEMENT_KEYS | {"kv_cache_config"}:
            if value is not None or path not in PLACEMENT_KEYS:
                self._set(path, value, entry, name)
        else:
            self._draft.change(name, entry.origin, "is no argument known here and is passed on in extra_engine_args")
            self._set(f"extra_engine_args.{key}", value, entry, name)

    def _set(self, path: str, value: Any, entry: Entry, name: str) -> None:
        """Keep a value; of a flat and a nested spelling the nested one counts, as it does for TensorRT-LLM."""
        if path in self._found and self._found[path] != value:
            if entry.key in ALIASES[ServerSection]:
                self._draft.lose(name, entry.origin, f"{path} is given, too, and counts")
                return
            self._draft.lose(name, entry.origin, f"another spelling of {path} is overruled by this one")
        self._found[path] = value

    def _opened(self, entry: Entry, name: str, value: Any) -> None:
        """A mapping whose keys are arguments of their own today."""
        inner = getattr(entry.value, "entries", ())
        if inner:
            self._draft.change(name, entry.origin, "its keys are written directly in the server section today")
        for each in inner:
            self.today(each, f"{name}.{each.key}")

    def _build(self, entry: Entry, name: str, value: Any) -> None:
        self._draft.change(name, entry.origin, "its limits are written directly in the server section today")
        for each in getattr(entry.value, "entries", ()):
            if each.key in _BUILD:
                self._put(each, f"{name}.{each.key}", self._plain(each.value))
            else:
                self._draft.lose(f"{name}.{each.key}", each.origin, "is for building engines, which PyTorch needs not")

    def _overlap(self, entry: Entry, name: str, value: Any) -> None:
        self._draft.change(name, entry.origin, "is written disable_overlap_scheduler today, with the opposite meaning")
        self._set("disable_overlap_scheduler", not value, entry, name)

    def _switch(self, entry: Entry, name: str, value: bool) -> None:
        target = _SWITCHES[entry.key]
        self._draft.change(name, entry.origin, f"is written {target} today, null for off")
        if value:
            self._found.setdefault(target, {})
        else:
            self._off.add(target)

    def _prediction(self, entry: Entry, name: str, value: Any) -> None:
        self._draft.change(name, entry.origin, "is written within speculative_config today")
        self._set("speculative_config.decoding_type", "MTP", entry, name)
        self._set("speculative_config.num_nextn_predict_layers", value, entry, name)

    def _sampler(self, entry: Entry, name: str, value: Any) -> None:
        self._draft.change(name, entry.origin, "is written sampler_type today")
        self._set("sampler_type", "TorchSampler" if value else "auto", entry, name)

    def _transceiver_switch(self, entry: Entry, name: str, value: Any) -> None:
        self._draft.lose(
            name, entry.origin, "the transfer is on in every disaggregated deployment", "a backend can be named"
        )

    def _transceiver(self, entry: Entry, name: str, value: Any) -> None:
        """The settings of the transfer: capitals for the backend, and the buffer under its later name."""
        for each in getattr(entry.value, "entries", ()):
            path, inner = f"{_TRANSCEIVER}.{each.key}", self._plain(each.value)
            if each.key == "enable_cache_transceiver":
                self._transceiver_switch(each, f"{name}.{each.key}", inner)
            elif each.key == "max_num_tokens":
                self._draft.change(f"{name}.{each.key}", each.origin, "is written max_tokens_in_buffer today")
                self._set(f"{_TRANSCEIVER}.max_tokens_in_buffer", inner, each, name)
            elif each.key == "backend" and isinstance(inner, str) and inner.islower():
                self._draft.change(f"{name}.{each.key}", each.origin, f"is written {inner.upper()} today")
                self._set(path, inner.upper(), each, name)
            else:
                self._set(path, inner, each, name)


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    found: dict[str, Any] = value
    return found
