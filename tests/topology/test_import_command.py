"""Commands of a container fall into the words that a shell, or Kubernetes without one, gives to a program."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.topology.importers.command import commands

ENV = {"NAME": "org/model", "BLANK": "two words", "QUOTE": 'it\'s "7"', "ARGS": " --a 1\t--b "}
SHOWN = "show() { printf '%s\\n' \"$@\"; }\n"


def shown(text: str) -> list[str]:
    """What a shell gives to the command `show`."""
    called = subprocess.run(["sh", "-c", SHOWN + text], env=ENV, capture_output=True, text=True, check=True)
    return called.stdout.splitlines()


@pytest.mark.parametrize(
    "text",
    [
        "show --model a\ntrue --model b",
        "show --model a; true",
        "show --model a& wait",
        "show --model a&& true",
        "show --model a|cat",
        "(show --model a)",
        "true; show --flag > /dev/stdout --model a 2>&1",
        "show --flag 2>/dev/null --model a2>/dev/stdout",
        'show --model $NAME --name=${NAME}-x "$NAME\'s" \'it is $NAME\' \\$NAME "\\$NAME"',
        'show $BLANK "$BLANK" x$BLANK"y" "$QUOTE" $ARGS x$ARGS"y" ""',
        "# it's a comment; show no\nshow a#b # isn't it\ntrue",
        'show --model \\\n  a\\\nb "c\\\nd" \'a b\'"c d"\\ e',
    ],
)
def test_words_are_those_of_a_shell(text: str) -> None:
    (words,) = [words for words in commands(["/bin/sh", "-c", text], ENV) if "show" in words]
    expected = shown(text)
    assert expected and words[words.index("show") + 1 :] == expected


def test_without_a_shell_only_kubernetes_puts_variables_in() -> None:
    given = ["python3", "$(NAME)", "$NAME", "${NAME}", "a;b", "$(QUOTE)", "$(OTHER)", "x > y"]
    expected = ["python3", "org/model", "$NAME", "${NAME}", "a;b", ENV["QUOTE"], "$(OTHER)", "x > y"]
    assert list(commands(given, ENV)) == [expected]
    assert list(commands(["bash", "-c", "run $(NAME) $(OTHER) $((1 + 2))"], ENV)) == [
        ["bash", "-c", "run", "org/model", "$(OTHER)", "$((1 + 2))"]
    ]


@given(st.lists(st.text(st.sampled_from("a1 '\"\\$#;&|<>(){}~\n=-")), min_size=1, max_size=4))
def test_quoted_words_come_back(words: list[str]) -> None:
    assert list(commands([shlex.join(["run", *words])], {})) == [["run", *words]]


@given(st.text(st.sampled_from("aN '\"\\$#;&|<>(){}\n2")))
def test_any_text_has_words(text: str) -> None:
    found = [word for words in commands(["sh", "-c", text], {"N": "a"}) for word in words]
    assert found[:2] == ["sh", "-c"]
