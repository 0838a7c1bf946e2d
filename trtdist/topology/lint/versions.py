"""Releases of TensorRT-LLM, as far as arguments of the engine depend on them."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["NEWEST", "OLDEST", "Version", "of_image", "parse", "release_of"]

Minor = tuple[int, int]

OLDEST: Minor = (0, 17)
NEWEST: Minor = (1, 4)
"""The releases that the tables know; 1.3 and 1.4 exist as release candidates only."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)(\.\d+)?((?:a|b|rc|\.dev)\d+)?")
# NVIDIA publishes its images as nvcr.io/nvidia/tensorrt-llm/release:VERSION (README of the repository).
_IMAGE = re.compile(r"(?:^|[/#])tensorrt-llm/release:([^@\s]+)")


@dataclass(frozen=True)
class Version:
    """A release; `early` is true for a candidate, which may still be without what the release brought."""

    text: str
    minor: Minor
    early: bool

    @property
    def known(self) -> bool:
        """Whether the tables say something about it."""
        return OLDEST <= self.minor <= NEWEST


def parse(text: str) -> Version | None:
    """The release that a version names; None when it names none."""
    match = _VERSION.match(text)
    if match is None:
        return None
    return Version(text, (int(match[1]), int(match[2])), early=match[4] is not None)


def of_image(image: str | None) -> Version | None:
    """The release in an image of NVIDIA's, by its tag; None when the tag does not tell."""
    match = _IMAGE.search(image or "")
    return parse(match[1]) if match is not None else None


def release_of(said: str | None, image: str | None) -> Version | None:
    """The release of TensorRT-LLM, as a topology says it or as the tag of its image does."""
    return parse(said) if said is not None else of_image(image)
