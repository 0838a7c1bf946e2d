"""From messages to prompts: the model's template, the plain one, and templates that must not do harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trtdist.errors import TrtdistError
from trtdist.serving.front.chat import chat_template, plain
from trtdist.serving.front.errors import ApiError

MESSAGES = [{"role": "system", "content": "Be <b>."}, {"role": "user", "content": "Hi"}]
CHATML = (
    "{{ bos_token }}{% for message in messages %}\n"
    "<|{{ message.role }}|>{{ message['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RENDERED = "<s><|system|>Be <b>.</s>\n<|user|>Hi</s>\n<|assistant|>"


def model(folder: Path, **config: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}


@pytest.mark.parametrize(
    "template", [CHATML, [{"name": "other", "template": "x"}, {"name": "default", "template": CHATML}]]
)
def test_the_template_of_the_model_is_used(tmp_path: Path, template: object) -> None:
    found = chat_template(model(tmp_path / "m", chat_template=template, **TOKENS), "tensorrt_llm")
    assert found(MESSAGES) == RENDERED


def test_a_template_in_a_file_of_its_own_goes_first(tmp_path: Path) -> None:
    path = model(tmp_path / "m", chat_template="old", **TOKENS)
    (tmp_path / "m" / "chat_template.jinja").write_text(CHATML)
    assert chat_template(path, "tensorrt_llm")(MESSAGES) == RENDERED


def test_a_hub_id_is_looked_up_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    hub = tmp_path / "hub" / "models--org--name"
    model(hub / "snapshots" / "abc", chat_template=CHATML, **TOKENS)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc\n")
    assert chat_template("org/name", "tensorrt_llm")(MESSAGES) == RENDERED


def test_without_a_template_only_the_reference_engine_has_a_plain_one(tmp_path: Path) -> None:
    path = model(tmp_path / "m")
    assert chat_template(path, "reference") is plain
    assert plain(MESSAGES) == "system: Be <b>.\nuser: Hi\nassistant:"
    with pytest.raises(ApiError, match="no chat template") as caught:
        chat_template(path, "tensorrt_llm")(MESSAGES)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].role }}",
        "{{ 'a' * 3 + 1 }}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_refuses_the_request(tmp_path: Path, template: str) -> None:
    with pytest.raises(ApiError, match="refuses the messages") as caught:
        chat_template(model(tmp_path / "m", chat_template=template), "tensorrt_llm")(MESSAGES)
    assert caught.value.status == 400


@pytest.mark.parametrize("template", ["{% if %}", 7, [{"name": "other"}]])
def test_a_template_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, template: object) -> None:
    with pytest.raises(TrtdistError, match="the chat template"):
        chat_template(model(tmp_path / "m", chat_template=template), "tensorrt_llm")


def test_a_damaged_configuration_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TrtdistError, match="cannot be read"):
        chat_template(str(tmp_path), "tensorrt_llm")
