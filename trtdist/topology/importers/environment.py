"""The one environment of a deployment, from those that its roles have elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trtdist.topology.diagnostics import Origin
from trtdist.topology.importers.draft import Draft

__all__ = ["Table", "put_environment"]


@dataclass(frozen=True)
class Table:
    """The variables of one role, and where each is written."""

    path: str
    values: Mapping[str, tuple[str, Origin]]


def put_environment(tables: Sequence[Table], everywhere: Mapping[str, str], draft: Draft) -> None:
    """Keep `everywhere` and what all roles have alike, since all ranks have one environment; remark on the others."""
    found = dict(everywhere)
    for table in tables:
        for name, (value, origin) in table.values.items():
            if all(other.values.get(name, ("", origin))[0] == value and name in other.values for other in tables):
                found[name] = value
            else:
                draft.lose(
                    f"{table.path}.{name}",
                    origin,
                    "is not alike for all servers, and all ranks have one environment",
                    "add it to container.env if it may be everywhere",
                )
    draft.put("container.env", found or None)
