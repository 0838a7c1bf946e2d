"""Files of events as somebody else might have left them: no line takes memory without bounds, or hides the next."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trtdist.events import EventReader, EventWriter, Ready


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "canary.jsonl"
    with path.open("wb") as file:
        file.write(b'{"type": "ready", "text": "')
        file.seek(64 << 20)
        file.write(b'"}\n')
    writer = EventWriter(path)
    written = writer.write(Ready(2))
    tracemalloc.start()
    try:
        reader = EventReader(tmp_path)
        assert reader.poll() == [written]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    again = writer.write(Ready(3))
    assert reader.poll() == [again]
    writer.close()


def test_a_line_without_an_end_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "canary.jsonl"
    writer = EventWriter(path)
    reader = EventReader(tmp_path)
    line = b'{"type": "ready", "time": 1, "writer": "canary", "canaries": 1}\n'
    path.write_bytes(line[:20])
    assert reader.poll() == []
    path.write_bytes(line)
    assert [record.event for record in reader.poll()] == [Ready(1)]
    writer.close()


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a disk that is full, a write up to there takes a part of its data, and the next one nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("again", [True, False], ids=["another life", "the same life"])
def test_an_event_of_which_the_disk_took_a_part_is_lost_with_a_word_and_alone(tmp_path: Path, again: bool) -> None:
    path = tmp_path / "canary.jsonl"
    writer = EventWriter(path)
    first = writer.write(Ready(1))
    with no_file_larger_than(path.stat().st_size + 20), pytest.raises(OSError, match="too large"):
        writer.write(Ready(2))
    if again:
        writer.close()
        writer = EventWriter(path)
    last = writer.write(Ready(3))
    assert EventReader(tmp_path).poll() == [first, last]
    writer.close()


def test_a_clock_that_is_set_back_changes_no_writers_order(tmp_path: Path) -> None:
    line = '{{"type": "ready", "time": {}, "writer": "{}", "canaries": {}}}\n'
    told = {"a": [(100, 1), (40, 2), (120, 5)], "b": [(99, 0), (101, 3)], "c": [(102, 4)]}
    for name, lines in told.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(line.format(at, name, count) for at, count in lines))
    events = [record.event for record in EventReader(tmp_path).poll()]
    assert events == [Ready(count) for count in range(6)]
