"""`trtdist url`: where the clients of a run connect."""

from __future__ import annotations

import json
import os

import click

from trtdist import chain
from trtdist.cli.progress import say
from trtdist.errors import TrtdistError
from trtdist.observe.runs import find_run
from trtdist.observe.snapshot import RunReader, Snapshot
from trtdist.services.envfile import read_env_or_nothing
from trtdist.services.tls import Certificates

__all__ = ["command"]


@click.command("url")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as docs/commands.md describes it.")
def command(run: str | None, as_json: bool) -> None:
    """Print what to point clients of a run at: addresses, and the files of credentials and certificates."""
    snapshot = RunReader(chain.newest(find_run(run, os.environ))).look()
    ends, found = snapshot.endpoints, _found(snapshot)
    if as_json:
        click.echo(json.dumps(found))
    else:
        width = max(map(len, found))
        click.echo("\n".join(f"{name:<{width}}  {value}" for name, value in found.items() if value is not None))
    if ends.http_elsewhere:
        way = "`trtdist forward --to http` leads there from here"
        say(f"{ends.http_url} is reached on {ends.http_node} alone: {way}")


def _found(snapshot: Snapshot) -> dict[str, str | None]:
    ends, run = snapshot.endpoints, snapshot.run
    if snapshot.final or (ends.nats_url is None and ends.http_url is None):
        raise TrtdistError(f"run {run.run_id} is {snapshot.status.state}: it has no address; see `trtdist status`")
    env = read_env_or_nothing(run.resolved_env)
    files = Certificates.of(run) if "TRTDIST_NATS_PORT" in env else None
    return {
        "nats": ends.nats_url,
        "etcd": ends.etcd_url,
        "http": ends.http_url,
        "http_node": ends.http_node,
        "http_keys_file": ends.http_keys_file,
        "namespace": ends.namespace,
        "user_file": ends.nats_user_file if ends.nats_url else None,
        "password_file": ends.nats_password_file if ends.nats_url else None,
        "ca_file": str(files.authority) if files else None,
        "certificate_file": str(files.client) if files else None,
        "key_file": str(files.client_key) if files else None,
    }
