"""`trtdist exec`: run a command beside a rank of a run."""

from __future__ import annotations

import os
import sys

import click

from trtdist.cli.beside import environment, node_of
from trtdist.errors import InputError
from trtdist.observe.runs import find_run
from trtdist.observe.snapshot import RunReader

__all__ = ["command"]


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--run", metavar="RUN", help="As for the other commands; without it the newest run.")
@click.argument("server", metavar="SERVER[.RANK]")
@click.argument("words", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(run: str | None, server: str, words: tuple[str, ...]) -> None:
    """Run a COMMAND on the node of a rank, beside it.

    SERVER means the node of its leader; nats, etcd and router may be named too. The command has the environment of the
    run's programs: its addresses and ports, and the Python that they import. Through Slurm it is a step of the run's
    job, with a terminal when this one has one. The exit code is the command's.
    """
    words = words[1:] if words[0] == "--" else words
    snapshot = RunReader(find_run(run, os.environ)).look()
    place = node_of(snapshot, server)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = place.command(words, name=f"exec-{server}", terminal=terminal)
    sys.stdout.flush()
    try:
        # The command takes the place of this process, so that signals and the exit code are its own.
        os.execvpe(argv[0], argv, environment(snapshot, os.environ))
    except OSError as error:
        raise InputError(f"cannot run {argv[0]}: {error.strerror}") from error
