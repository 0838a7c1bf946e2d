"""Reading logs that grow, are cut, replaced, or are not there yet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.observe.tail import MAX_LINE, Tail, TimeIndex, offset_since, tail_offset


def last_lines(path: Path, count: int) -> list[str]:
    """What lies from the offset of the last lines on."""
    return [text for _, text in Tail(path, tail_offset(path, count)).read_all()]


def texts(tail: Tail) -> list[str]:
    return [text for _, text in tail.read()]


def test_a_line_is_given_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    tail = Tail(path)
    assert texts(tail) == []
    path.write_text("one\ntw")
    assert texts(tail) == ["one"]
    with open(path, "a") as file:
        file.write("o\nthree")
    assert texts(tail) == ["two"]
    assert [text for _, text in tail.finish()] == ["three"]
    assert list(tail.finish()) == []


def test_a_file_that_was_cut_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\n")
    tail = Tail(path)
    texts(tail)
    path.write_text("new\n")
    assert texts(tail) == ["new"]


def test_a_file_that_was_replaced_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\n")
    tail = Tail(path)
    texts(tail)
    path.rename(tmp_path / "a.log.1")
    assert texts(tail) == []
    path.write_text("a longer line in a new file\n")
    assert texts(tail) == ["a longer line in a new file"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\xff\xfe ok\r\n\x00\n")
    assert texts(Tail(path)) == ["�� ok", "\x00"]


def test_a_file_without_ends_of_line_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * (3 * MAX_LINE))
    tail = Tail(path)
    pieces = [text for _, text in tail.read_all()]
    assert len(pieces) > 1
    assert sum(map(len, pieces)) == 3 * MAX_LINE
    assert max(map(len, pieces)) <= MAX_LINE + (1 << 16)


_LINES = st.lists(st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]), max_size=8))


@given(_LINES, st.integers(0, 12), st.booleans())
def test_the_last_lines_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], count: int, ended: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "last.log"
    path.write_text("\n".join(lines) + ("\n" if ended and lines else ""))
    whole = path.read_text().split("\n")
    if whole[-1] == "":
        whole.pop()
    assert last_lines(path, count) == (whole[-count:] if count else [])


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_in_pieces_or_at_once_the_lines_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.log"
    path.write_bytes(b"")
    tail = Tail(path)
    grown = []
    for piece in pieces:
        with open(path, "ab") as file:
            file.write(piece)
        grown += list(tail.read())
    grown += list(tail.finish())
    assert grown == list(Tail(path).read_all())
    data = b"".join(pieces)
    assert all(offset == 0 or data[offset - 1 : offset] == b"\n" for offset, _ in grown)


def test_the_last_lines_of_a_large_file_are_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with open(path, "wb") as file:
        file.truncate(1 << 36)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    assert last_lines(path, 2) == ["last but one", "last"]
    assert tail_offset(path, 0) == path.stat().st_size


def test_since(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("0123456789\n" * 10)
    (tmp_path / "a.idx").write_text("0 100.0\n11 101.5\nnonsense\n22 104\n")
    os.utime(log, (104.5, 104.5))
    assert offset_since(log, 99) == 0
    assert offset_since(log, 101.5) == 11
    assert offset_since(log, 101.51) == 11
    assert offset_since(log, 101.53) == 22, "what was written within 20 ms of 101.5 is older"
    assert offset_since(log, 200) == 110, "nothing is as young as that"


def test_since_with_an_index_that_could_not_be_written_to_the_end(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("0123456789\n" * 10)
    (tmp_path / "a.idx").write_text("0 100.0\n11 101.5\n")
    os.utime(log, (300.0, 300.0))
    assert offset_since(log, 200) == 11


def test_since_without_an_index(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("abc\n")
    os.utime(log, (100.0, 100.0))
    assert offset_since(log, 99) == 0
    assert offset_since(log, 101) == 4
    assert offset_since(tmp_path / "none.log", 99) == 0


def test_times_of_lines_never_go_back(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_text("0 100.0\n10 99.0\n20 103\n")
    index = TimeIndex(tmp_path / "a.idx")
    assert [index.time_at(offset) for offset in (0, 5, 10, 19, 20, 500)] == [100, 100, 100, 100, 103, 103]


def test_an_index_grows_with_its_log(tmp_path: Path) -> None:
    index = TimeIndex(tmp_path / "a.idx")
    assert index.time_at(5) == 0.0
    for entry, offset, time in (("0 100.0\n", 5, 100.0), ("10 100.02\n20 10", 25, 100.02), ("0.04\n", 25, 100.04)):
        with open(tmp_path / "a.idx", "a") as file:
            file.write(entry)
        assert index.time_at(offset) == time
