"""Files of engine arguments: TensorRT-LLM's extra_llm_api_options, llm_api_config.yaml, and the original model.json."""

from __future__ import annotations

from typing import Any

from trtdist.topology.engine_args import LLM_KEYS, PLACEMENT_KEYS
from trtdist.topology.importers.draft import Document, Draft, name_of
from trtdist.topology.importers.engine import engine_arguments, leave_backend
from trtdist.topology.model import ServerSection
from trtdist.topology.names import ALIASES

__all__ = ["CONFIG", "MODEL", "OPTIONS", "arguments_of", "recognised", "servers_of", "side_of"]

OPTIONS = "TensorRT-LLM engine arguments"
MODEL = "TensorRT-LLM example model.json"
CONFIG = "llm_api_config.yaml"

_CONTEXT = frozenset({"ctx", "context", "prefill"})
_GENERATION = frozenset({"gen", "generation", "decode"})
_NAMES = ("model", "model_path", "model_name")
_OF_EXAMPLE = {
    "disagg_config": "the original has no such field; name the configuration beside this file: trtdist import FILE...",
    "llmapi_disaggregated_config": "the original has no such field; name that file beside this one",
}
_KNOWN = LLM_KEYS | PLACEMENT_KEYS | set(ALIASES[ServerSection]) | {"kv_cache_config", "copyright", *_NAMES}


def recognised(document: Document) -> str:
    """Which form of engine arguments a file has, "" for none: most of its keys must be arguments."""
    keys = {entry.key for entry in document.root.entries}
    if not keys or 2 * len(keys & _KNOWN) <= len(keys):
        return ""
    if document.name.endswith(".json") and "model" in keys:
        return MODEL
    return CONFIG if keys & set(_NAMES) else OPTIONS


def side_of(document: Document) -> str | None:
    """The server section that a file is for by the words of its name, None when it is for both or for monolithic."""
    context, generation = bool(document.words & _CONTEXT), bool(document.words & _GENERATION)
    if context == generation:
        return None
    return "context_servers" if context else "generation_servers"


def arguments_of(document: Document, draft: Draft) -> dict[str, Any]:
    """The arguments of a file as keys of a server section; the model that it names becomes the topology's."""
    fields = draft.fields(document)
    fields.entry("copyright")
    if document.name.endswith(".json"):
        for entry in fields.section.entries:
            # A null of model.json is not passed on.
            if getattr(entry.value, "value", "") is None:
                fields.entry(entry.key)
    names = {key: fields.text(key) for key in _NAMES if fields.has(key)}
    model = names.get("model") or names.get("model_path") or names.get("model_name")
    if draft.data.setdefault("model", model) is None:
        draft.data["model"] = model
    for key, name in names.items():
        if name is not None and name != draft.data["model"]:
            draft.lose(key, fields.at(key), f"{draft.data['model']} is the model, and there is one name for it")
    draft.lose_known(fields, _OF_EXAMPLE)
    leave_backend(fields, draft)
    return engine_arguments(fields, draft)


def servers_of(document: Document, draft: Draft) -> None:
    """A topology of one monolithic server from one file."""
    arguments = arguments_of(document, draft)
    draft.put("name", name_of(draft.wishes.name, document.name.rsplit("/", 1)[-1].rpartition(".")[0]))
    draft.put("servers", {"num_instances": 1, **arguments})
