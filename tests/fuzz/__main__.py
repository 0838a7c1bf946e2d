"""Fuzzes one target, guided by what it covers, until something is raised or the time is up: `scripts/fuzz` calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["trtdist"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    """Arguments: the target, seconds, and the folder in which what covers more is kept from one time to the next."""
    name, seconds, kept = sys.argv[1:]
    if name not in TARGETS:
        sys.exit(f"there is no target {name!r}: choose one of {', '.join(TARGETS)}")
    corpus = Path(kept) / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=8192", f"-artifact_prefix={kept}/found-{name}-", str(corpus)]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
