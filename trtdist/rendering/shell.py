"""The one place where a value becomes shell text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trtdist.errors import InputError

__all__ = ["Directive", "RenderError", "quote", "refuse_reserved"]

_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OF_SBATCH = "\\\"'#"
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
    # shellcheck takes an expansion within plain single quotes for a slip.
    if _CONTROL.search(text) or "$" in text or "`" in text:
        return "$'" + "".join(_escaped(character) for character in text) + "'"
    return "'" + text.replace("'", "'\\''") + "'"


@dataclass(frozen=True)
class Directive:
    """An option of an `#SBATCH` line, which sbatch itself takes apart.

    It knows quotes and backslashes, but not as bash does: a backslash means something within any quotes, and does not
    keep a blank from ending the option (`_get_argument` in Slurm's src/sbatch/opt.c).
    """

    text: str

    def written(self) -> str:
        """The option as it stands in the line; RenderError when a line cannot hold it."""
        if _CONTROL.search(self.text):
            raise RenderError(f"{self.text!r} holds what no #SBATCH line can carry: write it as one line of text")
        if _PLAIN.fullmatch(self.text):
            return self.text
        return '"' + "".join(f"\\{char}" if char in _OF_SBATCH else char for char in self.text) + '"'


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
