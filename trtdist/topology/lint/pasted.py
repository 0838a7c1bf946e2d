"""What a pasted disaggregated configuration says in keys that nothing reads here, and that shows a slip in the rest."""

from __future__ import annotations

from trtdist.topology.nodes import Items, Section
from trtdist.topology.problems import Problems, shown
from trtdist.topology.scalars import Scalar

__all__ = ["pasted"]

_SIDES = ("context_servers", "generation_servers")


def pasted(root: Section, problems: Problems) -> None:
    """Note URLs that stand twice, and lists of them that contradict `num_instances`."""
    seen: dict[str, str] = {}
    for key in _SIDES:
        urls = _urls(root, key)
        for url in urls:
            text = url.text
            if text in seen:
                problems.warning(
                    "TRT232",
                    f"the URL {shown(text)} stands in {seen[text]} and again in {key}; each server is one of its own "
                    "here, so a server for both roles would be `servers`",
                    url.origin,
                )
            seen.setdefault(text, key)
        _counted(root, key, len(urls), problems)


def _urls(root: Section, key: str) -> list[Scalar]:
    entry = root.get(key)
    urls = entry.value.get("urls") if entry is not None and isinstance(entry.value, Section) else None
    found = urls.value.items if urls is not None and isinstance(urls.value, Items) else ()
    return [url for url in found if isinstance(url, Scalar)]


def _counted(root: Section, key: str, urls: int, problems: Problems) -> None:
    entry = root.get(key)
    if not urls or entry is None or not isinstance(entry.value, Section):
        return
    said = entry.value.get("num_instances")
    number = said.value.value if said is not None and isinstance(said.value, Scalar) else 1
    if number != urls:
        origin = said.origin if said is not None else entry.origin
        problems.warning(
            "TRT232",
            f"{key} has {urls} urls and num_instances {number}; num_instances counts here: did you mean {urls}?",
            origin,
        )
