"""From files to an import: which format they have, and who takes them over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtdist.errors import InputError
from trtdist.topology.diagnostics import InvalidTopologyError
from trtdist.topology.files import read_text
from trtdist.topology.importers import aiconfigurator, benchmark, disagg, manifest, options, srtslurm
from trtdist.topology.importers.draft import Document, Draft, Imported, Wishes
from trtdist.topology.nodes import Section, read
from trtdist.topology.problems import Problems

__all__ = ["FORMATS", "import_documents", "import_files"]

FORMATS = (
    disagg.FORMAT,
    options.OPTIONS,
    options.CONFIG,
    options.MODEL,
    benchmark.FORMAT,
    srtslurm.FORMAT,
    aiconfigurator.FORMAT,
    manifest.FORMAT,
)
_WHOLE = {disagg.FORMAT, benchmark.FORMAT, srtslurm.FORMAT, aiconfigurator.FORMAT}
_SIZES = ("num_instances", "tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
_ORDER = [
    "name",
    "model",
    "engine",
    "tensorrt_llm",
    "runtime",
    "launch",
    "context_servers",
    "generation_servers",
    "servers",
    "router",
    "container",
    "network",
    "slurm",
    "timeouts",
]


def import_files(paths: Sequence[Path], wishes: Wishes) -> Imported:
    """The topology that files describe together.

    InvalidTopologyError when one cannot be read as YAML or JSON, InputError when their format is not known, when they
    do not belong together, or when nothing names a model.
    """
    problems = Problems()
    documents = [document for order, path in enumerate(paths) for document in _documents(path, order, problems)]
    if problems.errors:
        raise InvalidTopologyError(problems.found)
    return import_documents(documents, wishes)


def _documents(path: Path, order: int, problems: Problems) -> list[Document]:
    text, source = read_text(path, order, problems)
    roots = [read(part, source, problems) for part in manifest.parts(text)]
    found = [Document(str(path), root) for root in roots if isinstance(root, Section)]
    if not found:
        raise InputError(f"{path} holds no mapping of keys and values, so there is nothing to import")
    return found


def import_documents(documents: Sequence[Document], wishes: Wishes) -> Imported:
    """The same, of files that were read."""
    kinds = [(_format(document), document) for document in documents]
    whole = [(kind, document) for kind, document in kinds if kind in _WHOLE]
    if len(whole) > 1:
        raise InputError(
            f"{whole[0][1].name} and {whole[1][1].name} each describe a whole deployment; import them one by one"
        )
    draft = Draft(wishes, data={"name": wishes.name, "model": wishes.model, "tensorrt_llm": wishes.tensorrt_llm})
    parts = [(kind, document) for kind, document in kinds if kind not in _WHOLE]
    objects = [document for kind, document in parts if kind == manifest.FORMAT]
    if objects and not whole:
        manifest.manifest(objects, [part for kind, part in parts if kind != manifest.FORMAT], draft)
        name = manifest.FORMAT
    elif whole:
        _take(*whole[0], parts, draft)
        name = whole[0][0]
    else:
        name = _take_parts(parts, draft)
    if draft.problems.errors:
        raise InvalidTopologyError(draft.problems.found)
    return _finished(name, draft)


def _format(document: Document) -> str:
    for kind, recognises in (
        (aiconfigurator.FORMAT, aiconfigurator.recognises),
        (benchmark.FORMAT, benchmark.recognises),
        (srtslurm.FORMAT, srtslurm.recognises),
        (srtslurm.CLUSTER, srtslurm.is_cluster),
        (manifest.FORMAT, manifest.recognises),
    ):
        if recognises(document):
            return kind
    if disagg.recognises(document):
        if document.root.get("name") is not None:
            raise InputError(f"{document.name} is a topology already: try `trtdist validate {document.name}`")
        return disagg.FORMAT
    kind = options.recognised(document)
    if not kind:
        raise InputError(f"{document.name} has none of the formats that can be imported: {', '.join(FORMATS)}")
    return kind


def _take(kind: str, document: Document, parts: list[tuple[str, Document]], draft: Draft) -> None:
    """Take one whole deployment over with the files that belong to it."""
    cluster = [part for each, part in parts if each == srtslurm.CLUSTER]
    engines = [(each, part) for each, part in parts if each != srtslurm.CLUSTER]
    if (cluster and kind != srtslurm.FORMAT) or (engines and kind not in (disagg.FORMAT, aiconfigurator.FORMAT)):
        stray = (cluster or [part for _, part in engines])[0]
        raise InputError(f"{stray.name} does not belong to {document.name}, which is: {kind}")
    own = _engines(engines, draft)
    if kind == disagg.FORMAT:
        # A file for one monolithic server, named beside servers of both roles, counts for what these do not say.
        disagg.disagg(document, draft, own, own.get("servers"))
        # The original's transfers, and those that say so, need one MPI world.
        example = any(each == options.MODEL for each, _ in engines) or disagg.of_example(document)
        mpi = example or any(_transfer(draft.data.get(side)) == "MPI" for side in disagg.SIDES)
        draft.put("launch", "mpi_world" if mpi else "per_server")
    elif kind == benchmark.FORMAT:
        benchmark.benchmark(document, draft)
    elif kind == srtslurm.FORMAT:
        srtslurm.srtslurm(document, draft, cluster[0] if cluster else None)
    else:
        aiconfigurator.aiconfigurator(document, draft, own)
        for each, part in engines:
            if (section := _section(each, part)) not in draft.data:
                draft.lose(part.name, part.root.origin, f"{document.name} has no {section}")


def _transfer(section: dict[str, Any] | None) -> Any:
    config = (section or {}).get("cache_transceiver_config")
    return config.get("backend") if isinstance(config, dict) else None


def _engines(parts: list[tuple[str, Document]], draft: Draft) -> dict[str, dict[str, Any]]:
    """Engine arguments by server section; a model.json or llm_api_config.yaml is for `servers`, as `agg` files are."""
    own: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for kind, document in parts:
        section = _section(kind, document)
        if section in names:
            raise InputError(f"{names[section]} and {document.name} are both for {section}: name one of them")
        names[section] = document.name
        arguments = options.arguments_of(document, draft)
        own[section] = _of_example(arguments, document, draft) if kind == options.MODEL else arguments
    return own


def _section(kind: str, document: Document) -> str:
    if kind == options.MODEL or "agg" in document.words:
        return "servers"
    section = options.side_of(document) or ("servers" if kind == options.CONFIG else None)
    if section is None:
        raise InputError(
            f"{document.name} does not show whether it is for context or generation servers: name it ctx_... or gen_..."
        )
    return section


def _of_example(arguments: dict[str, Any], document: Document, draft: Draft) -> dict[str, Any]:
    """In the original example sizes and trust come from elsewhere: given in model.json, its workers do not start."""
    for key in ("tensor_parallel_size", "trust_remote_code"):
        if arguments.get(key) is not None:
            entry = document.root.get(key)
            assert entry is not None
            why = "stands in model.json, where the original's disaggregated workers refuse it"
            if key == "tensor_parallel_size":
                draft.lose(key, entry.origin, why, "the server sections have their own")
                del arguments[key]
            else:
                draft.change(key, entry.origin, f"{why}; here it holds for all servers")
    return arguments


def _take_parts(parts: list[tuple[str, Document]], draft: Draft) -> str:
    """Take files of engine arguments over that nothing brings together: one for each side, or one alone."""
    stray = [part for kind, part in parts if kind == srtslurm.CLUSTER]
    if stray:
        raise InputError(f"{stray[0].name} holds aliases and defaults: name a recipe beside it")
    if len(parts) == 1 and options.side_of(parts[0][1]) is None:
        options.servers_of(parts[0][1], draft)
        return parts[0][0]
    own = _engines(parts, draft)
    missing = [side for side in disagg.SIDES if side not in own]
    if missing or "servers" in own:
        raise InputError(f"nothing describes {' and '.join(missing or ['the servers'])}: name that file, too")
    draft.put("launch", "per_server")
    for side in disagg.SIDES:
        draft.put(side, {"num_instances": 1, **own[side]})
    draft.data["name"] = draft.wishes.name or "imported"
    return options.OPTIONS


def _sizes_first(value: Any) -> Any:
    """A server section that begins with how many and how large."""
    if not isinstance(value, dict) or "num_instances" not in value:
        return value
    return {**{key: value[key] for key in _SIZES if key in value}, **value}


def _finished(name: str, draft: Draft) -> Imported:
    data = draft.data
    if data.get("model") is None:
        raise InputError("the files name no model: give --model, a hub id or a path")
    if draft.wishes.image is not None and "image" not in data.get("container", {}):
        draft.put("container.image", draft.wishes.image)
        draft.put("container.runtime", "pyxis")
    ordered = {key: _sizes_first(data[key]) for key in _ORDER if data.get(key) is not None}
    remarks = sorted(draft.remarks, key=lambda remark: (remark.origin.source.order, remark.origin.line))
    return Imported(name, ordered, tuple(dict.fromkeys(remarks)))
