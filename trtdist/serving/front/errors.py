"""What goes wrong with a request, as status code and as the object that OpenAI's clients read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from trtdist.errors import TrtdistError
from trtdist.serving.attempt import RequestError

__all__ = ["RETRY_AFTER_S", "ApiError", "invalid", "of_request"]

RETRY_AFTER_S = 1


@dataclass(frozen=True)
class _Kind:
    status: int
    type: str


_INVALID, _SERVER = "invalid_request_error", "server_error"
# By the protocol's codes.
_KINDS = {
    "bad_request": _Kind(400, _INVALID),
    "too_large": _Kind(413, _INVALID),
    "overloaded": _Kind(429, "rate_limit_error"),
    "unavailable": _Kind(503, _SERVER),
    "stale": _Kind(503, _SERVER),
    "cancelled": _Kind(503, _SERVER),
    "lost": _Kind(502, _SERVER),
    "stalled": _Kind(504, _SERVER),
    "deadline": _Kind(504, _SERVER),
}
_OTHERS = _Kind(500, _SERVER)
_MAY_RETRY = (429, 503)


class ApiError(TrtdistError):
    """A request is answered with an error: an HTTP status, and what OpenAI's clients expect in the body."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = _INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {**({"Retry-After": str(RETRY_AFTER_S)} if status in _MAY_RETRY else {}), **(headers or {})}
        self._error = {"message": message, "type": kind, "param": param, "code": code}

    @property
    def body(self) -> bytes:
        """The JSON object that says it."""
        return json.dumps({"error": self._error}).encode("ascii")


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request makes no sense."""
    return ApiError(400, message, param=param, code=code)


def of_request(error: RequestError) -> ApiError:
    """What became of a request that the servers refused or failed."""
    kind = _KINDS.get(error.code, _OTHERS)
    return ApiError(kind.status, str(error), kind.type, code=error.code)
