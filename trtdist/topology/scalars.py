"""Plain YAML values: what they are read as, and what was written.

YAML 1.1 as PyYAML and TensorRT-LLM read it, except where that surprises: `01:00:00` and dates stay text, `1e3` is a
number. The text is kept, so that a field that holds text gets exactly what was written, also for `NO` or `0123`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Union

import yaml

from trtdist.topology.diagnostics import Origin
from trtdist.topology.problems import Problems, shown

__all__ = ["Scalar", "resolve"]

Value = Union[None, bool, int, float, str]

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = (None, "!", *(_TAG + name for name in ("str", "int", "float", "bool", "null")))
_RESOLVERS: dict[str | None, list[tuple[str, Any]]] = yaml.SafeLoader.yaml_implicit_resolvers
_BOOLS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", re.ASCII)
_OCTAL = re.compile(r"[-+]?0[0-9_]+", re.ASCII)
_LARGEST = 2**63
_LONGEST_NUMBER = 64


@dataclass(frozen=True)
class Scalar:
    """A single value: what YAML makes of it and the text that was written.

    `trap` explains why a number was written in a way that readers disagree on.
    """

    value: Value
    text: str
    origin: Origin
    merge: bool = False
    trap: str = ""


def resolve(event: Any, origin: Origin, problems: Problems) -> Scalar:
    """The value of a scalar event."""
    text: str = event.value
    if event.tag not in _SCALAR_TAGS:
        problems.fatal("TRT007", f"the tag {shown(event.tag)} has no meaning here; remove it", origin)
    if event.tag is None and not event.implicit[0]:
        return Scalar(text, text, origin)
    tag = _tag(text) if event.tag is None else event.tag
    if tag == _TAG + "merge":
        return Scalar(text, text, origin, merge=True)
    try:
        value = _value(tag, text)
    except ValueError:
        problems.error("TRT013", f"{shown(text)} is not what its tag says", origin)
        value = text
    if isinstance(value, (int, float)) and not (math.isfinite(value) and -_LARGEST <= value < 2 * _LARGEST):
        problems.error("TRT016", f"{shown(text)} is no number that can be computed with", origin)
        value = 0
    return Scalar(value, text, origin, trap=_trap(tag, text))


def _tag(text: str) -> str:
    if _EXPONENT.fullmatch(text):
        return _TAG + "float"
    if _OCTAL.fullmatch(text):
        # Also 08, which YAML 1.1 takes for a text: whoever writes it means a number.
        return _TAG + "int"
    for tag, pattern in (*_RESOLVERS.get(text[:1], ()), *_RESOLVERS.get(None, ())):
        if pattern.match(text):
            number = tag in (_TAG + "int", _TAG + "float")
            return _TAG + "str" if number and ":" in text else tag
    return _TAG + "str"


def _value(tag: str, text: str) -> Value:
    if tag == _TAG + "null":
        return None
    if tag == _TAG + "bool":
        return _bool(text)
    if tag == _TAG + "int":
        return _int(text)
    if tag == _TAG + "float":
        return _float(text)
    return text


def _bool(text: str) -> bool:
    if text.lower() not in _BOOLS:
        raise ValueError(text)
    return _BOOLS[text.lower()]


def _int(text: str) -> int | float:
    digits = text.replace("_", "")
    if len(digits) > _LONGEST_NUMBER:
        return math.inf
    if _OCTAL.fullmatch(digits):
        return int(digits)
    return int(digits, 0)


def _float(text: str) -> float:
    digits = text.replace("_", "").lower()
    named = digits.lstrip("+-")
    if named in (".inf", ".nan"):
        return math.inf if named == ".inf" else math.nan
    return float(digits)


def _trap(tag: str, text: str) -> str:
    digits = text.replace("_", "").lstrip("+-")
    if tag != _TAG + "int" or not _OCTAL.fullmatch(digits) or not digits.strip("0"):
        return ""
    plain = digits.lstrip("0")
    octal = "a text" if set(digits) & {"8", "9"} else int(digits, 8)
    return f"{text} is {octal} to some readers of YAML and {plain} to others; write {plain} or quote a text"
