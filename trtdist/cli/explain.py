"""`trtdist explain`: what a diagnostic code means, with an example."""

from __future__ import annotations

import difflib
import textwrap

import click

from trtdist.errors import InputError
from trtdist.topology.codes import CODES, Code

__all__ = ["command"]

_WIDTH = 88
_PREFIX = "TRT"


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain a diagnostic CODE such as TRT012; without CODE, list them all."""
    click.echo(_list() if code is None else _explained(_find(code)))


def _find(word: str) -> Code:
    """The code that a person typed, in any case and with or without the letters in front."""
    name = word.strip().upper()
    name = _PREFIX + name.zfill(3) if name.isascii() and name.isdigit() else name
    if name in CODES:
        return CODES[name]
    near = difflib.get_close_matches(name[:16], CODES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "`trtdist explain` lists all codes"
    raise InputError(f"there is no code {word!r}; {hint}")


def _list() -> str:
    return "\n".join(f"{code.code}  {code.title}" for code in CODES.values())


def _explained(code: Code) -> str:
    parts = [f"{code.code}: {code.title}", textwrap.fill(code.text, _WIDTH)]
    parts += ["Wrong:\n\n" + _example(code.wrong), "Right:\n\n" + _example(code.right)]
    return "\n\n".join(parts)


def _example(text: str) -> str:
    """An example, indented; characters that a terminal would act on are shown as escapes."""
    shown = "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
    return textwrap.indent(shown.rstrip("\n"), "    ")
