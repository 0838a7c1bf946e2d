"""`trtdist bench` as a user runs it, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.bench.endpoint import scripted
from trtdist.cli.bench import OFFERED
from trtdist.cli.main import cli
from trtdist.errors import InputError, RunFailedError, TrtdistError


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An endpoint in a thread of its own."""
    started, found = threading.Event(), []

    async def serve() -> None:
        async with scripted() as server:
            found.extend([server.url, asyncio.get_running_loop(), asyncio.Event()])
            started.set()
            await found[2].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(60)
    yield found[0]
    found[1].call_soon_threadsafe(found[2].set)
    thread.join(60)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *arguments])


def printed(found: Result) -> Any:
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_a_load_and_its_files(url: str, tmp_path: Path) -> None:
    files = ("-o", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html"))
    load = ("--concurrency", "2", "--requests", "5", "--output-tokens", "4", "--gpus", "2", "--slo-ttft", "60000")
    found = printed(bench("load", "--url", url, *load, *files, "--json"))
    (point,) = found["points"]
    assert (point["load"], point["value"], point["figures"]["requests"]) == ("concurrency", 2.0, 5)
    assert point["figures"]["output_tokens"] == 20 and point["figures"]["good"] == 1.0
    assert point["figures"]["gpu_tokens_per_s"] == pytest.approx(point["figures"]["tokens_per_s"] / 2)
    assert json.loads((tmp_path / "a.json").read_text()) == found
    assert "<svg" in (tmp_path / "a.html").read_text()


def test_a_trace_is_replayed(url: str, tmp_path: Path) -> None:
    lines = [{"timestamp": 100 * number, "input_length": 9, "output_length": 3} for number in range(4)]
    (tmp_path / "trace").write_text("\n".join(map(json.dumps, lines)))
    found = printed(bench("load", "--url", url, "--trace", str(tmp_path / "trace"), "--speed", "10", "--json"))
    assert found["points"][0]["figures"]["requests"] == 4


def test_a_sweep_is_compared_with_itself(url: str, tmp_path: Path) -> None:
    file = str(tmp_path / "a.json")
    swept = bench("sweep", "--url", url, "--rate", "200,400", "--requests", "4", "--output-tokens", "4", "-o", file)
    assert swept.exit_code == 0 and "rate 400" in swept.stdout
    changes = printed(bench("compare", file, file, "--json"))["changes"]
    assert {change["verdict"] for change in changes} == {"same"} and len(changes) == 20
    assert bench("report", file, "--html", str(tmp_path / "b.html")).exit_code == 0
    assert "rate 200" in (tmp_path / "b.html").read_text()


def test_a_server_that_loses_tokens_gets_no_result(url: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    load = ("--model", "short", "--concurrency", "1", "--requests", "3", "-o", str(file))
    found = bench("load", "--url", url, *load)
    assert isinstance(found.exception, RunFailedError) and "4 of 4 answers" in str(found.exception)
    assert not file.exists() and not found.stdout


def test_routing_policies_are_simulated(tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    found = printed(bench("route", "--requests", "300", "--write-trace", trace, "--json"))["policies"]
    assert found["kv_prefix"]["computed"] < found["round_robin"]["computed"]
    again = bench("route", "--trace", trace, "--policy", "kv_prefix")
    assert f" {found['kv_prefix']['computed']} " in again.stdout and "round_robin" not in again.stdout


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (["load", "--concurrency", "1"], InputError, "either --url or --run"),
        (["load", "--url", "http://x", "--run", "y", "--concurrency", "1"], InputError, "either --url or --run"),
        (["load", "--url", "http://x"], InputError, "one of --concurrency, --rate and --trace"),
        (["load", "--url", "http://x", "--rate", "1", "--concurrency", "1"], InputError, "one of --concurrency"),
        (["load", "--url", "http://x", "--rate", "1", "--prompt-tokens", "many"], InputError, "many"),
        (["load", "--url", "http://x", "--rate", "1", "--extra", "[]"], InputError, "--extra"),
        (["load", "--url", "http://127.0.0.1:1", "--rate", "1"], TrtdistError, "does not serve"),
        (["load", "--run", "nobody", "--rate", "1"], InputError, "run"),
        (["sweep", "--url", "http://x"], InputError, "either --concurrency or --rate"),
        (["sweep", "--url", "http://x", "--rate", "1,two"], InputError, "commas"),
        (["sweep", "--url", "http://x", "--concurrency", "1.5"], InputError, "whole"),
        (["route", "--policy", "best"], InputError, "kv_prefix"),
    ],
)
def test_what_a_user_gets_wrong_is_told(
    arguments: list[str], kind: type[TrtdistError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path))
    found = bench(*arguments)
    assert isinstance(found.exception, kind) and says in str(found.exception)


def test_each_command_has_help() -> None:
    for name in OFFERED:
        with contextlib.suppress(SystemExit):
            assert bench(name, "--help").exit_code == 0
