"""Where a run's services are and how to log in to them, read from its run directory."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from trtdist import plan as plans
from trtdist.errors import MissingError, TrtdistError
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env
from trtdist.services.tls import own_context

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig:
    """What a program of a run, or a client of it, must know to take part.

    `namespace` is the run id. `etcd_endpoints` are base URLs. `nats_user` and `nats_password` are "" when the server
    (an external one) asks for none. `nats_tls` and `etcd_tls` hold the certificates of the run where its own services
    ask for them, else None: what the system trusts. `http_url` is that of the HTTP front end, "" without one.
    """

    run: RunDir
    nats_url: str
    nats_user: str = field(repr=False)
    nats_password: str = field(repr=False)
    etcd_endpoints: tuple[str, ...]
    nats_tls: ssl.SSLContext | None = None
    etcd_tls: ssl.SSLContext | None = None
    http_url: str = ""

    @property
    def namespace(self) -> str:
        """What keeps runs apart in etcd and on NATS: the run id."""
        return self.run.run_id

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Read `resolved.env` and `secrets/` of a run directory; MissingError when the run has not got that far."""
        run = RunDir(path.resolve())
        try:
            values = read_env(run.resolved_env)
        except TrtdistError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise MissingError(
                f"run {run.run_id} has no {run.resolved_env}: it has not started, or its folder is not a run's; "
                "see `trtdist status`"
            ) from None
        try:
            return cls(
                run=run,
                nats_url=values["NATS_SERVER"],
                nats_user=_secret(run, "nats.user"),
                nats_password=_secret(run, "nats.password"),
                etcd_endpoints=tuple(values["ETCD_ENDPOINTS"].split(",")),
                nats_tls=own_context(run, values, "TRTDIST_NATS_PORT"),
                etcd_tls=own_context(run, values, "TRTDIST_ETCD_PORT"),
                http_url=values.get("TRTDIST_HTTP_URL", ""),
            )
        except KeyError as error:
            raise TrtdistError(f"{run.resolved_env} lacks {error.args[0]}: bring the run up again") from None

    def plan(self) -> plans.Plan:
        """The run's plan; TrtdistError when it cannot be read."""
        try:
            return plans.from_json(self.run.plan.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrtdistError(f"{self.run.plan} cannot be read ({error}): bring the run up again") from None


def _secret(run: RunDir, name: str) -> str:
    path = run.secrets / name
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise TrtdistError(f"{path} cannot be read ({error}): bring the run up again") from None
