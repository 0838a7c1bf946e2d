"""The TensorRT-LLM engine on real ranks, with the stand-in in the place of TensorRT-LLM."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.engines.real_run import RealRun, until
from tests.planning.topologies import section, topology
from trtdist.plan import Plan
from trtdist.planning import Target, plan

SAMPLING: dict[str, Any] = {"max_tokens": 8, "temperature": 0.0}
PROMPT = "The capital of France is"
ANSWER = " olive heron grove maple amber quartz pine cedar"


def split(launch: str = "mpi_world", context: int = 1, generation: int = 2, **engine_args: Any) -> Plan:
    """A context server and a generation server."""
    sizes = {"context_servers": context, "generation_servers": generation}
    sections = {key: {**section(1, tp, fraction=0.1), **engine_args} for key, tp in sizes.items()}
    return plan(topology(engine="tensorrt_llm", launch=launch, **sections), Target.LOCAL)


def whole(tp: int = 1, **engine_args: Any) -> Plan:
    """A server that does all."""
    return plan(topology(engine="tensorrt_llm", servers={**section(1, tp), **engine_args}), Target.LOCAL)


def asked(**changes: Any) -> dict[str, Any]:
    return {"request_id": "r", "prompt": PROMPT, "sampling": SAMPLING, **changes}


def kept(run: RealRun, **changes: Any) -> dict[str, Any]:
    """The single output of a context server."""
    [found] = run.call("ctx.0", "generate", asked(request_type="context_only", **changes))
    assert isinstance(found, dict)
    return found


def continued(run: RealRun, where: Any, **changes: Any) -> Any:
    return run.call("gen.0", "generate", asked(request_type="generation_only", disaggregated=where, **changes))


def text(outputs: list[dict[str, Any]]) -> str:
    return "".join(output["text"] for output in outputs)


def check_answers(run: RealRun) -> None:
    """An answer that one server begins and another one ends is the answer of one server."""
    first = kept(run)
    assert (first["finish_reason"], first["text"], len(first["token_ids"])) == ("not_finished", " olive", 1)
    outputs = continued(run, first["disaggregated"])
    assert text(outputs) == ANSWER and outputs[-1]["finish_reason"] == "length"
    assert outputs[0]["token_ids"][0] == first["token_ids"][0], "the first token is told by the generation server"
    assert outputs[-1]["usage"] == {"prompt_tokens": len(PROMPT) + 1, "completion_tokens": 8}
    [again] = continued(run, first["disaggregated"])
    assert "no KV cache for request" in again["error"], "what was fetched is gone"


def test_context_and_generation_servers_of_one_world() -> None:
    with RealRun(split()) as run:
        check_answers(run)
        one = {**SAMPLING, "max_tokens": 1}
        [only] = continued(run, kept(run, sampling=one)["disaggregated"], sampling=one)
        assert (only["text"], only["finish_reason"]) == (" olive", "length")
        ended = kept(run, prompt="nothing to say<end>")
        assert (ended["finish_reason"], ended["disaggregated"]) == ("stop", None)
        where = {**kept(run)["disaggregated"], "state": "no state of a context server"}
        assert "damaged" in continued(run, where)[0]["error"]
        [refused] = run.call("gen.0", "generate", asked(request_type="generation_only"))
        assert "does not read prompts" in refused["error"]
        [other] = continued(run, kept(run)["disaggregated"], prompt="another prompt")
        assert "another prompt" in other["error"]
        assert run.call("gen.0", "cancel", {**asked(), "sampling": {**SAMPLING, "max_tokens": 10_000}})
        until(lambda: re.search("gen.0: request 'r': cancelled", run.log()), "the cancellation")
        stopped = run.call("gen.0", "generate", asked(sampling={**SAMPLING, "stop": [" grove"]}))
        assert (text(stopped), stopped[-1]["finish_reason"]) == (" olive heron", "stop")
        assert "gen.0.1 takes device 0 of the 2 it sees" in run.log(), "the second rank of the world takes device 2 % 2"
        run.stop()


@pytest.mark.long
@pytest.mark.parametrize("release", ["0.18.2", "0.20.0", "0.21.0", "1.0.0", "1.2.0", "1.3.0rc27", "1.4.0rc1"])
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
def test_every_release(release: str, launch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_RELEASE", release)
    with RealRun(split(launch)) as run:
        check_answers(run)
        assert f"TensorRT-LLM {release}+stand-in" in run.log()
        run.stop()


@pytest.mark.long
@pytest.mark.parametrize("tp", [1, 4])
def test_monolithic_servers(tp: int) -> None:
    with RealRun(replace(whole(tp), router_policy="kv_prefix")) as run:
        assert run.call("srv.0", "reuse") == 0, "nothing is known before a request"
        outputs = run.call("srv.0", "generate", asked())
        assert text(outputs) == ANSWER
        [refused] = run.call("srv.0", "generate", asked(prompt="x" * 9000))
        assert "should not exceed max_num_tokens" in refused["error"]
        until(lambda: run.call("srv.0", "reuse") == 100 * 32, "what the KV cache has room for")
        [strange] = run.call("srv.0", "generate", asked(request_type="other"))
        assert "request type" in strange["error"]
        run.stop()


@pytest.mark.long
def test_an_old_server_without_a_way_for_caches_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_RELEASE", "0.18.2")
    made = split("per_server")
    servers = tuple(
        replace(server, engine_args={**server.engine_args, "cache_transceiver_config": {"backend": "NIXL"}})
        for server in made.servers
    )
    with RealRun(replace(made, servers=servers)) as run:
        until(lambda: "does not move KV caches by NIXL, but by MPI or UCX" in run.log(), "the refusal")
