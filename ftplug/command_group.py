"""The group of commands: ftplug's own, and those that plugins add, imported when needed."""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperGroup

from ftplug.entry_points import Advertised, advertised
from ftplug.errors import FtplugError, PluginError, one_line

COMMANDS = "ftplug.commands"  # entry points: functions that take a typer app and add commands


class CommandGroup(TyperGroup):
    """Imports plugins for the list of commands and for what ftplug itself has not, only then.

    Lists the commands with their whole first sentence, where click cuts it off.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names that can be called: ftplug's own first."""
        several = {name for name, owners in self._owners.items() if len(owners) > 1}
        return [name for name in super().list_commands(ctx) if name not in several]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; PluginError where several plugins add one of this name."""
        owners = [] if cmd_name in self._own else self._owners.get(cmd_name, [])
        if len(owners) > 1:
            named = " and ".join(map(str, owners))
            raise PluginError(f"{cmd_name}: a command of {named}: uninstall one of them")
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called; its options and arguments take no empty text."""
        name, command, rest = super().resolve_command(ctx, args)
        parameters = command.params if command else []
        for parameter in parameters:
            _take_no_empty_text(parameter)
        if all(one.name != "command" for one in parameters):  # a script prints as it does by itself
            print_what_can_be()
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, sentences wrapped."""
        known = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, c.get_short_help_str(limit=1000)) for name, c in known if c and not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._own = frozenset(self.commands)

    @cached_property
    def _owners(self) -> dict[str, list[Advertised]]:
        """Add what plugins offer; one that cannot be asked is a warning. Returns whose is what."""
        owners: dict[str, list[Advertised]] = defaultdict(list)
        for point in advertised(COMMANDS):
            try:
                offered = point.calling(_commands)
            except PluginError as error:
                typer.echo(f"warning: ftplug: the commands {one_line(error)}", err=True)
                continue
            for name in [name for name in offered if name not in self._own]:
                owners[name].append(point)
                self.commands[name] = offered[name]
        return dict(owners)


def print_what_can_be() -> None:
    """Print ``?`` for what the standard output's encoding does not have: a name, a minus sign."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _take_no_empty_text(parameter: Any) -> None:
    """Refuse ``""`` before it is read: of a path it would mean the folder one is in.

    It is a script's variable that nobody set. What may be given several times is for the command.
    """
    process = parameter.process_value

    def checked(ctx: Any, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            name = parameter.opts[0]
            shown = name if name.startswith("-") else name.upper()
            raise FtplugError(f"{shown}: the text is empty: give a value, or leave it out")
        return process(ctx, value)

    parameter.process_value = checked


def _commands(add: Any) -> dict[str, Any]:
    """Return what a plugin adds to an app of its own: it gets no hold of ftplug's commands."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    add(app)
    return dict(typer.main.get_group(app).commands)
