"""What is written about the project is true of it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import click
import pytest

from tests.house.source import ROOT, tracked
from trtdist import errors
from trtdist.cli.main import COMMANDS

COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text()
PAGES = [path for path in tracked() if path.suffix == ".md"]


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {anchor(match) for match in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, place = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{target} is not there"
        assert not place or place in anchors(file), f"{target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_and_examples_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"\b(?:scripts|examples|benchmarks)/[\w./-]*\w", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def rows_with_sources() -> list[list[str]]:
    """The rows of the tables whose last column is the source, of the page on TensorRT-LLM."""
    text = (ROOT / "docs" / "tensorrt-llm-support.md").read_text()
    tables = re.findall(r"^\|.*\bsource \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [row.strip("|").split("|") for table in tables for row in table.splitlines()]


def test_each_assumption_about_tensorrt_llm_has_a_source() -> None:
    rows = rows_with_sources()
    assert len(rows) > 40
    without = [row[0].strip() for row in rows if not re.search(r"\w{3}", row[-1])]
    assert without == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_exists_and_is_documented(name: str) -> None:
    command = importlib.import_module(f"trtdist.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.help
    assert f"`trtdist {name}" in COMMANDS_PAGE


def test_each_exit_code_is_documented() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.TrtdistError)]
    documented = set(re.findall(r"^\| (\d+) \|", COMMANDS_PAGE, re.MULTILINE))
    assert {str(kind.exit_code) for kind in kinds} | {"0"} == documented


def options(command: click.Command) -> set[str]:
    """The options of a command and of the commands within it."""
    own = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    if not isinstance(command, click.Group):
        return own
    context = click.Context(command)
    inner = [command.get_command(context, name) for name in command.list_commands(context)]
    return own.union(*(options(each) for each in inner if each is not None))


def test_options_that_are_shown_exist() -> None:
    for name, rest in re.findall(r"trtdist (\w+)([^\n|`]*)", COMMANDS_PAGE + (ROOT / "README.md").read_text()):
        if name not in COMMANDS:
            continue
        command = importlib.import_module(f"trtdist.cli.{name}").command
        known = options(command)
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", re.split(r"&&| # ?| -- ", rest)[0]):
            assert option in known | {"--help"}, f"trtdist {name} has no {option}"


def test_continuous_integration_runs_what_the_readme_names() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == 1 and "scripts/test" in lines[0]
    assert "scripts/test" in (ROOT / "README.md").read_text()
