"""The registry's commands, which join ``ftplug`` through the entry point ``ftplug.commands``."""

from __future__ import annotations

import typer

from ftplug_registry.server.command import serve


def add_commands(app: typer.Typer) -> None:
    """Add push, pull, search, show, verify and serve to the command line."""
    app.command()(serve)
