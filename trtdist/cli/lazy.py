"""A group of commands that imports only the one that runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """Knows its commands' names and one-line helps; `modules` and the name give the module that has `command`."""

    def __init__(self, *args: Any, offered: Mapping[str, str], modules: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._offered = offered
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of a user's work."""
        return list(self._offered)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The object named `command` of the command's module."""
        if cmd_name not in self._offered:
            return None
        command: click.Command = importlib.import_module(f"{self._modules}{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._offered.items()))
