"""A mapping that never changes and is cheap to change: for facts of which there are as many as servers.

Standard library, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["Overlay"]

Value = TypeVar("Value")


class Overlay(Mapping[str, Value], Generic[Value]):
    """A mapping in its first order, with what changed lately on top.

    A change copies what changed lately, and everything only once that has grown to the square root of it. So the
    cost of a change hardly grows with the number of keys: a copied dict of 4,000 keys takes far longer.
    """

    __slots__ = ("_base", "_late")

    def __init__(self, base: Mapping[str, Value], late: Mapping[str, Value] | None = None) -> None:
        self._base = base
        self._late: Mapping[str, Value] = {} if late is None else late

    def having(self, key: str, value: Value) -> Overlay[Value]:
        """The same with one key changed or added."""
        late = {**self._late, key: value}
        if len(late) ** 2 <= len(self._base):
            return Overlay(self._base, late)
        return Overlay({**self._base, **late})

    def __getitem__(self, key: str) -> Value:
        late = self._late
        return late[key] if key in late else self._base[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._base
        yield from (key for key in self._late if key not in self._base)

    def __len__(self) -> int:
        return sum(1 for _ in self)
