"""`python -m tests.faults.load RUN`: a steady load from within a small machine, whose network nobody else reaches.

Prints what was answered by the time that answers flow, and, once its input ends, all requests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.steady_load import Load, Outcome, steady_load
from tests.end_to_end.workplace import ROOT, Workplace

__all__ = ["STREAMS", "load_by", "load_inside"]

STREAMS = 4


@contextmanager
def load_inside(place: Workplace) -> Iterator[Load]:
    """A load from inside of a workplace's machine while in `with`; its last outcomes are there afterwards."""
    run = place.folder / "runs" / place.runs()[-1].name
    with load_by([*place.inside, sys.executable], run, place.environ) as load:
        yield load


@contextmanager
def load_by(python: Sequence[str], run: Path, environ: Mapping[str, str] | None = None) -> Iterator[Load]:
    """A load that a Python makes elsewhere."""
    load = Load(run)
    with subprocess.Popen(
        [*python, "-m", "tests.faults.load", run],
        env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as asking:  # fmt: skip
        try:
            assert asking.stdout is not None
            load.outcomes += _outcomes(asking.stdout.readline())
            yield load
        finally:
            rest = asking.communicate()[0]
    assert asking.returncode == 0, "requests were lost without an error"
    load.outcomes[:] = _outcomes(rest)


def _outcomes(text: str) -> list[Outcome]:
    return [Outcome(**each) for each in json.loads(text)]


def main(folder: Path) -> None:
    """Ask until the input ends."""
    with steady_load(folder, STREAMS) as load:
        _print(load)
        sys.stdin.read()
    _print(load)


def _print(load: Load) -> None:
    print(json.dumps([asdict(each) for each in load.outcomes]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
