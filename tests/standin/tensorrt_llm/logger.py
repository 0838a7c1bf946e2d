"""Lines as TensorRT-LLM's own logger writes them. tensorrt_llm/logger.py: stdout, `[time] [TRT-LLM] [LEVEL] text`."""

from __future__ import annotations

import time

from tensorrt_llm.version import __version__


class Logger:
    """Writes each line at once."""

    level = "info"

    def set_level(self, level: str) -> None:
        """Ignored: everything is written."""

    def _write(self, level: str, text: str) -> None:
        print(f"[{time.strftime('%m/%d/%Y-%H:%M:%S')}] [TRT-LLM] [{level}] {text}", flush=True)

    def info(self, text: str) -> None:
        """A line of level I."""
        self._write("I", text)

    def warning(self, text: str) -> None:
        """A line of level W."""
        self._write("W", text)

    def error(self, text: str) -> None:
        """A line of level E."""
        self._write("E", text)


logger = Logger()
logger.info(f"This is no TensorRT-LLM but a stand-in for tests: {__version__}")
