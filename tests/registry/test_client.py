"""The installed huggingface_hub, and one that lacks what came later."""

from pathlib import Path
from types import SimpleNamespace

import hub
import pytest
from ftplug_registry import client
from ftplug_registry.server.embedded import EmbeddedHub
from huggingface_hub import constants, errors


@pytest.fixture
def pushed(tmp_path):
    """Yield a Hub's client, the sha of the one commit there, and a cache."""
    with (
        EmbeddedHub(tmp_path / "root") as server,
        hub.client(server, home=tmp_path / "home") as api,
    ):
        api.create_repo("local/model")
        content = {"path_or_fileobj": b"a", "path_in_repo": "a.txt", "repo_id": "local/model"}
        yield api, api.upload_file(**content).oid, tmp_path / "cache"


def clients(api):
    """Return the client, and one from before 1.31."""
    return api, SimpleNamespace(snapshot_download=api.snapshot_download)


def test_a_revision_is_resolved_with_and_without_a_function_for_it(pushed):
    api, sha, cache = pushed
    for one in clients(api):
        assert client.resolve_revision(one, "local/model", "main", cache) == sha
        assert client.resolve_revision(one, "local/model", None, cache) == sha


def test_without_a_network_the_cache_tells(pushed, monkeypatch):
    api, sha, cache = pushed
    folder = api.snapshot_download("local/model", cache_dir=cache)
    assert Path(folder).name == sha
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for one in clients(api):
        assert client.resolve_revision(one, "local/model", "main", cache) == sha
        with pytest.raises(client.not_cached()):
            client.resolve_revision(one, "local/other", "main", cache)


def test_what_is_not_there_is_the_servers_word(pushed):
    api, _, cache = pushed
    for one in clients(api):
        with pytest.raises(errors.RevisionNotFoundError):
            client.resolve_revision(one, "local/model", "no-such", cache)
        with pytest.raises(errors.RepositoryNotFoundError):
            client.resolve_revision(one, "local/other", "main", cache)


def test_the_clients_errors_are_those_of_its_own_http_library():
    assert issubclass(errors.HfHubHTTPError, client.transport().HTTPError)
    assert issubclass(client.transport().ConnectError, client.transport().HTTPError)
