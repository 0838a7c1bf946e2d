"""Recipes of srt-slurm (`srtctl`) for TensorRT-LLM: the layout before 2.0 and `schema: 2`.

Keys: docs/config-reference.md and the recipes of github.com/NVIDIA/srt-slurm (read at c88ef73 and, for `schema: 2`, at
6cde591c). Aliases of models and images stand in srtslurm.yaml, which may be given beside a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtdist.errors import InputError
from trtdist.topology.importers.draft import Document, Draft, Fields, name_of
from trtdist.topology.importers.engine import engine_arguments, ranks_of
from trtdist.topology.importers.environment import Table, put_environment

__all__ = ["CLUSTER", "FORMAT", "is_cluster", "recognises", "srtslurm"]

FORMAT = "srt-slurm recipe"
CLUSTER = "srt-slurm cluster file"
_GPUS_PER_NODE = 4
_RUNTIMES = {"dynamo": "dynamo", "trtllm_serve": "trtllm-serve"}
_KNOWN = {
    "benchmark": "`trtdist bench` measures; it is not part of a topology",
    "backend.publish_events_and_metrics": "set router.policy: kv_prefix to choose servers by what they hold",
    "critical": "the first server that dies fails the run",
    "dynamo": "what an image has is used; nothing is installed in a job",
    "enable_config_dump": "the resolved topology is always kept in the run directory",
    "enable_multiple_frontends": "one front end serves; set router.http.processes for more processes",
    "extra_args": "the HTTP front end has no such option",
    "frontend.args": "the HTTP front end has its own options; see router.http",
    "frontend.env": "the HTTP front end runs in trtdist's own environment",
    "frontend.orchestrator_placement": "the front end runs on the head node",
    "gpu_type": "it is informational; set slurm.constraint if nodes must be chosen",
    "het_jobs": "one allocation holds all servers",
    "host_setup": "commands on the host of each node are not run; write them in slurm.setup",
    "identity": "it is informational",
    "infra": "NATS and etcd run on the head node beside the servers",
    "kv_events": "set router.policy: kv_prefix to choose servers by what they hold",
    "monitoring": "`trtdist status` watches",
    "nginx_container": "there is no nginx",
    "observability": "engine arguments for it can be set in the server sections",
    "output": "a run directory holds all; set TRTDIST_RUNS for another place",
    "post_eval": "it is not part of a topology",
    "precision": "it is informational: the model decides",
    "profiling": "profilers are not started",
    "reporting": "nothing is uploaded",
    "services": "NATS and etcd are started by each run; others are not",
    "setup_script": "nothing is installed in a job; build it into the image",
    "telemetry": "exporters are not started",
}


@dataclass(frozen=True)
class _Role:
    """One role by its names in the two layouts, and the section of a topology that it becomes."""

    new: str
    old: str
    count: str
    section: str


_ROLES = (
    _Role("prefill", "prefill", "prefill", "context_servers"),
    _Role("decode", "decode", "decode", "generation_servers"),
    _Role("agg", "aggregated", "agg", "servers"),
)


def recognises(document: Document) -> bool:
    """Whether a file is a recipe."""
    keys = {entry.key for entry in document.root.entries}
    return "model" in keys and ("roles" in keys or {"resources", "backend"} <= keys or {"resources", "engine"} <= keys)


def is_cluster(document: Document) -> bool:
    """Whether a file is srt-slurm's file of a cluster, with aliases and defaults."""
    keys = {entry.key for entry in document.root.entries}
    return bool(keys & {"model_paths", "default_account", "default_partition", "srtctl_root"})


def srtslurm(document: Document, draft: Draft, cluster: Document | None) -> None:
    """Take a recipe over. InputError when it is for another engine."""
    top = draft.fields(document)
    site = draft.fields(cluster) if cluster is not None else None
    top.value("schema")
    draft.put("name", name_of(draft.wishes.name, top.text("name")))
    _refuse_others(top, document)
    _model(top, site, draft)
    _launch(top, draft)
    _servers(top, draft)
    _slurm(top, site, draft)
    _mounts(top, site, draft)
    _environment(top, draft)
    _patience(top, draft)
    draft.lose_rest(top, _KNOWN)
    if site is not None:
        draft.put("network.interface", site.text("network_interface"))
        for table in ("model_paths", "containers"):
            # Aliases that the recipe does not use are no part of it.
            site.value(table)
        draft.lose_rest(site, _KNOWN)


def _refuse_others(top: Fields, document: Document) -> None:
    for key in ("engine", "backend"):
        found = top.section.get(key)
        kind = getattr(found.value, "text", None) if found is not None else None
        if kind is None and found is not None:
            kind = top.inner(key).text("type")
        elif kind is not None:
            top.entry(key)
        if kind is not None and kind != "trtllm":
            raise InputError(f"{document.name} is a recipe for {kind}: only those with `trtllm` can be imported")


def _model(top: Fields, site: Fields | None, draft: Draft) -> None:
    model = top.inner("model")
    path, image = model.text("path"), model.text("container")
    if draft.wishes.model is None and path is not None:
        draft.data["model"] = _resolved("model.path", "model_paths", path, "--model", model, site, draft)
    image = draft.wishes.image or image
    if image is not None and draft.wishes.image is None:
        image = _resolved("model.container", "containers", image, "--image", model, site, draft)
    draft.put("container.image", image)
    draft.put("container.runtime", "pyxis" if image is not None else None)


def _resolved(key: str, table: str, text: str, option: str, model: Fields, site: Fields | None, draft: Draft) -> str:
    aliases = site.inner(table) if site is not None else None
    found = aliases.text(text) if aliases is not None else None
    if found is not None:
        return found
    if "/" not in text:
        draft.lose(
            key,
            model.at(key.partition(".")[2]),
            f"{text} is an alias of srtslurm.yaml and is kept as it is",
            f"give {option}, or srtslurm.yaml beside the recipe",
        )
    return text


def _launch(top: Fields, draft: Draft) -> None:
    frontend = top.inner("frontend")
    kind = frontend.text("type") or "dynamo"
    if frontend.value("enable_multiple_frontends") is True:
        draft.lose(frontend.named("enable_multiple_frontends"), frontend.origin, *_told("enable_multiple_frontends"))
    draft.put("runtime", _RUNTIMES.get(kind))
    draft.put("launch", "per_server")
    if kind not in _RUNTIMES:
        draft.lose(
            frontend.named("type"), frontend.at("type"), f"there is no front end {kind}", "trtdist's own is used"
        )


def _told(key: str) -> tuple[str, str]:
    said, _, instead = _KNOWN[key].partition("; ")
    return said, instead


def _servers(top: Fields, draft: Draft) -> None:
    resources, backend = top.inner("resources"), top.inner("backend")
    per_node = resources.number("gpus_per_node")
    points = _first_points(top, draft)
    nodes = 0
    for role in _ROLES:
        new = top.inner("roles").inner(role.new)
        old = backend.inner("trtllm_config").inner(role.old)
        taken = new if top.inner("roles").has(role.new) else None
        if taken is None and not resources.has(f"{role.count}_workers") and not old.section.entries:
            continue
        nodes += _one_role(role, resources, taken, old, points, draft)
    draft.put("slurm.gpus_per_node", per_node or None)
    draft.put("slurm.nodes", nodes or None)


def _first_points(top: Fields, draft: Draft) -> dict[str, Any]:
    """What stands for `{tp}` and its like: the first of each list of a sweep, since one topology is one point."""
    sweep = top.inner("sweep")
    lists = {entry.key: sweep.items(entry.key) for entry in sweep.section.entries}
    points = {name: values[0] for name, values in lists.items() if values and not isinstance(values[0], (dict, list))}
    if lists:
        taken = ", ".join(f"{name} {value}" for name, value in points.items())
        why = f"one topology is one point; taken is the first of each list ({taken})" if points else "it has no lists"
        draft.lose("sweep", sweep.origin, why, "set the others with --set, in a run for each")
    return points


def _pointed(value: Any, points: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _pointed(inner, points) for key, inner in value.items()}
    if isinstance(value, list):
        return [_pointed(inner, points) for inner in value]
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        return points.get(value[1:-1], value)
    return value


def _one_role(
    role: _Role, resources: Fields, new: Fields | None, old: Fields, points: dict[str, Any], draft: Draft
) -> int:
    """Take one role over; returns its nodes, 0 when it shares those of another."""
    if new is not None:
        nodes, workers, gpus = (new.number(key) for key in ("nodes", "workers", "gpus"))
        if new.section.get("nodes") is not None and new.text("nodes") == "colocate":
            nodes = 0
        arguments = engine_arguments(new.inner("args"), draft)
        where = new
    else:
        nodes = resources.number(f"{role.count}_nodes")
        workers = resources.number(f"{role.count}_workers")
        gpus = resources.number(f"gpus_per_{role.count}")
        arguments = engine_arguments(old, draft)
        where = resources
    sized = _sized(_pointed(arguments, points), gpus, where, role, draft)
    draft.put(role.section, {"num_instances": workers or 1, **sized})
    return nodes


def _sized(arguments: dict[str, Any], gpus: int, where: Fields, role: _Role, draft: Draft) -> dict[str, Any]:
    ranks = ranks_of(arguments)
    if gpus and ranks == 1 and gpus > 1:
        draft.change(where.named(role.new), where.origin, f"{gpus} GPUs per worker become tensor_parallel_size {gpus}")
        return {**arguments, "tensor_parallel_size": gpus}
    if gpus and gpus != ranks:
        draft.lose(
            where.named(role.new),
            where.origin,
            f"{gpus} GPUs per worker are not the {ranks} ranks of its sizes, which count",
        )
    return arguments


def _slurm(top: Fields, site: Fields | None, draft: Draft) -> None:
    slurm = top.inner("slurm")
    for key, ours, default in (
        ("account", "account", "default_account"),
        ("partition", "partition", "default_partition"),
        ("time_limit", "time", "default_time_limit"),
    ):
        draft.put(f"slurm.{ours}", slurm.text(key) or (site.text(default) if site is not None else None))
    if "gpus_per_node" not in draft.data.get("slurm", {}):
        default_gpus = site.number("gpus_per_node") if site is not None else 0
        draft.put("slurm.gpus_per_node", default_gpus or _GPUS_PER_NODE)
    for key, ours in (("sbatch_directives", "extra_sbatch"), ("srun_options", "extra_srun")):
        options = top.inner(key)
        words = [_option(entry.key, options.text(entry.key)) for entry in options.section.entries]
        draft.put(f"slurm.{ours}", words or None)
        for entry in options.section.entries:
            options.entry(entry.key)


def _option(name: str, value: str | None) -> str:
    return f"--{name}={value}" if value else f"--{name}"


def _mounts(top: Fields, site: Fields | None, draft: Draft) -> None:
    mounts = [str(item) for item in top.items("extra_mount")]
    for where in (top, site) if site is not None else (top,):
        for key in ("container_mounts", "default_mounts"):
            table = where.inner(key)
            mounts += [f"{entry.key}:{table.text(entry.key)}" for entry in table.section.entries]
    for mount in [mount for mount in mounts if "{" in mount]:
        draft.lose("container_mounts", top.at("container_mounts"), f"{mount} holds a variable of srt-slurm")
        mounts.remove(mount)
    for mount in [mount for mount in mounts if mount.startswith("tmpfs:")]:
        why = f"{mount} is a file system of enroot's own and no path"
        draft.lose("extra_mount", top.at("extra_mount"), why, "the size of /dev/shm is the image's or the node's")
        mounts.remove(mount)
    draft.put("container.mounts", mounts or None)


def _environment(top: Fields, draft: Draft) -> None:
    """Variables that all servers have alike; there is one environment for all ranks."""
    tables = [top.inner("roles").inner(role.new).inner("env") for role in _ROLES]
    tables += [top.inner("backend").inner(f"{role.old}_environment") for role in _ROLES]
    tables = [table for table in tables if table.section.entries]
    everywhere = top.inner("environment")
    found = {entry.key: everywhere.text(entry.key) or "" for entry in everywhere.section.entries}
    put_environment([_table(fields) for fields in tables], found, draft)


def _table(fields: Fields) -> Table:
    entries = fields.section.entries
    return Table(fields.path, {entry.key: (fields.text(entry.key) or "", entry.origin) for entry in entries})


def _patience(top: Fields, draft: Draft) -> None:
    check = top.inner("health_check")
    seconds = check.number("max_attempts") * check.number("interval_seconds")
    draft.put("timeouts.ready", float(seconds) if seconds else None)
