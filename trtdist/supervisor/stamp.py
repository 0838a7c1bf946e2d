"""Tells the versions of resolved.env apart, which other nodes may see late. Standard library, Python 3.9.

A task waits until its node sees the version that its launch line has read, or one made of that: the stamp of a version
begins with that of the version before.
"""

from __future__ import annotations

import secrets

__all__ = ["STAMP", "anew", "changed"]

STAMP = "TRTDIST_STAMP"
"""Its name in resolved.env."""


def anew() -> str:
    """The stamp of a version that owes nothing to another."""
    return secrets.token_hex(8)


def changed(stamp: str) -> str:
    """The stamp of the next version."""
    return f"{stamp}.{secrets.token_hex(4)}"
