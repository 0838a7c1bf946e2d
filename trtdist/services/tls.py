"""TLS of a run's own services: where its certificates lie and what a client trusts. Standard library, Python 3.9.

An authority of the run alone signs two certificates, one of the servers and one of everybody else in the run. So
whoever shows a certificate of that authority belongs to the run: names and addresses, which are known only in the
allocation, prove nothing more and are not compared. So it is on one machine too, whose loopback everybody on it
reaches.

The two are renewed while the run is up, always with the same keys, and a client shows the newest each time that it
connects.
"""

from __future__ import annotations

import calendar
import contextlib
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir

__all__ = [
    "BACKDATED_S",
    "UNPROTECTED",
    "Certificates",
    "client_context",
    "day",
    "etcd_context",
    "own_context",
    "validity",
]

# In resolved.env of a run whose programs cannot show our certificates: its services do without.
UNPROTECTED = "TRTDIST_UNPROTECTED"

BACKDATED_S = 86400.0
"""So long before it was signed a certificate is valid, since the clocks of nodes may differ."""

# Validity in the DER of a certificate: a sequence of two UTCTime, as years before 2050 are written (RFC 5280, 4.1.2.5).
_VALIDITY = re.compile(rb"\x30\x1e\x17\x0d(\d{12})Z\x17\x0d(\d{12})Z")


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
    def authority_key(self) -> Path:
        """The key with which certificates are renewed."""
        return self.folder / "ca.key"

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


class _Newest(ssl.SSLContext):
    """Shows a client's certificate as its file has it at the time of each handshake."""

    files: Certificates

    def wrap_bio(self, *words: Any, **named: Any) -> ssl.SSLObject:
        """As of any context; asyncio's connections begin here."""
        self._read_again()
        return super().wrap_bio(*words, **named)

    def wrap_socket(self, *words: Any, **named: Any) -> ssl.SSLSocket:
        """As of any context."""
        self._read_again()
        return super().wrap_socket(*words, **named)

    def _read_again(self) -> None:
        # Without the file there is still the one from before, which the server may take.
        with contextlib.suppress(OSError):
            self.load_cert_chain(self.files.client, self.files.client_key)


def client_context(run: RunDir) -> ssl.SSLContext:
    """What a client of the run's own services uses, also after its certificate was renewed.

    TrtdistError when a file of it cannot be read, and when the certificate is over.
    """
    files = Certificates.of(run)
    context = _Newest(ssl.PROTOCOL_TLS_CLIENT)
    context.files = files
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.authority)
        context.load_cert_chain(files.client, files.client_key)
        _, ends = validity(files.client)
    except (OSError, ValueError) as error:  # OSError is what ssl.SSLError is too
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise TrtdistError(
            f"the certificates in {files.folder} cannot be used ({reason}): bring the run up again"
        ) from error
    if ends < time.time():
        raise TrtdistError(
            f"the certificates in {files.folder} were valid until {day(ends)}, and the supervisor of the run has not "
            "renewed them: bring the run up again; if it is up, see logs/supervisor.log"
        )
    return context


def own_context(run: RunDir, env: Mapping[str, str], port: str) -> ssl.SSLContext | None:
    """The context for a service of the run's own, which has its `port` in resolved.env; None for somebody else's, and
    for one that does without."""
    return client_context(run) if port in env and UNPROTECTED not in env else None


def etcd_context(env: Mapping[str, str]) -> ssl.SSLContext | None:
    """The same for the etcd of the run whose resolved.env this is."""
    return own_context(RunDir(Path(env.get("TRTDIST_RUN_DIR", ""))), env, "TRTDIST_ETCD_PORT")


def validity(certificate: Path) -> tuple[float, float]:
    """From when and until when a certificate is valid, epoch seconds; OSError when its file cannot be read, ValueError
    when it is none of ours."""
    text = certificate.read_text(encoding="ascii")
    found = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(text))
    if found is None:
        raise ValueError(f"{certificate} has no dates")
    begins, ends = (calendar.timegm(time.strptime(each.decode(), "%y%m%d%H%M%S")) for each in found.groups())
    return float(begins), float(ends)


def day(moment: float) -> str:
    """The day of a time, epoch seconds, in a sentence."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
