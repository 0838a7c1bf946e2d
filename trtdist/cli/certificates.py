"""Makes the certificates of a run: an authority that signs two of them and is forgotten."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["VALID", "make_certificates"]

# The clocks of nodes may differ. No job is as long as that, so nothing has to be renewed while a run is up.
_BEFORE, VALID = datetime.timedelta(days=1), datetime.timedelta(days=3650)
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


def make_certificates(now: float) -> dict[str, str]:
    """The files of `secrets/` that `trtdist.services.tls` names, as PEM text; valid around `now`, epoch seconds."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    authority = _Authority(moment)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    # Tools that insist on an address find the one by which they come on one machine, or through `trtdist forward`.
    loopback = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    server, server_key = authority.sign("trtdist-server", both, [x509.DNSName("localhost"), *loopback])
    client, client_key = authority.sign("trtdist-client", both[1:])
    return {
        "ca.pem": _pem(authority.certificate),
        "server.pem": server,
        "server.key": server_key,
        "client.pem": client,
        "client.key": client_key,
    }


class _Authority:
    """Signs for one run; its key is never written."""

    def __init__(self, moment: datetime.datetime) -> None:
        self._moment = moment
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("trtdist-run")
        usage = x509.KeyUsage(**{**_USAGE, "key_cert_sign": True, "crl_sign": True})
        self.certificate = (
            self._begun(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def sign(
        self, name: str, purposes: Sequence[x509.ObjectIdentifier], more: Sequence[x509.GeneralName] = ()
    ) -> tuple[str, str]:
        """A certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._begun(_name(name), key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**_USAGE), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), *more]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(certificate), encoded.decode()

    def _begun(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._moment - _BEFORE)
            .not_valid_after(self._moment + VALID)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
