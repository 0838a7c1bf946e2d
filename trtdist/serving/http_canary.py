"""A canary that takes the way of the users: one prompt through the HTTP front end."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtdist.plan import Canary, Plan
from trtdist.rundir import RunDir
from trtdist.serving.http1 import Connection, HttpError, Url, parse_url

__all__ = ["Front", "told_by"]

_LIMIT = 1024 * 1024
# OpenSSL's X509_V_FLAG_PARTIAL_CHAIN, which Python 3.9 has no name for.
_PARTIAL_CHAIN = 0x80000


@dataclass(frozen=True)
class Front:
    """Where the front end of a run is, its key ("" where none is needed) and certificate (None for plain HTTP)."""

    url: Url
    key: str = field(repr=False)
    model: str
    certificate: Path | None = None

    @classmethod
    def of(cls, run: RunDir, url: str, plan: Plan) -> Front | None:
        """The front end of a run, None when it has none."""
        if plan.http is None:
            return None
        keys, certificate = run.secrets / "http.keys", run.secrets / "http.pem"
        lines = keys.read_text(encoding="utf-8").split() if keys.exists() else []
        return cls(parse_url(url), lines[0] if lines else "", plan.model, certificate)

    def _trust(self) -> ssl.SSLContext:
        """Trusts the run's own certificate, whoever signed it: its names are those by which users come."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= _PARTIAL_CHAIN
        if self.certificate is not None:
            context.load_verify_locations(self.certificate)
        return context

    async def ask(self, canary: Canary) -> str:
        """The answer to a canary; HttpError or OSError when there is none."""
        asked = {"model": self.model, "prompt": canary.prompt, "max_tokens": canary.max_tokens, "temperature": 0}
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        connection = await Connection.open(self.url, self._trust() if self.url.tls else None)
        try:
            body = json.dumps(asked).encode("ascii")
            reply = await connection.exchange("POST", "/v1/completions", body, _LIMIT, headers)
        finally:
            await connection.close()
        try:
            found = json.loads(reply.body)
            if reply.status == 200:
                return str(found["choices"][0]["text"])
            raise HttpError(f"status {reply.status}: {told_by(found)}")
        except (ValueError, KeyError, TypeError, IndexError):
            raise HttpError(f"{self.url} answers with status {reply.status}, but not as the front end does") from None


def told_by(answer: Any) -> str:
    """The sentence of an error: `error.message` by OpenAI, `message` or `detail` by servers that speak otherwise."""
    error = answer.get("error", answer)
    if isinstance(error, str):
        return error
    return str(error.get("message") or error.get("detail") or error)
