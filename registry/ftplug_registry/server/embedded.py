"""The embedded Hub: a server of the Hub protocol in a thread of this process."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Self

from ftplug.errors import RegistryError
from ftplug_registry.server.accounts import Account, Accounts

if TYPE_CHECKING:
    import uvicorn

    from ftplug_registry.server.storage.store import RepositoryStore

LOOPBACK = "127.0.0.1"
THREADS = 8
CONNECTIONS = 256  # open at once; for one more the one that waits longest is closed
GRACE = 5  # seconds that running requests get when the server stops


class EmbeddedHub:
    """Serve a Hub from a root folder while the ``with`` block runs.

    It exists for tests, demonstrations and machines without a Hub, and listens on the loopback
    interface alone; with ``insecure_lan`` on one other address of this machine, unencrypted, where
    it answers nobody without a token. Files of up to ``lfs_threshold`` bytes go into git; larger
    ones, of up to ``max_upload`` bytes, to LFS, for which clients need ``HF_HUB_DISABLE_XET=1``.

        with EmbeddedHub(tmp_path) as hub:
            api = HfApi(hub.endpoint, token=hub.token("local"))
            api.create_repo("local/adapter")

    Entering raises RegistryError where the extra is not installed, the port is taken, the root
    cannot be written or another server uses it. An account that the root knows keeps its token; one
    that is not among ``accounts`` cannot sign in.
    """

    def __init__(
        self,
        root: Path,
        *,
        accounts: Sequence[Account] = (Account("local"),),
        host: str = "127.0.0.1",
        port: int = 0,
        insecure_lan: bool = False,
        lfs_threshold: int = 64 * 2**20,
        max_upload: int = 5 * 2**30,
    ) -> None:
        self._root = root
        self._initial_accounts = accounts
        self._address = (checked_host(host, insecure_lan=insecure_lan), port)
        self._limits = (lfs_threshold, max_upload)
        self._resources = ExitStack()
        self.endpoint = ""

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self._start(resources)
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.close()

    def token(self, name: str) -> str:
        """Return the token of an account."""
        return self._accounts.token(name)

    def token_path(self, name: str) -> Path:
        """Return the file that holds an account's token, for ``HF_TOKEN_PATH``."""
        return self._accounts.token_path(name)

    @property
    def left_out(self) -> list[str]:
        """The accounts of earlier starts that cannot sign in now."""
        return self._accounts.left_out

    @property
    def running(self) -> bool:
        """Whether the server still answers."""
        return self._thread.is_alive()

    def _start(self, resources: ExitStack) -> None:
        uvicorn = _require_extra()
        from ftplug_registry.server.app import create_app
        from ftplug_registry.server.connections import Connection
        from ftplug_registry.server.handlers.calls import Hub
        from ftplug_registry.server.storage.lfs import Signer

        store = self._open_root(resources)
        listener = self._listen(resources)
        host = self._address[0]
        self.endpoint = f"http://{host}:{listener.getsockname()[1]}"
        pool = resources.enter_context(ThreadPoolExecutor(THREADS, "ftplug-hub"))
        signer = Signer(secrets.token_bytes(32))
        limits = (*self._limits, host != LOOPBACK)
        hub = Hub(self.endpoint, self._accounts, store, signer, pool, *limits)
        config = uvicorn.Config(
            create_app(hub),
            log_config=None,
            lifespan="off",
            loop="asyncio",
            http=Connection,
            ws="none",
            proxy_headers=False,
            limit_concurrency=2 * CONNECTIONS,  # requests of closed connections end a little later
            timeout_graceful_shutdown=GRACE,
        )
        self._run(uvicorn.Server(config), listener, resources)

    def _open_root(self, resources: ExitStack) -> RepositoryStore:
        from filelock import FileLock, Timeout

        from ftplug_registry.server.storage.store import RepositoryStore

        root = self._root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(root / ".lock", thread_local=False)
            lock.acquire(timeout=0)
            resources.callback(lock.release)
            self._accounts = Accounts(root, self._initial_accounts)
            return RepositoryStore(root)
        except Timeout as error:
            raise RegistryError(
                f"another ftplug serve uses {root}: stop it, or use --root"
            ) from error
        except OSError as error:
            raise RegistryError(f"cannot serve from {root}: {error}") from error

    def _listen(self, resources: ExitStack) -> socket.socket:
        # With the protocol named, asyncio switches Nagle's algorithm off: it costs 40 ms a request.
        listener = resources.enter_context(
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(self._address)
            listener.listen()
        except OSError as error:
            host, port = self._address
            reason = error.strerror or error
            raise RegistryError(
                f"cannot listen on {host}:{port}: {reason}; try --port 0"
            ) from error
        return listener

    def _run(self, server: uvicorn.Server, listener: socket.socket, resources: ExitStack) -> None:
        def stop() -> None:
            server.should_exit = True
            self._thread.join()

        run = {"sockets": [listener]}
        self._thread = threading.Thread(target=server.run, kwargs=run, name="ftplug-hub")
        self._thread.daemon = True
        self._thread.start()
        resources.callback(stop)
        while not server.started:
            if not self._thread.is_alive():
                raise RegistryError("the embedded Hub did not start")
            time.sleep(0.005)


def checked_host(host: str, *, insecure_lan: bool) -> str:
    """Return the address to listen on: loopback, or with ``insecure_lan`` one of this machine's."""
    if host in (LOOPBACK, "localhost"):
        return LOOPBACK
    if not insecure_lan:
        raise RegistryError(
            f"the embedded Hub listens on {LOOPBACK} alone, not on {host}: it has no encryption; "
            "--insecure-lan lets it, for a network that you trust"
        )
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        address = None
    if address is None or address.is_unspecified:
        raise RegistryError(
            f"--host {host}: name one IPv4 address of this machine, e.g. 192.168.1.5: clients are "
            "told to upload there"
        )
    return str(address)


def _require_extra() -> ModuleType:
    try:
        import filelock
        import pygit2
        import starlette
        import uvicorn
    except ImportError as error:
        missing = f"ftplug serve needs {error.name}: pip install 'ftplug[serve]'"
        raise RegistryError(missing) from error
    del filelock, starlette
    # A commit that was acknowledged survives a crash.
    pygit2.option(pygit2.enums.Option.ENABLE_FSYNC_GITDIR, True)
    return uvicorn
