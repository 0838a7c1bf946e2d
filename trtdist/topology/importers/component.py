"""One component of a DynamoGraphDeployment: the program that its container runs, and with what.

Forms: a service of nvidia.com/v1alpha1, with `extraPodSpec.mainContainer` and `resources` of its own, and a component
of v1beta1, with a `podTemplate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trtdist.topology.diagnostics import Origin
from trtdist.topology.importers.command import commands
from trtdist.topology.importers.draft import Draft

__all__ = ["FRONTEND", "WORKER", "Component", "component", "variables"]

WORKER = "dynamo.trtllm"
FRONTEND = "dynamo.frontend"
_TAKEN = {
    *("componentType", "env", "envs", "extraPodSpec", "multinode", "name", "podTemplate", "replicas", "resources"),
    *("subComponentType", "type"),
}
_CONTAINER = {"args", "command", "env", "image", "name", "resources"}


@dataclass(frozen=True)
class Component:
    """`program` is WORKER, FRONTEND or "", `role` what its type says: prefill, decode or agg.

    `flags` are by name without dashes, None for those without a value; `gpus` of each pod, 0 when not said; `maps` are
    the ConfigMaps that its pod mounts.
    """

    name: str
    origin: Origin
    program: str
    role: str
    flags: Mapping[str, str | None]
    env: Mapping[str, str]
    image: str | None
    gpus: int
    nodes: int
    replicas: int
    maps: tuple[str, ...]


def component(
    name: str, data: Mapping[str, Any], origin: Origin, everywhere: Mapping[str, str], draft: Draft
) -> Component:
    """Take a component apart, and remark on what is for Kubernetes alone."""
    pod, container = _pod(data)
    env = dict(everywhere)
    for listed in (data.get("envs"), data.get("env"), container.get("env")):
        env.update(variables(listed))
        for variable in _without_value(listed):
            why = "its value is not in the manifest"
            draft.lose(f"{name}.env.{variable}", origin, why, "set it in container.env")
    program, flags = _command(container, env)
    kinds = [data.get(key) for key in ("subComponentType", "type", "componentType")]
    if not program and "frontend" in kinds:
        program = FRONTEND
    for key in data:
        if key not in _TAKEN:
            draft.lose(f"{name}.{key}", origin, "it is for Kubernetes")
    ignored = sorted({*(pod.keys() - {"mainContainer", "containers"}), *(container.keys() - _CONTAINER)})
    ignored += [f"container {each.get('name')}" for each in _containers(pod) if each is not container]
    if ignored:
        draft.lose(f"{name}.pod", origin, f"there are no pods, with {', '.join(ignored)}")
    image = container.get("image")
    counts = _Counts(name, origin, draft)
    return Component(
        name=name,
        origin=origin,
        program=program,
        role=next((kind for kind in kinds if kind in ("prefill", "decode")), "agg"),
        flags=flags,
        env=env,
        image=image if isinstance(image, str) else None,
        gpus=counts.gpus(data) or counts.gpus(container),
        nodes=counts.number("multinode.nodeCount", _mapping(data.get("multinode")).get("nodeCount"), 1),
        replicas=counts.number("replicas", data.get("replicas"), 1),
        maps=tuple(_maps(pod)),
    )


def variables(listed: Any) -> dict[str, str]:
    """Variables of a list of names and values; those that Kubernetes gives, and null, have none."""
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {str(entry["name"]): str(entry["value"]) for entry in entries if "name" in entry and _has_value(entry)}


def _has_value(entry: Mapping[str, Any]) -> bool:
    return entry.get("value") is not None


def _without_value(listed: Any) -> Iterator[str]:
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and "name" in entry and not _has_value(entry):
            yield str(entry["name"])


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class _Counts:
    """Reads the counts of a component, and remarks on what is none."""

    name: str
    origin: Origin
    draft: Draft

    def number(self, key: str, value: Any, default: int) -> int:
        """A number of 1 to 999999, also 0 when that is the default; the default for None and what is none."""
        if value is None:
            return default
        if re.fullmatch(r"[0-9]{1,6}", str(value)) and int(value) >= min(default, 1):
            return int(value)
        why = f"{value} is no whole number from {min(default, 1)} to 999999"
        self.draft.lose(f"{self.name}.{key}", self.origin, why, f"{default} stands in its place" if default else "")
        return default

    def gpus(self, holder: Mapping[str, Any]) -> int:
        """The GPUs of the resources of a component or container."""
        resources = _mapping(holder.get("resources"))
        limits = _mapping(resources.get("limits")) or _mapping(resources.get("requests"))
        return self.number("resources.gpu", limits.get("gpu", limits.get("nvidia.com/gpu")), 0)


def _pod(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specification of the pod and the container in it that matters."""
    extra = _mapping(data.get("extraPodSpec"))
    if extra:
        return extra, _mapping(extra.get("mainContainer"))
    pod = _mapping(_mapping(data.get("podTemplate")).get("spec"))
    main = [each for each in _containers(pod) if each.get("name") == "main"] or _containers(pod)
    return pod, main[0] if main else {}


def _containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = pod.get("containers")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _maps(pod: Mapping[str, Any]) -> Iterator[str]:
    volumes = pod.get("volumes")
    for volume in volumes if isinstance(volumes, list) else []:
        name = _mapping(_mapping(volume).get("configMap")).get("name")
        if name is not None:
            yield str(name)


def _command(container: Mapping[str, Any], env: Mapping[str, str]) -> tuple[str, dict[str, str | None]]:
    """The program of Dynamo that a container runs, directly or through a shell, and its flags."""
    listed: list[str] = []
    for key in ("command", "args"):
        value = container.get(key)
        listed += map(str, value) if isinstance(value, list) else [value] if isinstance(value, str) else []
    found = list(commands(listed, env))
    for program in (WORKER, FRONTEND):
        for words in found:
            if program in words:
                return program, _flags(words[words.index(program) + 1 :])
    return "", {}


def _flags(words: list[str]) -> dict[str, str | None]:
    flags: dict[str, str | None] = {}
    last = None
    for word in words:
        if word.startswith("--"):
            last, mark, value = word[2:].partition("=")
            flags[last] = value if mark else None
        elif last is not None and flags[last] is None:
            flags[last] = word
    return flags
