"""The `trtdist` command: finds the sub-command and turns errors into one sentence and an exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from trtdist import __version__
from trtdist.cli.lazy import LazyGroup
from trtdist.cli.output import nobody_reads
from trtdist.errors import TrtdistError

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "up": "Bring a deployment up and stay with it until Ctrl-C.",
    "submit": "Hand a deployment to Slurm as a batch job.",
    "down": "Stop a run in order and verify that nothing is left.",
    "drain": "Have one server finish its requests and leave.",
    "status": "Show each server and rank of a run.",
    "why": "Say why a run failed, with the first cause and the evidence.",
    "logs": "Show or follow the logs of a run.",
    "prune": "Remove the folders of runs that have ended.",
    "client": "Send a prompt to a run and stream the answer.",
    "url": "Print what to point clients of a run at.",
    "forward": "Open a local port that leads to a service of a run.",
    "exec": "Run a command beside a rank of a run.",
    "doctor": "Say what would keep a deployment from running, with remedies.",
    "init": "Ask Slurm and write a site profile and a first topology.",
    "model": "Copy a model to where jobs read it, and check it.",
    "image": "Bring container images to where jobs read them, and check them.",
    "bench": "Measure a deployment under load, and compare results.",
    "validate": "Check a topology and report every problem.",
    "import": "Make a topology from the configuration of another launcher.",
    "plan": "Show where every server and rank goes.",
    "render": "Write all scripts of a deployment to a folder.",
    "simulate": "Try the supervisor's decisions on simulated clusters.",
    "schema": "Print the JSON Schema of the topology file.",
    "explain": "Explain a diagnostic code such as TRT012.",
}


@click.command(
    cls=LazyGroup,
    offered=COMMANDS,
    modules="trtdist.cli.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="trtdist")
def cli() -> None:
    """Launch TensorRT-LLM on Slurm or on this machine, from one topology file."""


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    try:
        code = cli.main(prog_name="trtdist", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        click.echo(_usage(error), err=True)
        code = error.exit_code
    except TrtdistError as error:
        click.echo(error.told(), err=True)
        code = error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except OSError as error:
        # The disk is full, the output cannot be written, or a file of a run is not the user's.
        place = f"{error.filename}: " if error.filename is not None else ""
        _settle_output()
        click.echo(f"trtdist: {place}{error.strerror or error}", err=True)
        code = TrtdistError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: click.ClickException) -> str:
    """What is wrong with the words of the command, in one sentence."""
    said = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return f"trtdist: {said}"
    import difflib

    # Known to click 8.4 and newer.
    name, group = getattr(error, "command_name", ""), context.command
    near = difflib.get_close_matches(name, group.list_commands(context), n=1) if isinstance(group, click.Group) else []
    meant = f"; did you mean '{near[0]}'?" if near else f"; `{context.command_path} --help` tells more"
    return f"trtdist: {said}{meant}"


def _settle_output() -> None:
    """Give up what waits to be written to standard output and cannot be, before the interpreter tries it."""
    try:
        sys.stdout.flush()
    except OSError:
        nobody_reads()
