"""``ftplug serve``: the embedded Hub on the command line."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer


def serve(
    root: Annotated[
        Path, typer.Option(help="Folder for repositories, accounts and their tokens.")
    ] = Path("ftplug-hub"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 picks a free one.")
    ] = 8765,
    account: Annotated[
        list[str],
        typer.Option("--account", help="NAME or NAME:ORG,ORG: who may write where; repeatable."),
    ] = ["local"],  # noqa: B006 - typer reads the default
) -> None:
    """Serve a small Hub on this machine: for tests, demos and machines without a Hub.

    Example: ftplug serve --root ./hub --account ann:lab --account bob

    It speaks enough of the Hub's protocol for huggingface_hub and the hf command, on 127.0.0.1
    alone. For a team, or for anything that must not be lost, point HF_ENDPOINT to the Hub or to an
    enterprise server instead.
    """
    from ftplug.errors import RegistryError
    from ftplug_registry.server.accounts import Account
    from ftplug_registry.server.embedded import EmbeddedHub

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    accounts = [Account.parse(text) for text in account]
    with EmbeddedHub(root.resolve(), accounts=accounts, port=port) as hub:
        typer.echo(f"Serving {root} for tests and demos; Ctrl-C ends it. In another terminal:\n")
        typer.echo(f"  export HF_ENDPOINT={hub.endpoint}")
        for one in accounts:
            typer.echo(f"  export HF_TOKEN_PATH={hub.token_path(one.name)}  # writes as {one.name}")
        typer.echo("\nFiles over 64 MiB also need: export HF_HUB_DISABLE_XET=1")
        while hub.running and not stopped.wait(1):
            pass
        if not stopped.is_set():
            raise RegistryError("the server ended by itself; what it logged says why")
