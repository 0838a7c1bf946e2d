"""Signs the certificates of a run, with an authority that is the run's own.

    python -m trtdist.services.authority RUN_DIR

renews those of a run. Renewed are certificates, not keys: what a reader sees of `secrets/` fits together at every
moment, also while one file after the other is replaced.

Runs in the launcher's own environment, since it needs the package cryptography; whoever wants it from elsewhere starts
it as a program. Python 3.9.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trtdist.rundir import RunDir, write_atomic
from trtdist.services.tls import BACKDATED_S, Certificates, validity

__all__ = ["LIFE_S", "main", "make_certificates", "renewed"]

LIFE_S = 7 * 86400.0
"""How long a certificate is valid from when it is signed."""

# No run is as long as that.
_AUTHORITY_S = 3650 * 86400.0
_USAGE = {
    "digital_signature": True,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


def make_certificates(now: float, life: float = LIFE_S) -> dict[str, str]:
    """The files of `secrets/` that `trtdist.services.tls` names, as PEM text. The authority is new; what it signs is
    valid until `life` seconds after `now`, epoch seconds."""
    authority = _Authority.new(now)
    keys = _Keys(*(ec.generate_private_key(ec.SECP256R1()) for _ in range(2)))
    return {
        "ca.pem": _pem(authority.certificate),
        "ca.key": _key_pem(authority.key),
        "server.key": _key_pem(keys.server),
        "client.key": _key_pem(keys.client),
        **_signed(authority, keys, now, life),
    }


def renewed(files: Certificates, now: float) -> dict[str, str]:
    """The two certificates of a run anew, with the life that they have, from `now` on. OSError when a file of theirs
    cannot be read, ValueError when it is none."""
    authority = _Authority(_key(files.authority_key), _certificate(files.authority))
    begins, ends = validity(files.client)
    life = ends - begins - BACKDATED_S
    return _signed(authority, _Keys(_key(files.server_key), _key(files.client_key)), now, life)


@dataclass(frozen=True)
class _Keys:
    server: ec.EllipticCurvePrivateKey
    client: ec.EllipticCurvePrivateKey


def _signed(authority: _Authority, keys: _Keys, now: float, life: float) -> dict[str, str]:
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    # Tools that insist on an address find the one by which they come on one machine, or through `trtdist forward`.
    names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(at)) for at in ("127.0.0.1", "::1"))]
    valid = _Validity(now, life)
    return {
        "server.pem": authority.sign("trtdist-server", keys.server, valid, both, names),
        "client.pem": authority.sign("trtdist-client", keys.client, valid, both[1:]),
    }


class _Validity:
    """From some time before `now`, since the clocks of nodes may differ, until `life` seconds after it."""

    def __init__(self, now: float, life: float) -> None:
        self._moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
        self._life = datetime.timedelta(seconds=life)

    def begun(self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        """A certificate with all that every one has."""
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._moment - datetime.timedelta(seconds=BACKDATED_S))
            .not_valid_after(self._moment + self._life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


class _Authority:
    """Signs for one run."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.key = key
        self.certificate = certificate

    @classmethod
    def new(cls, now: float) -> _Authority:
        """One that nobody has known before."""
        key, name = ec.generate_private_key(ec.SECP256R1()), _name("trtdist-run")
        usage = x509.KeyUsage(**{**_USAGE, "key_cert_sign": True, "crl_sign": True})
        certificate = (
            _Validity(now, _AUTHORITY_S)
            .begun(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        valid: _Validity,
        purposes: Sequence[x509.ObjectIdentifier],
        more: Sequence[x509.GeneralName] = (),
    ) -> str:
        """A certificate for a key, as PEM."""
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            valid.begun(_name(name), self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**_USAGE), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), *more]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return _pem(certificate)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is no key of ours")
    return key


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def main(arguments: Sequence[str], now: float) -> int:
    """Renew the certificates of the run that the arguments name; returns the exit code, and says on stderr why not."""
    if len(arguments) != 1:
        print("one argument is needed: the run directory", file=sys.stderr)
        return 2
    files = Certificates.of(RunDir(Path(os.path.abspath(arguments[0]))))
    try:
        for name, text in renewed(files, now).items():
            write_atomic(files.folder / name, text)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"{files.folder}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    import time

    sys.exit(main(sys.argv[1:], time.time()))
