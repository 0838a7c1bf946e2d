"""The kinds of value that a topology is made of: each refuses what could not be carried out, with a stable code."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal, Union
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = [
    "AutoCount",
    "AutoPort",
    "AutoSpan",
    "Count",
    "Duration",
    "EngineVersion",
    "Environment",
    "EnvironmentFiles",
    "EtcdUrl",
    "Fraction",
    "HostAddress",
    "Limit",
    "Line",
    "Lines",
    "Memory",
    "Mount",
    "Name",
    "NatsUrl",
    "PortRange",
    "Seconds",
    "Size",
    "Span",
    "Subnet",
    "Text",
    "TimeLimit",
]

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}"
TIME = r"\d+|\d+:\d+|\d+:\d+:\d+|\d+-\d+|\d+-\d+:\d+|\d+-\d+:\d+:\d+"
SIZE = r"\d+[KMGT]?"
SPAN = r"(\d{1,8}(\.\d{1,6})?)(ms|s|m|h)"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
VERSION = r"v?\d{1,4}\.\d{1,4}(\.\d{1,4})?((a|b|rc)\d{1,4})?(\.post\d{1,4})?(\.dev\d{1,12})?"
ENVIRONMENT_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ANY_CASE_SIZE = SIZE.replace("KMGT", "KMGTkmgt")
_MAX_PORT = 65535
_YEAR = 31_536_000


def _malformed(message: str) -> PydanticCustomError:
    return PydanticCustomError("TRT017", "{message}", {"message": message})


def _impossible(message: str) -> PydanticCustomError:
    return PydanticCustomError("TRT016", "{message}", {"message": message})


def _wrong_type(message: str) -> PydanticCustomError:
    return PydanticCustomError("TRT013", "{message}", {"message": message})


def _carried(text: str) -> str:
    """A string that argv, an environment and a UTF-8 file can all carry."""
    if "\0" in text:
        raise _malformed("holds a NUL character, which no argument or environment can carry")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _malformed("holds half of a surrogate pair, which is no text in UTF-8")
    return text


def _one_line(text: str) -> str:
    _carried(text)
    if not text.strip():
        raise _malformed("is empty")
    for character in text:
        if ord(character) < 32 or ord(character) == 127 or character in "\x85\u2028\u2029":
            what = "a line break" if character in "\n\r\x85\u2028\u2029" else f"the control character {character!r}"
            raise _malformed(f"holds {what}, and must be one line of text")
    return text


def _name(text: str) -> str:
    if text == "latest":
        raise _malformed("'latest' always means the newest run, so no deployment can be called that")
    if not re.fullmatch(NAME, text):
        raise _malformed(
            f"{text!r} cannot name a job: use 1 to 48 letters, digits, '-' and '_', beginning with a letter or digit"
        )
    return text


def _time_limit(text: str) -> str:
    if not re.fullmatch(TIME, text, re.ASCII) and text.upper() not in ("UNLIMITED", "INFINITE"):
        raise _malformed(f"{text!r} is no time limit: write HH:MM:SS, D-HH:MM:SS or minutes")
    return text


def _engine_version(text: str) -> str:
    if not re.fullmatch(VERSION, text, re.ASCII):
        raise _malformed(f"{text!r} is no version: write it as 1.2, 1.2.1 or 1.3.0rc23")
    return text


def _size(text: str) -> str:
    if not re.fullmatch(SIZE, text, re.IGNORECASE | re.ASCII):
        raise _malformed(f"{text!r} is no size: write a number with K, M, G or T, such as 64G")
    return text


def _memory(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise _wrong_type("needs a number of megabytes or a size such as 64G")
    if isinstance(value, int) and value < 0:
        raise _impossible(f"{value} is no amount of memory; 0 asks for all of a node")
    return _size(value) if isinstance(value, str) else value


def _auto(value: Any, what: str, highest: int | None) -> Any:
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(f"needs 'auto' or {what}")
    if value < 1 or (highest is not None and value > highest):
        raise _impossible(f"{value} is not possible: it must be 'auto' or at least 1" + _up_to(highest))
    return value


def _up_to(highest: int | None) -> str:
    return "" if highest is None else f" and at most {highest}"


def _auto_count(value: Any) -> Any:
    return _auto(value, "a number", None)


def _auto_port(value: Any) -> Any:
    return _auto(value, "a port number", _MAX_PORT)


def _port_range(value: Any) -> Any:
    """A pair of ports, also as the text `LOW-HIGH`."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value, re.ASCII)
        if match is None:
            raise _malformed(f"{value!r} is no range of ports: write LOW-HIGH, such as 20000-20999")
        value = (int(match[1]), int(match[2]))
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(port) is int for port in value):
        raise _wrong_type("needs two port numbers: LOW-HIGH, such as 20000-20999")
    low, high = value
    if not 1 <= low <= high <= _MAX_PORT:
        raise _impossible(f"{low}-{high} is no range of ports: 1 <= LOW <= HIGH <= {_MAX_PORT}")
    return (low, high)


def _host_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise _malformed(f"{text!r} is no IP address: write 127.0.0.1, or 0.0.0.0 for all of a machine") from None


def _subnet(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise _malformed(f"{text!r} is no subnet: write it as 10.1.0.0/16") from None
    return text


def _url(text: str, schemes: tuple[str, ...], example: str) -> str:
    _one_line(text)
    try:
        parts = urlsplit(text)
        good = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or " " in text:
        raise _malformed(f"{text!r} is no address here: write it as {example}")
    return text


def _nats_url(text: str) -> str:
    return _url(text, ("nats", "tls"), "nats://HOST:4222")


def _etcd_url(text: str) -> str:
    for part in text.split(","):
        _url(part, ("http", "https"), "http://HOST:2379 (several with commas between them)")
    return text


def _mount(text: str) -> str:
    """`SOURCE:TARGET[:ro|rw]`, the target absolute."""
    _one_line(text)
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
        raise _malformed(f"{text!r} is no mount: write SOURCE:/TARGET or SOURCE:/TARGET:ro")
    if len(parts) == 3 and parts[2] not in ("ro", "rw"):
        raise _malformed(f"{text!r} has the mode {parts[2]!r}: use ro or rw")
    return text


def _environment_name(name: str) -> str:
    if not re.fullmatch(ENVIRONMENT_NAME, name, re.ASCII):
        raise _malformed(f"{name!r} cannot name an environment variable: use letters, digits and '_'")
    return name


def _lines(value: Any) -> Any:
    """A single string stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise _wrong_type(f"needs a number, not {str(value).lower()}")
    return value


def _span(value: Any) -> Any:
    """Seconds as a number, or with a unit: `5s`, `500ms`, `2m`."""
    if not isinstance(value, str):
        return _no_bool(value)
    found = re.fullmatch(SPAN, value)
    if found is None:
        raise _wrong_type(f"needs seconds such as 5, or a number with ms, s, m or h such as `5s`, not {value!r}")
    return float(found[1]) * _UNITS[found[3]]


def _auto_span(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, str) and re.fullmatch(SPAN, value) is None:
        raise _wrong_type(f"needs `auto`, seconds such as 90, or a number with s, m or h such as `20m`, not {value!r}")
    seconds = _span(value)
    if isinstance(seconds, (int, float)) and seconds <= 0:
        raise _malformed(f"needs `auto` or a time above 0, not {value!r}; leave it out for none")
    return seconds


_PORTS_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^\d{1,5}-\d{1,5}$"},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": _MAX_PORT},
            "minItems": 2,
            "maxItems": 2,
        },
    ]
}
_SPAN_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{SPAN}$"}]}
_AUTO_SPAN_SCHEMA = {"anyOf": [{"const": "auto"}, *_SPAN_SCHEMA["anyOf"]]}
_AUTO_SCHEMA = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}
_PORT_SCHEMA = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": _MAX_PORT}]}
_TIME_SCHEMA = {
    "anyOf": [
        {
            "type": "string",
            "pattern": f"^({TIME}|[Uu][Nn][Ll][Ii][Mm][Ii][Tt][Ee][Dd]|[Ii][Nn][Ff][Ii][Nn][Ii][Tt][Ee])$",
        },
        {"type": "integer", "minimum": 0},
    ]
}
_SIZE_SCHEMA = {"anyOf": [{"type": "string", "pattern": f"^{_ANY_CASE_SIZE}$"}, {"type": "integer", "minimum": 0}]}
_MOUNT_SCHEMA = {"type": "string", "pattern": "^[^:]+:/[^:]*(:(ro|rw))?$"}
_MEMORY_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_ANY_CASE_SIZE}$"}]}
_LINES_SCHEMA = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}

Text = Annotated[str, AfterValidator(_carried)]
Line = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
TimeLimit = Annotated[str, AfterValidator(_time_limit), WithJsonSchema(_TIME_SCHEMA)]
EngineVersion = Annotated[
    str, AfterValidator(_engine_version), WithJsonSchema({"type": ["string", "number"], "pattern": f"^{VERSION}$"})
]
Size = Annotated[str, AfterValidator(_size), WithJsonSchema(_SIZE_SCHEMA)]
Memory = Annotated[Union[int, str], BeforeValidator(_memory), WithJsonSchema(_MEMORY_SCHEMA)]
AutoCount = Annotated[Union[int, Literal["auto"]], BeforeValidator(_auto_count), WithJsonSchema(_AUTO_SCHEMA)]
AutoPort = Annotated[Union[int, Literal["auto"]], BeforeValidator(_auto_port), WithJsonSchema(_PORT_SCHEMA)]
PortRange = Annotated[tuple[int, int], BeforeValidator(_port_range), WithJsonSchema(_PORTS_SCHEMA)]
HostAddress = Annotated[str, AfterValidator(_host_address)]
Subnet = Annotated[str, AfterValidator(_subnet)]
NatsUrl = Annotated[str, AfterValidator(_nats_url)]
EtcdUrl = Annotated[str, AfterValidator(_etcd_url)]
Mount = Annotated[str, AfterValidator(_mount), WithJsonSchema(_MOUNT_SCHEMA)]
Environment = dict[Annotated[str, AfterValidator(_environment_name)], Text]
EnvironmentFiles = dict[Annotated[str, AfterValidator(_environment_name)], Line]
Lines = Annotated[tuple[Text, ...], Strict(False), BeforeValidator(_lines), WithJsonSchema(_LINES_SCHEMA)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Limit = Annotated[int, Field(ge=0, le=2**63 - 1)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), BeforeValidator(_no_bool)]
# The limits come first: the JSON Schema loses those that follow a validator.
Seconds = Annotated[float, Field(ge=0, le=_YEAR, allow_inf_nan=False), BeforeValidator(_no_bool)]
Span = Annotated[
    float, Field(ge=0, le=_YEAR, allow_inf_nan=False), BeforeValidator(_span), WithJsonSchema(_SPAN_SCHEMA)
]
AutoSpan = Annotated[
    Union[Annotated[float, Field(gt=0, le=_YEAR, allow_inf_nan=False)], Literal["auto"]],
    BeforeValidator(_auto_span),
    WithJsonSchema(_AUTO_SPAN_SCHEMA),
]
Duration = Annotated[float, Field(gt=0, le=_YEAR, allow_inf_nan=False), BeforeValidator(_no_bool)]
