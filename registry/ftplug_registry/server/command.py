"""``ftplug serve``: the embedded Hub on the command line."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

_EXPOSED = (
    "warning: tokens and artifacts cross this network unencrypted: whoever listens can take both, "
    "and write in your name; for a team use an enterprise Hub, or a proxy with TLS"
)


def serve(
    root: Annotated[
        Path, typer.Option(help="Folder for repositories, accounts and their tokens.")
    ] = Path("ftplug-hub"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Address of this machine; others than 127.0.0.1 are not encrypted.")
    ] = "127.0.0.1",
    insecure_lan: Annotated[
        bool,
        typer.Option("--insecure-lan", help="Allow --host in a network where you trust everyone."),
    ] = False,
    account: Annotated[
        list[str],
        typer.Option("--account", help="NAME or NAME:ORG,ORG: who may write where; repeatable."),
    ] = ["local"],  # noqa: B006 - typer reads the default
) -> None:
    """Serve a small Hub on this machine: for tests, demos and machines without a Hub.

    Example: ftplug serve --root ./hub --account ann:lab --account bob

    It speaks enough of the Hub's protocol for huggingface_hub and the hf command, and prints on
    standard error who changed what. Only the accounts named this time may sign in. There are no
    gates, no pull requests and no encryption: with --host and --insecure-lan everything crosses the
    network readable, and nobody is answered without a token. For a team, or for anything that must
    not be lost, point HF_ENDPOINT to the Hub or to an enterprise server instead.
    """
    from ftplug.errors import RegistryError
    from ftplug_registry.server.accounts import Account
    from ftplug_registry.server.embedded import EmbeddedHub

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    accounts = [Account.parse(text) for text in account]
    _print_changes()
    hub = EmbeddedHub(
        root.resolve(), accounts=accounts, host=host, port=port, insecure_lan=insecure_lan
    )
    with hub:
        typer.echo(f"Serving {root} for tests and demos; Ctrl-C ends it. In another terminal:\n")
        typer.echo(f"  export HF_ENDPOINT={hub.endpoint}")
        for one in accounts:
            typer.echo(f"  export HF_TOKEN_PATH={hub.token_path(one.name)}  # writes as {one.name}")
        if hub.left_out:
            names = ", ".join(hub.left_out)
            typer.echo(f"\nNot named this time, and signed in by no token: {names}")
        if not hub.endpoint.startswith("http://127.0.0.1:"):
            typer.echo(_EXPOSED, err=True)
        typer.echo("\nFiles over 64 MiB also need: export HF_HUB_DISABLE_XET=1")
        while hub.running and not stopped.wait(1):
            pass
        if not stopped.is_set():
            raise RegistryError("the server ended by itself; what it logged says why")


def _print_changes() -> None:
    """Print the log of changes, and of nothing else, on standard error: a line each, with time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    changes = logging.getLogger("ftplug_registry.server.changes")
    changes.addHandler(handler)
    changes.setLevel(logging.INFO)
    changes.propagate = False
