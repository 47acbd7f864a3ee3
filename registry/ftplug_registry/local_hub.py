"""A Hub for the length of a block: what the demo publishes to and pulls back from."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftplug_registry.hub import Hub
from ftplug_registry.pulling.fetching import snapshot
from ftplug_registry.pushing.publishing import push

_ACCOUNT = "demo"


@dataclass(frozen=True)
class RoundTrip:
    """A published and pulled artifact: ``path`` is the verified copy that came back."""

    repo_id: str
    sha: str
    path: Path
    files: int
    bytes: int
    push_seconds: float
    pull_seconds: float


@contextmanager
def round_trip(directory: Path, name: str) -> Iterator[RoundTrip]:
    """Publish an artifact to an embedded Hub, pull it back and verify it; all of it is temporary.

    Needs the extra ``[serve]``. Nothing but the loopback interface is used, offline mode or not.
    """
    from ftplug_registry.server.accounts import Account
    from ftplug_registry.server.embedded import EmbeddedHub

    with tempfile.TemporaryDirectory(prefix="ftplug-hub-") as folder:
        root = Path(folder)
        accounts = (Account(_ACCOUNT),)
        with EmbeddedHub(root / "hub", accounts=accounts) as server, loopback_allowed():
            hub = Hub(server.endpoint, server.token(_ACCOUNT), root / "cache")
            start = time.perf_counter()
            done = push(directory, f"{_ACCOUNT}/{name}", hub=hub, strays=True)
            pushed = time.perf_counter()
            fetched = snapshot(done.repo_id, hub=hub)
            pulled = time.perf_counter()
            yield RoundTrip(
                repo_id=done.repo_id,
                sha=fetched.sha,
                path=fetched.path,
                files=len(fetched.files),
                bytes=sum((fetched.path / name).stat().st_size for name in fetched.files),
                push_seconds=pushed - start,
                pull_seconds=pulled - pushed,
            )


@contextmanager
def loopback_allowed() -> Iterator[None]:
    """Let requests through in offline mode, and show no bars: only this machine is asked."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    offline, bars = constants.HF_HUB_OFFLINE, not are_progress_bars_disabled()
    constants.HF_HUB_OFFLINE = False
    disable_progress_bars()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        if bars:
            enable_progress_bars()
