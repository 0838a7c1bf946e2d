"""Which release this poses as. tensorrt_llm/version.py."""

from __future__ import annotations

import os

RELEASE = os.environ.get("STANDIN_RELEASE", "1.2.0")
NUMBER = tuple(int(part) for part in RELEASE.split(".")[:2])

__version__ = f"{RELEASE}+stand-in"
