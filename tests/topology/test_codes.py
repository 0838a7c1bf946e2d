"""Every code is explained by examples that do what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import trtdist.topology
from trtdist.topology import Checked
from trtdist.topology.codes import CODES, Code
from trtdist.topology.lint.arguments_table import ARGUMENTS

Check = Callable[..., Checked]


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_examples_show_the_code(checked: Check, code: Code) -> None:
    assert code.title and code.text
    if code.wrong.startswith("$ "):
        assert code.right.startswith("$ trtdist ")
        return
    assert {found.code for found in checked(code.wrong).diagnostics} == {code.code}
    assert checked(code.right).diagnostics == ()


def test_every_code_that_is_used_is_explained() -> None:
    folder = Path(trtdist.topology.__file__).parents[1]
    sources = [*(folder / "topology").rglob("*.py"), *(folder / "cli").glob("*.py")]
    used = {code for path in sources for code in re.findall(r"TRT\d{3}", path.read_text())}
    assert used == set(CODES)


def release(minor: tuple[int, int] | None) -> str:
    return "" if minor is None else f"{minor[0]}.{minor[1]}"


def test_the_reference_has_the_table_of_arguments() -> None:
    text = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
    wanted = [
        "| "
        + " | ".join(
            (f"`{row.path}`", *map(release, (row.not_in, row.first, row.last, row.gone)), row.instead, row.source)
        )
        + " |"
        for row in ARGUMENTS
    ]
    assert re.findall(r"^\| `.*$", text, re.MULTILINE) == wanted, "\n".join(wanted)


def test_the_reference_lists_every_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
    told = re.findall(r"^\| (TRT\d{3}) \| (.*) \|$", text, re.MULTILINE)
    assert told == [(code.code, code.title) for code in CODES.values()]
