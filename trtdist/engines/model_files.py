"""Whether the files of a model are all there, as far as they tell themselves. Standard library, Python 3.9.

A model is a folder as the Hugging Face hub has it: config.json, a tokenizer, and weights whose index and headers say
how much belongs to them (https://huggingface.co/docs/safetensors: 8 bytes with the length of a JSON header, the header,
then the data up to the greatest of its `data_offsets`).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["SUMS", "hub_snapshot", "is_hub_id", "missing", "read_sums"]

SUMS = "SHA256SUMS"
"""The file of a model that gives the digests of the others, in the form of `sha256sum`."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".engine")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
_MOST_HEADER = 100_000_000
_LFS = b"version https://git-lfs"


def missing(folder: Path) -> list[str]:
    """What is missing or wrong in the folder of a model, a few words each; nothing when it is complete."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return [f"it cannot be read ({error.strerror})"]
    found = _config(folder)
    indexes = [name for name in _INDEXES if name in names]
    weights = {name for name in names if name.endswith(_WEIGHTS)}
    for name in indexes:
        found += _index(folder, name)
    if not weights and not indexes:
        found.append("there are no weights (*.safetensors)")
    for name in sorted(weights):
        found += _weights(folder / name)
    if not any(name in names for name in _TOKENIZERS) and not any(name.endswith(".tiktoken") for name in names):
        found.append("there is no tokenizer (tokenizer.json or tokenizer.model)")
    return found


def read_sums(folder: Path) -> dict[str, str]:
    """The digests that a model gives for its files, by path in its folder; none when it gives none."""
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.split(maxsplit=1) for line in text.splitlines()]
    sums = {pair[1].lstrip("*").strip(): pair[0].lower() for pair in pairs if len(pair) == 2 and len(pair[0]) == 64}
    return {name: digest for name, digest in sums.items() if not os.path.isabs(name) and ".." not in Path(name).parts}


def is_hub_id(model: str) -> bool:
    """Whether a model is named by its id on the hub, `org/name` or `name`, and not by a path."""
    return not model.startswith(("/", ".", "~")) and model.count("/") <= 1 and not os.path.exists(model)


def hub_snapshot(cache: Path, model: str) -> Path | None:
    """The folder in which a hub cache (`$HF_HOME/hub`) keeps a model by its id, None when it does not."""
    home = cache / f"models--{model.replace('/', '--')}"
    try:
        revision = (home / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = home / "snapshots" / revision
    return snapshot if revision and snapshot.is_dir() else None


def _config(folder: Path) -> list[str]:
    try:
        found = _json(folder / "config.json")
    except FileNotFoundError:
        return ["there is no config.json"]
    except (OSError, ValueError) as error:
        return [f"config.json cannot be read ({error})"]
    return [] if isinstance(found, Mapping) else ["config.json holds no object"]


def _index(folder: Path, name: str) -> list[str]:
    """The files that an index names and that are not there."""
    try:
        named = _json(folder / name)["weight_map"].values()
        files = sorted({str(file) for file in named})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{name} cannot be read ({error!r})"]
    absent = [file for file in files if not (folder / file).is_file()]
    if not absent:
        return []
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return [f"{absent[0]}{more} of the {len(files)} files that {name} names"]


def _weights(path: Path) -> list[str]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS))
            if start == _LFS:
                return [f"{path.name} is a pointer of Git LFS: fetch it with git lfs pull"]
            if not path.name.endswith(".safetensors"):
                return [] if size else [f"{path.name} is empty"]
            file.seek(0)
            wanted = _safetensors_size(file.read(8), file)
    except OSError as error:
        return [f"{path.name} cannot be read ({error.strerror})"]
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return [f"{path.name} is cut off or no safetensors file"]
    return [] if size == wanted else [f"{path.name} has {size} bytes and its header tells {wanted}"]


def _safetensors_size(start: bytes, file: Any) -> int:
    (length,) = struct.unpack("<Q", start)
    if length > _MOST_HEADER:
        raise ValueError("no header is as long")
    header = json.loads(file.read(length))
    ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    return 8 + int(length) + max(ends, default=0)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
