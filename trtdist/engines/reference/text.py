"""Prompts to tokens, tokens to text: a prompt is its UTF-8 bytes, an answer is made of words."""

from __future__ import annotations

from trtdist.engines.reference.shape import VOCABULARY, WORDS

__all__ = ["BEGIN", "FIRST_WORD", "StopText", "tokenize", "word"]

BEGIN = 256
FIRST_WORD = VOCABULARY - WORDS

_LEXICON = """
    amber apple ash autumn bell birch bread bridge brook candle cedar cloud copper coral crane dawn
    deer dune ember fern field flint fox frost garden glass grain harbor hazel heron hill honey
    iris island ivory jade lake lantern leaf lily linen maple meadow mill moon moss oak ocean
    olive otter pearl pine plum quill rain reed river rose sage silver snow stone thyme willow
"""
_WORDS = tuple(_LEXICON.split())


def tokenize(prompt: str) -> tuple[int, ...]:
    """The tokens of any text: the beginning, then each byte; lone surrogates count as the bytes they would be."""
    return (BEGIN, *prompt.encode("utf-8", "surrogatepass"))


def word(token: int) -> str:
    """The text of a token of an answer."""
    return f" {_WORDS[token - FIRST_WORD]}"


class StopText:
    """Holds text back as long as it could be the beginning of a stop string.

    Text before the first stop string that appears is given, the stop string and what follows is not.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Add text; gives what is certain not to belong to a stop string."""
        held = self._held + text
        ends = [place for place in map(held.find, self._stops) if place >= 0]
        if ends:
            self.found = True
            self._held = ""
            return held[: min(ends)]
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def rest(self) -> str:
        """What is still held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
