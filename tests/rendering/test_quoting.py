"""Whatever the value, bash gets exactly it, as one word on one line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.rendering.shell import RenderError, quote, refuse_reserved
from trtdist.rendering.templates import folder

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
METACHARACTERS = st.text(st.sampled_from(" \t\n\r'\"\\$`!#~*?[]{}()<>|&;=%-aé漢\x01\x7f\u2028"))


def echoed(script: str, *, posix: bool = False) -> list[str]:
    options = ["--posix"] if posix else []
    done = subprocess.run(["bash", *options, "-c", script], capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXT | METACHARACTERS, min_size=20, max_size=60))
def test_values_arrive_unchanged(values: list[str]) -> None:
    words = " ".join(quote(value) for value in values)
    assert "\n" not in words
    assert echoed(f"printf '%s\\0' {words}") == values
    assert echoed(f"# {words}\nprintf '%s\\0' x") == ["x"]


def test_every_ascii_character_arrives() -> None:
    values = [chr(code) for code in range(1, 128)] + [chr(code) + "0" for code in range(1, 128)]
    words = " ".join(quote(value) for value in values)
    assert echoed(f"printf '%s\\0' {words}") == values
    assert echoed(f"printf '%s\\0' {words}", posix=True) == values


@pytest.mark.parametrize("value", ["ctx.0", "nats://127.0.0.1:4222", "0,1", "/a/b-c_d", 7])
def test_plain_values_stay_readable(value: str | int) -> None:
    assert quote(value) == str(value)


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_what_no_script_can_carry_is_refused(value: str) -> None:
    with pytest.raises(RenderError):
        quote(value)


def kept_by_bash() -> set[str]:
    """Variables whose assignment fails, is lost or says something, as this bash does it."""
    found = echoed("printf '%s\\0' $(compgen -v) BASH_ARGV0 BASH_COMPAT BASH_XTRACEFD COLUMNS DIRSTACK GROUPS IFS _")
    kept = set()
    for name in found:
        script = f"set -euo pipefail\nexport {name}='some text'\nset -- a\nexec /usr/bin/env -0"
        done = subprocess.run(["bash", "-c", script], capture_output=True)
        if f"{name}=some text".encode() not in done.stdout.split(b"\0") or done.stderr:
            kept.add(name)
    return kept


def test_variables_that_bash_keeps_are_refused() -> None:
    kept = {name for name in kept_by_bash() if not name.startswith("LC_")}
    assert {"UID", "RANDOM", "SHLVL", "GROUPS"} <= kept
    for name in kept:
        with pytest.raises(RenderError, match="bash keeps this name"):
            refuse_reserved(name)


@pytest.mark.parametrize("name", ["HF_HOME", "PATH", "PYTHONPATH", "IFS", "LC_ALL", "task", "__", "UIDS"])
def test_other_variables_are_taken(name: str) -> None:
    refuse_reserved(name)


@pytest.mark.parametrize("name", ["TRTDIST_RUN_DIR", "NATS_SERVER", "ETCD_ENDPOINTS"])
def test_variables_of_the_run_are_refused(name: str) -> None:
    with pytest.raises(RenderError, match=name):
        refuse_reserved(name)


@pytest.mark.parametrize("template", sorted(folder().glob("*.sh.j2")), ids=lambda path: path.name)
def test_no_template_prints_a_value_within_quotes(template: Path) -> None:
    for line in template.read_text().splitlines():
        if line.lstrip().startswith("#"):
            continue
        within = ""
        # What stands between quotes on one line; templates have no quotes over several lines.
        for piece in re.findall(r"\{\{.*?\}\}|\{%.*?%\}|.", line):
            if piece.startswith("{{"):
                assert not within, f"{template.name}: {line.strip()}"
            elif piece in ("'", '"') and within in ("", piece):
                within = "" if within else piece


@pytest.mark.parametrize("template", sorted(folder().glob("*.j2")), ids=lambda path: path.name)
def test_templates_use_nothing_that_escapes_the_quoting(template: Path) -> None:
    text = template.read_text()
    for word in ("|safe", "macro", "call", "super(", "{% raw", "~"):
        assert word not in text, word
