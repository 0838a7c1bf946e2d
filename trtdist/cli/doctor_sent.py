"""What steps of `doctor` run on a node: shell after slurm.setup, as the tasks of a run do, and Python sent as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trtdist.rendering.shell import quote

__all__ = ["after_setup", "begin", "sent"]

_LOADER = """\
import json, sys, types
for name, source in json.loads(sys.argv[1]):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main(json.loads(sys.argv[2]))
"""


def begin(what: str) -> str:
    """Shell that prints a line of JSON with what a task begins, since it may never end."""
    return f"""printf '{{"node": "%s", "at": "%s"}}\\n' "$SLURMD_NODENAME" {quote(what)}\n"""


def after_setup(setup: Sequence[str], script: str) -> list[str]:
    """The beginning of a command line that runs the script with the words that follow as its arguments.

    A line of the setup that fails ends it; what setup prints is told apart from what the script prints.
    """
    lines = "".join(f"eval {quote(line)}\n" for line in setup)
    first = f"{begin('running slurm.setup')}{{\nset -e\n{lines}set +e\n}} </dev/null >&2\n" if setup else ""
    return ["bash", "-c", first + script, "bash"]


def sent(modules: Sequence[str], given: Mapping[str, Any]) -> list[str]:
    """Arguments of a Python that has none of ours: it loads the modules, each after those that it imports, and calls
    `main` of the last with what is given."""
    return ["-c", _LOADER, json.dumps([(name, _source(name)) for name in modules]), json.dumps(given)]


def _source(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")
