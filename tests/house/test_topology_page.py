"""docs/topology.md has every key of the topology file and of the site profile, with its default, and no other."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.house.source import ROOT
from tests.house.topology_tables import expected
from trtdist.topology import load
from trtdist.topology.names import ALIASES


def written() -> dict[str, list[str]]:
    """The lines of each table of the page by the heading above it."""
    tables: dict[str, list[str]] = {}
    heading = ""
    for line in (ROOT / "docs" / "topology.md").read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            tables.setdefault(heading, []).append(line)
    return tables


def test_the_page_has_every_key_and_no_other() -> None:
    found, wanted = written(), expected()
    for heading, lines in wanted.items():
        assert found.get(heading) == lines, f"the table of {heading} must be:\n" + "\n".join(lines)
    assert set(found) == set(wanted)


def test_the_page_has_every_other_spelling() -> None:
    page = (ROOT / "docs" / "topology.md").read_text()
    assert [alias for aliases in ALIASES.values() for alias in aliases if f"`{alias}`" not in page] == []


def test_the_first_example_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "topology.md").read_text()
    block = next(part for part in page.split("\n\n") if part.startswith("    name:"))
    (tmp_path / "a.yaml").write_text(textwrap.dedent(block))
    assert load(tmp_path / "a.yaml", environ={}).world_size == 4
