"""Lines that mean something are found in logs of any shape and size, by grep and without it alike."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path

import pytest

from trtdist.observe import scan as scanning
from trtdist.observe.scan import by_grep, by_hand, scan
from trtdist.observe.signatures import known

WORDS = (b"alpha", b"a.b*", b"gam[ma]")
OOM = b"RuntimeError: CUDA error: out of memory\n"


def lines(seed: int, count: int) -> bytes:
    """Lines of all kinds: empty ones, ones with a word, with bytes that are no text, without an end."""
    choose = random.Random(seed)
    pieces = [
        b"",
        b"alpha",
        b"axb*",
        b"a.b*",
        b"gam[ma]",
        b"gamma",
        b"\xff\x00\xfe",
        b"x" * 300,
        b"\r",
        b"nothing here",
    ]
    text = b"\n".join(b" ".join(choose.choices(pieces, k=choose.randrange(4))) for _ in range(count))
    return text + choose.choice([b"", b"\n"])


@pytest.mark.parametrize("seed", range(8))
def test_both_ways_find_the_same(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_CHUNK", 1 << 10)
    logs = [tmp_path / f"{name}.log" for name in ("a", "b", "c d: 7")]
    for number, log in enumerate(logs):
        log.write_bytes(lines(seed * 10 + number, 200))
    by_hands = [place for log in logs for place in by_hand(log, WORDS)]
    assert by_hands == list(by_grep(logs, WORDS))
    data = logs[0].read_bytes()
    for path, number, offset, text in by_hands:
        if path == logs[0]:
            assert data[offset:].startswith(text) and data[:offset].count(b"\n") == number - 1


@pytest.mark.parametrize("without_grep", [False, True])
def test_a_hit_is_found_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_grep: bool) -> None:
    if without_grep:
        monkeypatch.setenv("PATH", str(tmp_path))
    log = tmp_path / "gen.0.0.log"
    filler = b"[TRT-LLM] [I] iter = 17, host_step_time = 12.3ms\n"
    log.write_bytes(filler * 50_000 + b" 5: \x1b[31m" + OOM + filler * 50_000 + b"progress 10%\rprogress 20%\r" + OOM)
    log.with_suffix(".idx").write_text(f"0 1000.5\n{len(filler) * 60_000} 2000.5\n")
    (tmp_path / "empty.log").touch()
    found = scan([log, tmp_path / "empty.log", tmp_path / "none.log"], known())
    assert [(hit.line, hit.at, hit.text, hit.task) for hit in found.hits] == [
        (50_001, 1000.5, "RuntimeError: CUDA error: out of memory", 5),
        (100_002, 2000.5, "RuntimeError: CUDA error: out of memory", None),
    ]
    assert found.counts == {("gen.0.0", "gpu-memory"): 2}


def test_of_very_many_hits_the_first_and_the_last_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "gen.0.0.log"
    log.write_bytes(OOM * 5_000)
    found = scan([log], known())
    assert found.counts == {("gen.0.0", "gpu-memory"): 5_000}
    assert [hit.line for hit in found.hits][:4] == [1, 2, 3, 4]
    assert found.hits[-1].line == 5_000 and len(found.hits) < 50


def test_a_file_without_an_end_of_line_fits_into_memory(tmp_path: Path) -> None:
    """Grep would keep all of it: it is given less memory than that, and then done without."""
    log = tmp_path / "gen.0.0.log"
    with open(log, "wb") as file:
        file.seek(80 << 20)
        file.write(OOM)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = scan([log], known())
    assert found.counts == {("gen.0.0", "gpu-memory"): 1}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10
    assert os.stat(log).st_blocks < 1 << 10
