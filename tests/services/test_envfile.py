"""Files of assignments survive the way through bash."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.errors import TrtdistError
from trtdist.services.envfile import format_env, parse_env, read_env, read_env_or_nothing, write_env

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))
NASTY = """$(touch x) `id` 'a' "b" \\ ; & | # * ? ~ ! {a,b} é 漢 \t \r \n end """


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), TEXT))
def test_what_is_written_is_read(values: dict[str, str]) -> None:
    assert parse_env(format_env(values)) == values


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT | st.just(NASTY), min_size=1, max_size=20))
def test_bash_reads_what_is_written(found: list[str]) -> None:
    values = {f"V{number}": value for number, value in enumerate(found)}
    script = "set -a; . /dev/stdin; exec env -0"
    done = subprocess.run(["bash", "-c", script], input=format_env(values).encode(), capture_output=True, env={})
    assert done.stderr == b""
    seen = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    assert {name: seen.get(name) for name in values} == values


def test_what_no_variable_can_hold_is_refused() -> None:
    for values in ({"A": "a\0b"}, {"1A": ""}, {"A B": ""}, {"A\n": ""}):
        with pytest.raises(ValueError):
            format_env(values)


@pytest.mark.parametrize("text", ["A", "A=1 B", "=1", "A='", "1=2"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_env(text)


def test_comments_and_export_lists() -> None:
    assert parse_env("# a comment\n\nA=1 # more\nA=2\n") == {"A": "2"}


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    write_env(path, {"A": NASTY})
    assert read_env(path) == {"A": NASTY}
    assert read_env_or_nothing(path) == {"A": NASTY}
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"A=\xff\n")
    with pytest.raises(TrtdistError, match="is damaged"):
        read_env(path)
    with pytest.raises(TrtdistError, match="cannot be read"):
        read_env(tmp_path)
    assert read_env_or_nothing(path) == {}
    assert read_env_or_nothing(tmp_path / "none") == {}
