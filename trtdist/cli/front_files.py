"""The files that the HTTP front end gets from its user: API keys, and a certificate with its key."""

from __future__ import annotations

import ipaddress
import secrets
import ssl
from pathlib import Path

from trtdist.errors import InputError
from trtdist.topology.model import NO_KEYS, HttpSection

__all__ = ["front_files"]

_KEY_BYTES = 32


def front_files(http: HttpSection) -> dict[str, str]:
    """The files of `secrets/` that the topology gives, and a key where it gives none; InputError names the file that
    cannot be used."""
    found = {} if http.keys == NO_KEYS else {"http.keys": _keys(http.keys) if http.keys is not None else _made_up()}
    if not found and not ipaddress.ip_address(http.host).is_loopback:
        raise InputError(
            f"router.http.keys is none, but others reach {http.host}: leave it out, or let host be 127.0.0.1"
        )
    if (http.certificate is None) != (http.certificate_key is None):
        raise InputError("router.http needs both certificate and certificate_key, or neither")
    if http.certificate is not None and http.certificate_key is not None:
        _require_pair(http.certificate, http.certificate_key)
        found["http.pem"] = _text("certificate", http.certificate)
        found["http.key"] = _text("certificate_key", http.certificate_key)
    return found


def _made_up() -> str:
    # Everybody on the machine reaches its loopback, so that it is no reason to do without.
    return f"sk-{secrets.token_hex(_KEY_BYTES)}\n"


def _keys(path: str) -> str:
    lines = [line.strip() for line in _text("keys", path).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"router.http.keys: {path} has no keys: write one a line")
    for number, line in enumerate(lines, 1):
        if not line.isascii() or not line.isprintable() or " " in line:
            raise InputError(f"router.http.keys: key {number} in {path} has other characters than an HTTP header takes")
    return "".join(f"{line}\n" for line in lines)


def _require_pair(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a function for it, nobody is asked for a passphrase.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise InputError(
            f"router.http: {certificate} and {key} are no certificate with its key: {reason}; give PEM files, the key "
            "without a passphrase"
        ) from None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise InputError(f"router.http: {certificate} or {key} cannot be read: {problem}") from None


def _text(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"router.http.{name}: {path} cannot be read: {problem}") from None
