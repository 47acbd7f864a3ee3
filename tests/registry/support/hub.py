"""An embedded Hub for tests, and huggingface_hub pointed to it, in this process and in others.

with EmbeddedHub(tmp_path / "root") as server, hub.client(server, home=tmp_path / "home") as api:
    api.create_repo("local/adapter")
subprocess.run(["hf", "auth", "whoami"], env=hub.environment(server, home=tmp_path / "home"))
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
from ftplug_registry.server.embedded import EmbeddedHub
from huggingface_hub import HfApi, constants, hf_api

from ftplug.training import compat

RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextmanager
def client(
    server: EmbeddedHub, account: str | None = "local", *, home: Path, xet: bool = False
) -> Iterator[HfApi]:
    """Let huggingface_hub in this process talk to ``server`` alone, signed in as ``account``.

    The functions of ``huggingface_hub`` do so as well as the HfApi that is yielded; their cache
    lies in ``home``. ``account=None``: anonymous. ``xet``: leave Xet on, as a stock client has it.
    """
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Use 'content=<...>'", DeprecationWarning
        )  # its LFS upload
        token_path = str(server.token_path(account) if account else home / "no-token")
        for name, value in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + RESOLVE,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": not xet,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_TOKEN_PATH": token_path,
        }.items():
            patch.setattr(constants, name, value)
        patch.setattr(hf_api.api, "endpoint", server.endpoint)  # of the functions without HfApi
        # It notes the endpoint on first use, as does ours where transformers has none.
        patch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        compat._own_api.cache_clear()
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in NO_PROXY.items():
            patch.setenv(name, value)
        huggingface_hub.close_session()
        try:
            yield HfApi(server.endpoint, token=server.token(account) if account else False)
        finally:
            huggingface_hub.close_session()


def environment(
    server: EmbeddedHub, account: str | None = "local", *, home: Path, xet: bool = False
) -> dict[str, str]:
    """Return the environment in which another process talks to ``server`` alone."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    token = {"HF_TOKEN": server.token(account)} if account else {}
    return inherited | NO_PROXY | token | {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }  # fmt: skip
