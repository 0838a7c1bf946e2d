"""The tokenizer and the model: words from a hash of the prompt, the same in every way to deploy them."""

from __future__ import annotations

import hashlib

_WORDS = (
    "amber",
    "basil",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "inlet",
    "juniper",
    "kelp",
    "larch",
    "maple",
    "nectar",
    "olive",
    "pine",
    "quartz",
)
_FIRST_BYTE, _FIRST_WORD = 3, 1000
END = 2


class TransformersTokenizer:
    """Bytes for prompts, words for answers. tensorrt_llm/llmapi/tokenizer.py: `encode`, `decode`, `eos_token_id`."""

    eos_token_id = END
    pad_token_id = END

    def encode(self, text: str, *args, **kwargs) -> list[int]:
        """The token ids of a text."""
        return [1, *(_FIRST_BYTE + byte for byte in text.encode())]

    def decode(self, token_ids: list[int], *args, **kwargs) -> str:
        """The text of token ids; what ends an answer has none."""
        return "".join(f" {_WORDS[token - _FIRST_WORD]}" for token in token_ids if token >= _FIRST_WORD)


def digest(prompt: list[int]) -> str:
    """What stands for the KV cache of a prompt."""
    return hashlib.blake2b(",".join(map(str, prompt)).encode(), digest_size=16).hexdigest()


def next_token(cache: str, position: int, prompt: list[int]) -> int:
    """The token at a position of the answer; a prompt that ends in "<end>" has an answer of nothing but its end."""
    if prompt[-5:] == [_FIRST_BYTE + byte for byte in b"<end>"]:
        return END
    found = hashlib.blake2b(f"{cache}.{position}".encode(), digest_size=4).digest()
    return _FIRST_WORD + int.from_bytes(found, "big") % len(_WORDS)
