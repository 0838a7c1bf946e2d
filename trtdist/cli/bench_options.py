"""The options that `bench load` and `bench sweep` share, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trtdist.errors import InputError

if TYPE_CHECKING:
    from trtdist.bench.lengths import Lengths
    from trtdist.bench.record import Slo
    from trtdist.bench.session import Step

__all__ = ["closed_step", "extra_fields", "open_step", "output_options", "slo", "target_options", "workload_options"]

F = TypeVar("F", bound=Callable[..., Any])

_REQUESTS = 100

_SECONDS = click.FloatRange(0, 1e9, min_open=True)
_MILLISECONDS = click.FloatRange(0, 1e9, min_open=True)
_FILE = click.Path(dir_okay=False, path_type=Path)


def _all(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


target_options = _all(
    click.option("--url", help="An OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1."),
    click.option("--run", metavar="RUN", help="A run, through its NATS server; `latest` for the newest."),
    click.option("--api", default="chat", show_default=True, type=click.Choice(["chat", "completions"])),
    click.option("--model", default="", help="Its name at the endpoint.  [default: the first that is listed]"),
    click.option("--extra", default="{}", metavar="JSON", help="Fields that are added to each request of --url."),
    click.option("--ignore-eos", is_flag=True, help="Have --url go on to the last token; fewer count as missing."),
    click.option("--timeout", default=600.0, show_default=True, type=_SECONDS, help="Seconds for one answer."),
    click.option("--gpus", type=click.IntRange(1), help="What throughput is divided by.  [default: the run's, or 1]"),
    click.option("--name", default="", help="What the result is called.  [default: the target]"),
)
workload_options = _all(
    click.option("--prompt-tokens", default="fixed:128", show_default=True, metavar="LENGTH", help="Or, for example,"),
    click.option("--output-tokens", default="fixed:64", show_default=True, metavar="LENGTH", help="lognormal:64:32."),
    click.option("--seed", default=0, show_default=True, type=int, help="The same seed gives the same requests."),
    click.option("--requests", type=click.IntRange(1), help="How many are measured under each load."),
    click.option("--seconds", type=_SECONDS, help="Begin no request after so long, under each load."),
    click.option("--warm-up", type=click.IntRange(0), help="Requests that are sent first and not measured."),
)
output_options = _all(
    click.option("--slo-ttft", type=_MILLISECONDS, metavar="MS", help="Good answers begin within MS milliseconds,"),
    click.option("--slo-tpot", type=_MILLISECONDS, metavar="MS", help="need at most MS per token after the first,"),
    click.option("--slo-e2e", type=_MILLISECONDS, metavar="MS", help="and are complete within MS."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (docs/bench.md)."),
    click.option("-o", "--output", type=_FILE, help="Write the result as JSON to a file."),
    click.option("--html", type=_FILE, help="Write a report with plots to a file."),
)


def closed_step(given: dict[str, Any], concurrency: int) -> Step:
    """So many open requests at any time; unless told, ten for each of them and one of warm-up."""
    from trtdist.bench import workload
    from trtdist.bench.load import Load
    from trtdist.bench.session import Step

    count = given["requests"] or (None if given["seconds"] else max(_REQUESTS, 10 * concurrency))
    warm_up = concurrency if given["warm_up"] is None else given["warm_up"]
    load = Load(concurrency, count, given["seconds"], warm_up, given["ignore_eos"])
    return Step("concurrency", concurrency, load, workload.closed(*_lengths(given), given["seed"]))


def open_step(given: dict[str, Any], rate: float, evenly: bool = False) -> Step:
    """So many requests per second."""
    from trtdist.bench import workload
    from trtdist.bench.load import Load
    from trtdist.bench.session import Step

    count = given["requests"] or (None if given["seconds"] else _REQUESTS)
    load = Load(None, count, given["seconds"], given["warm_up"] or 0, given["ignore_eos"])
    return Step("rate", rate, load, workload.open_loop(rate, *_lengths(given), given["seed"], evenly))


def slo(given: dict[str, Any]) -> Slo:
    """The limits of a good answer."""
    from trtdist.bench.record import Slo

    limits = (given[f"slo_{name}"] for name in ("ttft", "tpot", "e2e"))
    return Slo(*(None if limit is None else limit / 1000 for limit in limits))


def extra_fields(given: dict[str, Any]) -> dict[str, Any]:
    """What is added to each request of an endpoint."""
    text = given["extra"]
    try:
        raw = json.loads(text)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise InputError(f"--extra {text!r} is no JSON object")
    return {**({"ignore_eos": True} if given["ignore_eos"] else {}), **raw}


def _lengths(given: dict[str, Any]) -> tuple[Lengths, Lengths]:
    from trtdist.bench.lengths import Lengths

    return Lengths.parse(given["prompt_tokens"]), Lengths.parse(given["output_tokens"])
