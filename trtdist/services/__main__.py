"""`python -m trtdist.services nats|etcd RUN_DIR`: configures a head service of a run and becomes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trtdist.errors import InputError, TrtdistError
from trtdist.rundir import RunDir
from trtdist.services import etcd, nats
from trtdist.services.envfile import read_env

__all__ = ["main"]

_SERVICES = {"nats": nats.launch, "etcd": etcd.launch}


def main(arguments: Sequence[str]) -> int:
    """Become the service; returns only when that is impossible."""
    try:
        _become(arguments)
    except TrtdistError as error:
        print(f"trtdist: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"trtdist: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _become(arguments: Sequence[str]) -> None:
    if len(arguments) != 2 or arguments[0] not in _SERVICES:
        raise InputError(f"two arguments are needed: one of {', '.join(_SERVICES)}, and the run directory")
    run = RunDir(Path(os.path.abspath(arguments[1])))
    env = read_env(run.resolved_env)
    try:
        launch = _SERVICES[arguments[0]](run, env)
    except KeyError as error:
        raise TrtdistError(f"{run.resolved_env} lacks {error.args[0]}: is {arguments[0]} external here?") from error
    environ = {name: value for name, value in os.environ.items() if not name.startswith(launch.without)}
    os.execve(launch.argv[0], launch.argv, environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
