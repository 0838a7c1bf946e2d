"""What is missing of a model is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engines.models import make_model, safetensors
from trtdist.engines.model_files import hub_snapshot, is_hub_id, missing, read_sums

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
BREAKS: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "config": ("config.json", lambda content: None, "there is no config.json"),
    "bad config": ("config.json", lambda content: content[:-1], "config.json cannot be read"),
    "no object": ("config.json", lambda content: b"[]", "config.json holds no object"),
    "tokenizer": ("tokenizer.json", lambda content: None, "there is no tokenizer"),
    "shard": (SECOND, lambda content: None, f"{SECOND} of the 2 files that {INDEX} names"),
    "cut off": (SECOND, lambda content: content[:-1], "bytes and its header tells"),
    "header cut off": (FIRST, lambda content: content[:20], f"{FIRST} is cut off"),
    "empty": (FIRST, lambda content: b"", f"{FIRST} is cut off"),
    "pointer": (FIRST, lambda content: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "index": (INDEX, lambda content: b"{}", f"{INDEX} cannot be read"),
}


def test_a_whole_model(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    assert missing(folder) == []
    assert set(read_sums(folder)) == {FIRST, SECOND}


@pytest.mark.parametrize("case", BREAKS)
def test_what_is_broken_is_named(tmp_path: Path, case: str) -> None:
    folder = make_model(tmp_path / "m")
    name, change, words = BREAKS[case]
    changed = change((folder / name).read_bytes())
    (folder / name).unlink()
    if changed is not None:
        (folder / name).write_bytes(changed)
    (problem,) = missing(folder)
    assert words in problem


def test_a_folder_without_weights(tmp_path: Path) -> None:
    assert [problem.split(" (")[0] for problem in missing(tmp_path)] == [
        "there is no config.json", "there are no weights", "there is no tokenizer",
    ]  # fmt: skip
    assert missing(tmp_path / "none") == ["it cannot be read (No such file or directory)"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers(0, 300)), st.binary(max_size=40), st.data())
def test_sizes_and_arbitrary_bytes(tmp_path: Path, tensors: dict[str, int], junk: bytes, data: st.DataObject) -> None:
    folder = tmp_path / "m"
    if not folder.exists():
        make_model(folder, shards=1)
    (path,) = folder.glob("*.safetensors")
    tensors.pop("__metadata__", None)
    whole = safetensors(tensors)
    path.write_bytes(whole)
    assert missing(folder) == []
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert len(missing(folder)) == 1
    path.write_bytes(junk)
    assert len(missing(folder)) == 1


def test_digests_of_files_elsewhere_are_left_out(tmp_path: Path) -> None:
    digest = "0" * 64
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  ../x\n{digest} */etc/passwd\n{digest} *a b\nnonsense\n")
    assert read_sums(tmp_path) == {"a b": digest}


def test_ids_and_the_cache_of_the_hub(tmp_path: Path) -> None:
    assert [is_hub_id(name) for name in ("org/m", "gpt2", "/m", "./m", "a/b/c", str(tmp_path))] == [True, True] + [
        False
    ] * 4
    assert hub_snapshot(tmp_path, "org/m") is None
    home = tmp_path / "models--org--m"
    make_model(home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    assert hub_snapshot(tmp_path, "org/m") == home / "snapshots" / "abc"
