"""Dynamo's manifests for Kubernetes: a DynamoGraphDeployment, with the ConfigMaps of its engine configurations.

Forms: recipes/ and examples/backends/trtllm/deploy/ of github.com/ai-dynamo/dynamo (read at 2a6da14c, df888f68,
e20adb44 and fb15e20c); flags of its workers: components/src/dynamo/trtllm/backend_args.py (0a6a115c). An engine
configuration counts before a flag, as it does for Dynamo.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, Union

from trtdist.errors import InputError
from trtdist.topology.diagnostics import Origin
from trtdist.topology.importers.component import FRONTEND, WORKER, Component, component, variables
from trtdist.topology.importers.draft import Document, Draft, Fields, merged, name_of
from trtdist.topology.importers.engine import ranks_of
from trtdist.topology.importers.environment import Table, put_environment
from trtdist.topology.importers.options import arguments_of
from trtdist.topology.nodes import Entry, Items, Section, read

__all__ = ["FORMAT", "manifest", "parts", "recognises"]

FORMAT = "Dynamo manifest for Kubernetes"
_GRAPH = "DynamoGraphDeployment"
_MAP = "ConfigMap"
_MOST_OBJECTS = 200
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_SECTIONS = {"prefill": "context_servers", "decode": "generation_servers", "agg": "servers"}
_ALONE = {"prefill_and_decode": "agg", "aggregated": "agg"}
_PLACES = {
    "enable-attention-dp": "enable_attention_dp",
    "expert-parallel-size": "moe_expert_parallel_size",
    "free-gpu-memory-fraction": "kv_cache_config.free_gpu_memory_fraction",
    "kv-block-size": "kv_cache_config.tokens_per_block",
    "max-batch-size": "max_batch_size",
    "max-beam-width": "max_beam_width",
    "max-num-tokens": "max_num_tokens",
    "max-seq-len": "max_seq_len",
    "pipeline-parallel-size": "pipeline_parallel_size",
    "tensor-parallel-size": "tensor_parallel_size",
}
_TAKEN = {"disaggregation-mode", "extra-engine-args", "model", "model-path"}
_KNOWN = {
    "override-engine-args": "it overrides single arguments; set them with --set",
    "publish-events-and-metrics": "router.policy: kv_prefix turns events on",
    "publish-kv-events": "router.policy: kv_prefix turns events on",
    "served-model-name": "the name of the model is the only one",
}
_POLICIES = {"kv": "kv_prefix", "round-robin": "round_robin", "random": "least_loaded"}
_SPEC = {
    "backendFramework": "it is TensorRT-LLM in any case",
    "pvcs": "there are no volumes; stage the model, or add its folder to container.mounts",
}

# A file beside the manifest, or the entry of a ConfigMap.
_Holder = Union[Document, Entry]
_Files = dict[tuple[str, str], _Holder]


def parts(text: str) -> list[str]:
    """The documents of a file of Kubernetes objects, each on its own lines of the file; another file as it is."""
    if not all(re.search(rf"^{key}:", text, re.MULTILINE) for key in ("apiVersion", "kind")):
        return [text]
    found, begin = [], 0
    ends = [*(match.start() for match in _SEPARATOR.finditer(text)), len(text)]
    if len(ends) > _MOST_OBJECTS:
        return [text]
    for end in ends:
        found.append("\n" * text.count("\n", 0, begin) + text[begin:end])
        begin = min(end + len("---"), len(text))
    return found


def recognises(document: Document) -> bool:
    """Whether a document is an object of Kubernetes."""
    return _kind(document) != "" and document.root.get("apiVersion") is not None


def _kind(document: Document) -> str:
    found = document.root.get("kind")
    return str(getattr(found.value, "text", "")) if found is not None else ""


def manifest(objects: Sequence[Document], beside: Sequence[Document], draft: Draft) -> None:
    """Take a deployment over; `beside` are files of engine arguments with the names that its workers have for them.

    InputError when there is not one deployment with workers for TensorRT-LLM.
    """
    graphs = [document for document in objects if _kind(document) == _GRAPH]
    if len(graphs) != 1:
        raise InputError(f"{objects[0].name} has {len(graphs)} objects of kind {_GRAPH} and needs one of them")
    files = _files(objects, beside, draft)
    graph = draft.fields(graphs[0])
    spec = graph.inner("spec")
    draft.put("name", name_of(draft.wishes.name, graph.inner("metadata").text("name")))
    draft.put("runtime", "dynamo")
    draft.put("launch", "per_server")
    found = list(_components(spec, draft))
    workers = [each for each in found if each.program == WORKER]
    if not workers:
        raise InputError(f"{graphs[0].name} has no worker that runs `python3 -m {WORKER}`")
    used = {key for worker in workers for key in _server(worker, files, draft)}
    for (name, file), holder in files.items():
        if (name, file) not in used:
            why = "no worker names it as its --extra-engine-args"
            draft.lose(_called(name, file), _origin(holder), why)
    _shared(workers, draft)
    for each in found:
        if each.program == FRONTEND:
            _front_end(each, draft)
        elif each.program != WORKER:
            draft.lose(each.name, each.origin, "it is neither a worker for TensorRT-LLM nor the front end")
    draft.lose_known(spec, _SPEC)
    for entry in spec.left():
        draft.lose(spec.named(entry.key), entry.origin, "it is for Kubernetes")


def _files(objects: Sequence[Document], beside: Sequence[Document], draft: Draft) -> _Files:
    """All files of engine arguments by ConfigMap and name, or by "" and path for those beside the manifest."""
    files: _Files = {("", document.name): document for document in beside}
    for document in objects:
        if _kind(document) == _MAP:
            fields = draft.fields(document)
            name = fields.inner("metadata").text("name") or ""
            files.update(((name, entry.key), entry) for entry in fields.inner("data").section.entries)
        elif _kind(document) != _GRAPH:
            draft.lose(_kind(document), document.root.origin, "it is for Kubernetes")
    return files


def _called(name: str, file: str) -> str:
    return f"{name}.{file}" if name else file


def _origin(holder: _Holder) -> Origin:
    return holder.origin if isinstance(holder, Entry) else holder.root.origin


def _opened(holder: _Holder, draft: Draft) -> Document:
    """A file; the text of a ConfigMap is read on its own lines of the manifest."""
    if isinstance(holder, Document):
        return holder
    source, line = holder.origin.source, holder.origin.line
    below = source.lines[line] if line < len(source.lines) else ""
    indent = " " * (len(below) - len(below.lstrip(" ")))
    text = textwrap.indent(str(getattr(holder.value, "text", "")), indent)
    root = read("\n" * line + text, source, draft.problems)
    if not isinstance(root, Section):
        raise InputError(f"{holder.origin}: {holder.key} holds no mapping of keys and values")
    return Document(holder.key, root)


def _components(spec: Fields, draft: Draft) -> Iterator[Component]:
    everywhere = {**variables(spec.value("envs")), **variables(spec.value("env"))}
    services, listed = spec.inner("services"), spec.entry("components")
    for entry in services.section.entries:
        services.entry(entry.key)
        if isinstance(entry.value, Section):
            yield component(entry.key, spec.plain(entry.value), entry.origin, everywhere, draft)
    for item in listed.value.items if listed is not None and isinstance(listed.value, Items) else ():
        data = spec.plain(item)
        if isinstance(data, dict):
            yield component(str(data.get("name", "component")), data, item.origin, everywhere, draft)


def _server(worker: Component, files: _Files, draft: Draft) -> list[tuple[str, str]]:
    """Put the section of a worker; returns the file that it uses, or those that it may mean."""
    mode = worker.flags.get("disaggregation-mode") or worker.role
    section = _SECTIONS.get(_ALONE.get(mode, mode))
    for flag in worker.flags:
        if flag in _TAKEN or flag in _PLACES:
            continue
        why = _KNOWN.get(flag, "Dynamo's worker is started without it")
        said, _, instead = why.partition("; ")
        draft.lose(f"{worker.name} --{flag}", worker.origin, said, instead)
    if section is None or section in draft.data:
        why = "there are no such servers" if section is None else f"{section} are described already"
        draft.lose(f"{worker.name} --disaggregation-mode {mode}", worker.origin, why)
        return []
    used, arguments = _arguments(worker, files, draft)
    ranks = ranks_of(arguments)
    if worker.gpus and worker.gpus * worker.nodes != ranks:
        why = f"{worker.gpus * worker.nodes} GPUs are not the {ranks} ranks of its sizes, which count"
        draft.lose(f"{worker.name}.resources", worker.origin, why)
    draft.put(section, {"num_instances": worker.replicas, **arguments})
    return used


def _arguments(worker: Component, files: _Files, draft: Draft) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    given: dict[str, Any] = {}
    for flag, value in worker.flags.items():
        if flag in _PLACES:
            inner, _, last = _PLACES[flag].rpartition(".")
            number = _value(value)
            given = merged(given, {inner: {last: number}} if inner else {last: number})
    path = worker.flags.get("extra-engine-args")
    if path is None:
        return [], given
    fitting = _fitting(path, worker, files)
    if len(fitting) == 1:
        return fitting, merged(given, arguments_of(_opened(files[fitting[0]], draft), draft))
    why, instead = f"{path} is not in the manifest", "name it beside this file"
    if fitting:
        why = f"{path} may be {' or '.join(_called(*key) for key in fitting)}"
        instead = "give each file a folder or name that tells it apart"
    draft.lose(f"{worker.name} --extra-engine-args", worker.origin, why, instead)
    return fitting, given


def _fitting(path: str, worker: Component, files: _Files) -> list[tuple[str, str]]:
    """The files that a worker may mean by a path: those that its pod mounts, else those beside the manifest that have
    most of the path's end, else those of any ConfigMap."""
    file = path.rpartition("/")[2]
    mounted = [(name, file) for name in dict.fromkeys(worker.maps) if (name, file) in files]
    beside = {key: _common(path, key[1]) for key in files if not key[0]}
    most = max(beside.values(), default=0)
    nearest = [key for key, common in beside.items() if most and common == most]
    return mounted or nearest or [key for key in files if key[1] == file]


def _common(path: str, other: str) -> int:
    """How many names two paths have in common, counted from their ends."""
    pairs = zip(reversed(path.split("/")), reversed(other.split("/")))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _value(text: str | None) -> Any:
    """The value of a flag; one without a value turns something on."""
    if text is None:
        return True
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[0-9]*\.[0-9]+", text) else text


def _shared(workers: Sequence[Component], draft: Draft) -> None:
    """What all workers have in common: model, image, environment, and nodes."""
    for worker in workers:
        model = worker.flags.get("model-path") or worker.flags.get("model")
        if model is not None and "$" not in model and draft.data.get("model") is None:
            draft.data["model"] = model
        if model not in (None, draft.data.get("model")) and draft.wishes.model is None:
            draft.lose(f"{worker.name} --model-path", worker.origin, f"{draft.data.get('model')} is the model of all")
    image = draft.wishes.image or next((worker.image for worker in workers if worker.image), None)
    draft.put("container.image", image)
    draft.put("container.runtime", "pyxis" if image else None)
    put_environment([_table(worker.name, worker.env, worker.origin) for worker in workers], {}, draft)
    if any(worker.nodes > 1 for worker in workers):
        draft.put("slurm.gpus_per_node", max(worker.gpus for worker in workers) or None)


def _table(name: str, env: Mapping[str, str], origin: Origin) -> Table:
    return Table(f"{name}.env", {variable: (value, origin) for variable, value in env.items()})


def _front_end(each: Component, draft: Draft) -> None:
    port, mode = each.flags.get("http-port"), each.flags.get("router-mode") or each.env.get("DYN_ROUTER_MODE")
    if port is not None and re.fullmatch(r"[0-9]{1,5}", port):
        draft.put("router.http.port", int(port))
    policy = _POLICIES.get(mode or "round-robin")
    if policy is None:
        draft.lose(f"{each.name} --router-mode", each.origin, f"there is no policy {mode}", "set router.policy")
    draft.put("router.policy", policy if policy != "round_robin" else None)
    for flag in [flag for flag in each.flags if flag not in ("http-port", "router-mode")]:
        draft.lose(f"{each.name} --{flag}", each.origin, "the front end of a run has no such option")
