"""The jinja2 environment refuses what would make a wrong script."""

from __future__ import annotations

import jinja2
import pytest

from trtdist.rendering.templates import _environment, folder


def printed(template: str, **values: object) -> str:
    return _environment().from_string(template).render(values)


def test_every_value_is_quoted() -> None:
    assert printed("echo {{ a }} {{ b.c }}", a="$(x)", b={"c": "two words"}) == "echo $'$(x)' 'two words'"


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        printed("echo {{ nothing }}")
    with pytest.raises(jinja2.UndefinedError):
        printed("echo {{ a.nothing }}", a={})


@pytest.mark.parametrize("value", [None, True, 1.5, ["a"], {"a": 1}, object()])
def test_only_text_and_whole_numbers_are_printed(value: object) -> None:
    with pytest.raises(TypeError, match="have a place in a script"):
        printed("echo {{ a }}", a=value)


def test_templates_are_found() -> None:
    assert (folder() / "workers.task.sh.j2").is_file()
