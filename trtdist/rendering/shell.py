"""The one place where a value becomes shell text."""

from __future__ import annotations

import re

from trtdist.errors import InputError

__all__ = ["RenderError", "quote", "refuse_reserved"]

_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

# Bash keeps these for itself: an assignment fails, is lost, or (RANDOM, SECONDS ...) is computed as arithmetic, which
# can run commands.
_OF_BASH = re.compile(
    "BASH.*|DIRSTACK|EPOCHREALTIME|EPOCHSECONDS|EUID|FUNCNAME|GROUPS|HISTCMD|LINENO|OPTIND|PIPESTATUS|PPID|RANDOM|"
    "SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID|_"
)
_OURS = {"NATS_SERVER": "services.nats.external", "ETCD_ENDPOINTS": "services.etcd.external"}


class RenderError(InputError):
    """What was asked for cannot be written as a script."""


def quote(value: str | int) -> str:
    """One word of bash that stands for exactly this value, always on one line, so that it is safe in comments too."""
    text = str(value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise RenderError(f"{text!r} holds what no shell script can carry (NUL or half of a surrogate pair)")
    if _PLAIN.fullmatch(text):
        return text
    if _CONTROL.search(text):
        return "$'" + "".join(_escaped(character) for character in text) + "'"
    return "'" + text.replace("'", "'\\''") + "'"


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\{ord(character):03o}" if _CONTROL.match(character) else character


def refuse_reserved(name: str) -> None:
    """RenderError when an environment variable of container.env could not reach a rank unchanged."""
    if name in _OURS:
        raise RenderError(f"container.env cannot set {name}: every run sets it; {_OURS[name]} names another server")
    if name.startswith("TRTDIST_"):
        raise RenderError(f"container.env cannot set {name}: names with TRTDIST_ belong to the run; choose another")
    if _OF_BASH.fullmatch(name):
        raise RenderError(f"container.env cannot set {name}: bash keeps this name for itself; choose another")
