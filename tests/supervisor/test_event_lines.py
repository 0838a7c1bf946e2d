"""Files of events as somebody else might have left them: no line takes memory without bounds, or hides the next."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

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
