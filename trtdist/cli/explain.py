"""`trtdist explain`: what a diagnostic code means, with an example, or a signature of `trtdist why`."""

from __future__ import annotations

import difflib
import textwrap

import click

from trtdist.errors import InputError
from trtdist.observe.signatures import Signature, known
from trtdist.topology.codes import CODES, Code

__all__ = ["command"]

_WIDTH = 88
_PREFIX = "TRT"


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain a diagnostic CODE such as TRT012, or a signature such as gpu-memory; without CODE, list them all."""
    if code is not None and code in known():
        click.echo(_signature(known()[code]))
        return
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
    codes = [f"{code.code}  {code.title}" for code in CODES.values()]
    width = max(len(each.code) for each in known().all)
    return "\n".join([*codes, "", *(f"{each.code:<{width}}  {each.meaning}" for each in known().all)])


def _explained(code: Code) -> str:
    parts = [f"{code.code}: {code.title}", textwrap.fill(code.text, _WIDTH)]
    parts += ["Wrong:\n\n" + _example(code.wrong), "Right:\n\n" + _example(code.right)]
    return "\n\n".join(parts)


def _signature(signature: Signature) -> str:
    said = "certain" if signature.kind == "cause" else signature.kind
    parts = [f"{signature.code} ({said}): {signature.meaning}", f"What to do: {signature.remedy}"]
    parts += ["A line that means it:\n\n" + _example(signature.example), f"Known from: {signature.source}"]
    return "\n\n".join(textwrap.fill(part, _WIDTH) if "\n" not in part else part for part in parts)


def _example(text: str) -> str:
    """An example, indented; characters that a terminal would act on are shown as escapes."""
    shown = "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
    return textwrap.indent(shown.rstrip("\n"), "    ")
