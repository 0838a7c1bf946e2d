"""Points in time as a person writes and reads them."""

from __future__ import annotations

import re
from datetime import datetime

from trtdist.errors import InputError

__all__ = ["clock", "parse_since", "span"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AGO = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_EPOCH = re.compile(r"\d{1,12}(?:\.\d+)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def parse_since(text: str, now: float, option: str = "--since") -> float:
    """Seconds since the epoch of `5m` or `1h30m` (ago), `2026-11-24T10:15` (local if without offset), `1795512900`."""
    if _AGO.fullmatch(text):
        return now - sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(text))
    try:
        return float(text) if _EPOCH.fullmatch(text) else _timestamp(text)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{option} {text!r} is no time: write how long ago (30s, 5m, 1h30m, 2d), a date and time "
            "(2026-11-24T10:15:00) or seconds since the epoch"
        ) from error


def span(seconds: float) -> str:
    """A length of time in two units at most: `8.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    whole = int(seconds)
    for big, small, large_name, small_name in ((86400, 3600, "d", "h"), (3600, 60, "h", "min")):
        if whole >= big:
            return f"{whole // big} {large_name} {whole % big // small} {small_name}"
    return f"{whole // 60} min {whole % 60} s"


def clock(seconds: float) -> str:
    """A point in time, in local time: `2026-11-24 10:15`."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text)).timestamp()
