"""Time push and pull of a 5 MB adapter against huggingface_hub's own calls, in pairs.

``ftplug push`` does what ``HfApi.upload_folder`` does, and checks and composes besides;
``pull`` what ``snapshot_download`` does, and verifies. Both talk to one embedded Hub on loopback,
A B A B … .
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import pairs
import report
from ftplug_registry import Hub, pull, push
from ftplug_registry.local_hub import loopback_allowed
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.embedded import EmbeddedHub
from report import Found, Goal
from transformers import BertConfig, BertForSequenceClassification

import ftplug


def measure(found: Found, count: int) -> None:
    """Compare push, then pull."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        artifact = adapter(root / "artifact")
        size = f"{sum(path.stat().st_size for path in artifact.iterdir()) / 1e6:.1f} MB"
        accounts = (Account("bench"),)
        with EmbeddedHub(root / "hub", accounts=accounts) as server, loopback_allowed():
            token = server.token("bench")
            hub = Hub(server.endpoint, token, root / "cache")
            for ours, theirs, (first, second) in (
                ("push", "upload_folder", uploads(hub, artifact)),
                ("pull", "snapshot_download", downloads(hub, root)),
            ):
                what, against = f"`ftplug {ours}` of {size}", f"huggingface_hub's `{theirs}`"
                compared = compare(first, second, count)
                found.ratio(what, against, compared, "s", Goal("≤", 1.3))


def adapter(target: Path) -> Path:
    """Save a LoRA adapter of about 5 MB, on a base built from a config."""
    config = BertConfig(hidden_size=768, num_hidden_layers=6, vocab_size=1000)
    model = ftplug.apply(
        BertForSequenceClassification(config), "lora", r=64, target_modules=("query", "value")
    )
    return ftplug.save(model, target)


def uploads(hub: Hub, artifact: Path) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return push and its counterpart, each into a repository of its own."""

    def ours(run: int) -> None:
        push(artifact, f"bench/ours-{run}", hub=hub)

    def theirs(run: int) -> None:
        name = f"bench/theirs-{run}"
        hub.api.create_repo(name)
        hub.api.upload_folder(repo_id=name, folder_path=artifact)

    return ours, theirs


def downloads(hub: Hub, root: Path) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return pull and its counterpart, each into an empty cache."""

    def ours(run: int) -> None:
        pull("bench/ours-0", hub=Hub(hub.endpoint, hub.token, root / f"ours-{run}"))

    def theirs(run: int) -> None:
        hub.api.snapshot_download("bench/ours-0", cache_dir=root / f"theirs-{run}")

    return ours, theirs


def compare(
    first: Callable[[int], None], second: Callable[[int], None], count: int
) -> pairs.Paired:
    """Run both in turn, each run with a number of its own."""
    ours, theirs = itertools.count(), itertools.count()
    return pairs.interleave(lambda: first(next(ours)), lambda: second(next(theirs)), count)


if __name__ == "__main__":
    report.main(__doc__, measure, pairs=15)
