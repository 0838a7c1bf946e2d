"""Prompts that begin alike, over HTTP, in a run whose context servers reuse what they have read."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.workplace import Workplace

TOPOLOGY = """\
name: prefixes
model: reference/tiny
engine: reference
launch: per_server
context_servers: {num_instances: 2, kv_cache_config: {free_gpu_memory_fraction: 0.2, enable_block_reuse: true}}
generation_servers: {num_instances: 1, kv_cache_config: {free_gpu_memory_fraction: 0.2}}
router: {policy: kv_prefix}
"""
SHARED = "You know all ferns. " * 60
READ = re.compile(r"(\d+) prompt tokens \((\d+) read here, (\d+) held from earlier prompts")


@pytest.mark.long
def test_a_shared_beginning_is_read_once_and_answers_are_those_of_a_server_that_read_all(place: Workplace) -> None:
    place.up(place.topology(TOPOLOGY))
    front = place.status()["endpoints"]["front_door"]
    url, key = front["url"], Path(front["keys_file"]).read_text().strip()
    questions = ["What is a fern?", "Where do they grow?", "How old are they?", "What is a fern?"]

    def ask(question: str) -> str:
        messages = [{"role": "system", "content": SHARED}, {"role": "user", "content": question}]
        body = {"model": "reference/tiny", "messages": messages, "max_tokens": 12, "temperature": 0}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])

    answers = [ask(question) for question in questions]
    assert answers[0] == answers[3] and len(set(answers)) > 1
    found = {name: [tuple(map(int, each)) for each in READ.findall(place.log(name))] for name in ("ctx.0.0", "ctx.1.0")}
    long = {name: [each for each in read if each[0] > len(SHARED)] for name, read in found.items()}
    # The first of them had to be read; where the others went, it was held.
    assert sorted(len(read) for read in long.values()) == [0, len(questions)], long
    (reads,) = [read for read in long.values() if read]
    assert [held >= len(SHARED) // 128 * 128 for _, _, held in reads] == [False, True, True, True]
    assert all(tokens == read + held for tokens, read, held in reads)
    place.trtdist("down")
    place.nothing_left()
