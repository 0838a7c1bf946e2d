"""The real supervisor with head services that are files: `control-*` files in the run directory say how they fare.

A service is healthy once `health/NAME` exists; `taken/NAME` holds how often its port is still to be found taken.
`registered` holds the names of all that is in etcd, if that can be asked.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.services.renewal import Renewal
from trtdist.supervisor.__main__ import main


class FileHead:
    """Head services as files."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    async def resolve(self, service: str) -> None:
        if (self._run.path / "unresolvable").exists():
            raise TrtdistError("there is no address")
        with open(self._run.resolved_env, "a") as file:
            file.write(f"# resolved {service or 'all'}\n")

    async def healthy(self, service: str) -> str | None:
        return f"fake://{service}" if (self._run.path / "health" / service).exists() else None

    async def registered(self) -> frozenset[str] | None:
        names = self._run.path / "registered"
        return frozenset(names.read_text().split()) if names.exists() else None

    async def front_answers(self) -> bool:
        return True

    async def withdraw(self, servers: Collection[str]) -> None:
        with open(self._run.path / "withdrawn", "a") as file:
            file.write("".join(f"{server}\n" for server in servers))

    async def renew(self) -> Renewal | None:
        return None

    def port_taken(self, service: str) -> bool:
        left = self._run.path / "taken" / service
        if not left.exists() or int(left.read_text()) == 0:
            return False
        left.write_text(str(int(left.read_text()) - 1))
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], FileHead))
