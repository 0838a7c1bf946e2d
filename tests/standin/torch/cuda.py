"""GPUs as CUDA_VISIBLE_DEVICES lists them; a machine without the variable has none."""

from __future__ import annotations

import os


class OutOfMemoryError(RuntimeError):
    """As torch.cuda.OutOfMemoryError."""


_current = [0]


def device_count() -> int:
    """How many devices are visible. torch/cuda/__init__.py, `_parse_visible_devices`: -1 ends the list."""
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return listed.index("-1") if "-1" in listed else len(listed)


def set_device(device: int) -> None:
    """Choose a device; fails as CUDA does (NVIDIA/TensorRT-LLM#1494)."""
    if not 0 <= device < device_count():
        raise RuntimeError("CUDA error: invalid device ordinal")
    _current[0] = device


def current_device() -> int:
    """The device that was chosen."""
    return _current[0]
