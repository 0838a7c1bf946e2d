"""The jinja2 environment: every value that a template prints is quoted for the shell, none can be forgotten."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

import trtdist
from trtdist.rendering.shell import Directive, quote

__all__ = ["folder", "render"]


def folder() -> Path:
    """Where the templates lie: in the installed package, or beside it in a checkout."""
    package = Path(trtdist.__file__).parent
    installed = package / "_templates"
    return installed if installed.is_dir() else package.parent / "templates"


def render(template: str, **values: Any) -> str:
    """The text of a template; jinja2.UndefinedError when it prints a value that was not given."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder()),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        # The usual `{#` is bash's ${#array[@]}.
        comment_start_string="<#",
        comment_end_string="#>",
    )


def _finalize(value: object) -> str:
    if isinstance(value, jinja2.Undefined):
        return str(value)
    if isinstance(value, Directive):
        return value.written()
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(f"a template prints {value!r}; only text and whole numbers have a place in a script")
    return quote(value)
