"""The names of the installed TensorRT-LLM, found once. Importing this module loads nothing; `load` does.

Sources (github.com/NVIDIA/TensorRT-LLM): `tensorrt_llm/__init__.py` and `tensorrt_llm/_torch/llm.py` (before 1.0 the
PyTorch engine was `tensorrt_llm._torch.llm.LLM`, since then it is `tensorrt_llm.LLM`), `tensorrt_llm/version.py`,
`tensorrt_llm/llmapi/llm_args.py` (`TorchLlmArgs`, before it `LlmArgs`), `tensorrt_llm/llmapi/llm_utils.py`
(`update_llm_args_with_extra_dict`, which is how trtllm-serve itself reads a YAML file of options),
`tensorrt_llm/executor/utils.py` (`RequestError`), `tensorrt_llm/disaggregated_params.py`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any, Callable

from trtdist.engines.base import EngineError

__all__ = ["Api", "field_names", "load"]


@dataclass(frozen=True)
class Api:
    """What this adapter uses. `argument_names` has what `LLM` takes; `transceiver` is the class of
    `cache_transceiver_config`, None in releases that read the environment instead."""

    version: str
    llm: Any
    sampling_params: Any
    disaggregated_params: Any
    request_error: type[Exception]
    argument_names: frozenset[str]
    transceiver: Any
    merge: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor release; (0, 0) when the version does not begin with them."""
        return _number(self.version)


def load() -> Api:
    """Import TensorRT-LLM, which takes a minute; EngineError when it cannot be imported or lacks a name."""
    try:
        package = importlib.import_module("tensorrt_llm")
        version = str(package.__version__)
        torch_first = _number(version) >= (1, 0)
        llm = package.LLM if torch_first else importlib.import_module("tensorrt_llm._torch.llm").LLM
        arguments = importlib.import_module("tensorrt_llm.llmapi.llm_args")
        disaggregated = importlib.import_module("tensorrt_llm.disaggregated_params")
        request_error = importlib.import_module("tensorrt_llm.executor.utils").RequestError
        return Api(
            version,
            llm,
            package.SamplingParams,
            disaggregated.DisaggregatedParams,
            request_error,
            _argument_names(llm, arguments),
            getattr(arguments, "CacheTransceiverConfig", None),
            _merge(),
        )
    except (ImportError, AttributeError) as error:
        raise EngineError(f"{sys.executable} has no TensorRT-LLM that this trtdist can use: {error}") from error


def field_names(kind: Any) -> frozenset[str]:
    """The fields of a pydantic model or a dataclass, none for anything else."""
    return frozenset(getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", None) or ())


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _argument_names(llm: Any, arguments: Any) -> frozenset[str]:
    kind = getattr(arguments, "TorchLlmArgs", None) or getattr(arguments, "LlmArgs", None)
    signature = inspect.signature(llm.__init__).parameters.values()
    named = {each.name for each in signature if each.kind is not each.VAR_KEYWORD} - {"self"}
    # Taken out of the arguments by LLM.__init__ itself in releases whose LlmArgs do not have it.
    older = {"pytorch_backend_config"} if hasattr(arguments, "LlmArgs") and kind is arguments.LlmArgs else set()
    return field_names(kind) | named | older


def _merge() -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    try:
        utils: Any = importlib.import_module("tensorrt_llm.llmapi.llm_utils")
        found: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = utils.update_llm_args_with_extra_dict
    except (ImportError, AttributeError):
        return lambda base, over: {**base, **over}
    return found
