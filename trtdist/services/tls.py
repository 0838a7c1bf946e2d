"""TLS of a run's own services: where its certificates lie and what a client trusts. Standard library, Python 3.9.

An authority of the run alone signs two certificates, one of the servers and one of everybody else in the run, and its
key is thrown away. So whoever shows a certificate of that authority belongs to the run: names and addresses, which are
known only in the allocation, prove nothing more and are not compared. So it is on one machine too, whose
loopback everybody on it reaches.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir

__all__ = ["UNPROTECTED", "Certificates", "client_context", "own_context"]

# In resolved.env of a run whose programs cannot show our certificates: its services do without.
UNPROTECTED = "TRTDIST_UNPROTECTED"


@dataclass(frozen=True)
class Certificates:
    """The files of `secrets/` that TLS is made of, PEM."""

    folder: Path

    @classmethod
    def of(cls, run: RunDir) -> Certificates:
        """Those of a run."""
        return cls(run.secrets)

    @property
    def authority(self) -> Path:
        """The certificate that both sides trust."""
        return self.folder / "ca.pem"

    @property
    def server(self) -> Path:
        """The servers' certificate. etcd's JSON gateway shows it as a client too."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """The key of the servers' certificate."""
        return self.folder / "server.key"

    @property
    def client(self) -> Path:
        """The certificate of workers, router and clients."""
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        """The key of the clients' certificate."""
        return self.folder / "client.key"


def client_context(run: RunDir) -> ssl.SSLContext:
    """What a client of the run's own services uses; TrtdistError when a file of it cannot be read."""
    files = Certificates.of(run)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.authority)
        context.load_cert_chain(files.client, files.client_key)
    except OSError as error:  # which ssl.SSLError is too
        raise TrtdistError(
            f"the certificates in {files.folder} cannot be used ({error.strerror or error}): bring the run up again"
        ) from error
    ends = min(ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs())
    if ends < time.time():
        day = time.strftime("%Y-%m-%d", time.gmtime(ends))
        raise TrtdistError(f"the certificates in {files.folder} were valid until {day}: bring the run up again")
    return context


def own_context(run: RunDir, env: Mapping[str, str], port: str) -> ssl.SSLContext | None:
    """The context for a service of the run's own, which has its `port` in resolved.env; None for somebody else's, and
    for one that does without."""
    return client_context(run) if port in env and UNPROTECTED not in env else None
