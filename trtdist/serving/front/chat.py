"""From the messages of a chat to a prompt: the model's own template, in jinja2's sandbox, or a plain one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from trtdist.errors import TrtdistError
from trtdist.serving.front.errors import invalid

__all__ = ["Template", "chat_template", "plain"]

Messages = Sequence[Mapping[str, str]]
# Messages to a prompt; ApiError when the template refuses them.
Template = Callable[[Messages], str]
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def plain(messages: Messages) -> str:
    """What the reference engine gets: a line `role: content` for each message, then `assistant:`."""
    return "".join(f"{one['role']}: {one['content']}\n" for one in messages) + "assistant:"


def chat_template(model: str, engine: str) -> Template:
    """The template for a model: a folder, or a hub id whose files lie in the cache of the Hugging Face hub.

    The reference engine has none of its own and falls back to `plain`; another engine refuses chats then. TrtdistError
    when there is a template that cannot be used.
    """
    folder = _folder(model)
    source, tokens = _read(folder) if folder is not None else ("", {})
    if source:
        return _compiled(source, tokens, f"the chat template of {model}")
    return plain if engine == "reference" else _refuse(model)


def _refuse(model: str) -> Template:
    def refuse(messages: Messages) -> str:
        raise invalid(f"no chat template of the model {model} was found: use /v1/completions", "messages")

    return refuse


def _folder(model: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model)
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{model.replace('/', '--')}"
    try:
        found = hub / "snapshots" / (hub / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return found if found.is_dir() else None


def _read(folder: Path) -> tuple[str, dict[str, str]]:
    """The template ("" for none) and the special tokens that it may name."""
    config: Any = {}
    path = folder / "tokenizer_config.json"
    try:
        if path.exists():
            config = json.loads(path.read_text(encoding="utf-8"))
        separate = folder / "chat_template.jinja"
        source = separate.read_text(encoding="utf-8") if separate.exists() else _default(config.get("chat_template"))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise TrtdistError(f"the chat template in {folder} cannot be read: {error}") from None
    return source, {name: _token(config.get(name)) for name in _TOKENS}


def _default(raw: object) -> str:
    """A template, or the default of a list of named ones; "" for none at all."""
    if raw is None:
        return ""
    if isinstance(raw, list):
        raw = {one["name"]: one["template"] for one in raw}["default"]
    if not isinstance(raw, str):
        raise ValueError("chat_template is neither text nor a list of named templates")
    return raw


def _token(raw: object) -> str:
    found = raw.get("content") if isinstance(raw, dict) else raw
    return found if isinstance(found, str) else ""


def _compiled(source: str, tokens: Mapping[str, str], name: str) -> Template:
    # Imported here: it costs 50 ms and memory, and a model without a template needs none of it.
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise TrtdistError(f"{name} cannot be used: {error}") from None

    def render(messages: Messages) -> str:
        try:
            return template.render(messages=list(messages), add_generation_prompt=True, **tokens)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise invalid(f"{name} refuses the messages: {error}", "messages") from None

    return render


def _to_json(value: object, indent: int | None = None) -> str:
    """As in transformers: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
