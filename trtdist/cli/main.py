"""The `trtdist` command: finds the sub-command and turns errors into one sentence and an exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from trtdist import __version__
from trtdist.cli.lazy import LazyGroup
from trtdist.errors import TrtdistError

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "up": "Bring a deployment up and stay with it until Ctrl-C.",
    "down": "Stop a run in order and verify that nothing is left.",
    "status": "Show each server and rank of a run.",
    "logs": "Show or follow the logs of a run.",
    "client": "Send a prompt to a run and stream the answer.",
    "bench": "Measure a deployment under load, and compare results.",
    "validate": "Check a topology and report every problem.",
    "plan": "Show where every server and rank goes.",
    "render": "Write all scripts of a deployment to a folder.",
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
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
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
        click.echo(f"trtdist: {place}{error.strerror or error}", err=True)
        code = TrtdistError.exit_code
    sys.exit(code if isinstance(code, int) else 0)
