"""What goes wrong, on which rank: $STANDIN_FAULTS."""

from __future__ import annotations

import json
import os
import signal
import time

import torch

_TRACE = """\
Traceback (most recent call last):
  File "/usr/local/lib/python3.12/dist-packages/some/server.py", line 10, in stream
RuntimeError: response stream is closed"""


def fault() -> dict:
    """The fault of this rank, {} for none.

    Kinds:
      oom       loading raises torch.OutOfMemoryError: "CUDA out of memory" (PyTorch, c10/cuda/CUDACachingAllocator.cpp)
      hang      loading never ends (issues 9680, 2337, 2405: hangs while ranks start)
      silent    requests are taken and never answered (pull request 12718: alive, and dead within)
      dies      after `tokens` tokens the executor loop raises; ranks that do not lead are told nothing (issue 16592)
      killed    the process is killed, at `tokens` tokens or, on a rank that does not lead, a second after it has loaded
      unhealthy after `tokens` tokens the executor counts as shut down and answers no more (issue 18663)
      traceback a harmless traceback is printed (ai-dynamo/dynamo logs one for each client that leaves)
    """
    here = os.environ.get("TRTDIST_SERVER"), int(os.environ.get("TRTDIST_RANK", "0"))
    for each in json.loads(os.environ.get("STANDIN_FAULTS", "[]")):
        if (each["server"], each.get("rank", 0)) == here:
            return each
    return {}


def kind() -> str:
    """The kind of this rank's fault, "" for none."""
    return fault().get("kind", "")


def while_loading() -> None:
    """What goes wrong while a rank loads its share of the model."""
    if kind() == "traceback":
        print(_TRACE, flush=True)
    if kind() == "hang":
        while True:
            time.sleep(60)
    if kind() == "oom":
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.12 GiB"
            " is free. Including non-PyTorch memory, this process has 77.98 GiB memory in use."
        )


def after_token(count: int) -> None:
    """What goes wrong in the executor loop once `count` tokens were generated."""
    if count < fault().get("tokens", 1):
        return
    if kind() == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind() == "dies":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
