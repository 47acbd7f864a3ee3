"""A Hub, and clients signed in to it, for each test."""

import shutil

import hub
import pytest
from ftplug_registry.client import transport
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.embedded import EmbeddedHub

LFS_THRESHOLD = 4096
httpx = transport()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory):
    """Serve two accounts, of which ann belongs to lab; files over 4 KiB go to LFS."""
    root = tmp_path_factory.mktemp("hub") / "root"
    accounts = [Account("ann", ("lab",)), Account("bob")]
    with EmbeddedHub(root, accounts=accounts, lfs_threshold=LFS_THRESHOLD) as server:
        yield server


@pytest.fixture
def root(module_server):
    """Return the folder that is served; it is emptied of repositories after each test."""
    folder = module_server.token_path("ann").parents[1]
    yield folder
    for kind in ("models", "datasets", "spaces"):
        shutil.rmtree(folder / kind, ignore_errors=True)


@pytest.fixture
def server(module_server, root):
    """Return a Hub without repositories."""
    return module_server


@pytest.fixture
def api(server, tmp_path):
    """Be ann, in this process."""
    with hub.client(server, "ann", home=tmp_path / "home") as api:
        yield api


@pytest.fixture
def repo(api):
    """Return the id of a fresh model repository of ann's."""
    api.create_repo("ann/model")
    return "ann/model"


@pytest.fixture
def http(server):
    """Return ``http(account)``: a plain HTTP client that speaks for an account, or for nobody."""
    clients = []

    def client(account=None):
        headers = {"Authorization": f"Bearer {server.token(account)}"} if account else {}
        settings = {"trust_env": False, "verify": False}  # no certificates to load
        clients.append(httpx.Client(base_url=server.endpoint, headers=headers, **settings))
        return clients[-1]

    yield client
    for one in clients:
        one.close()


@pytest.fixture
def ann(http):
    """Be ann, by hand, beside a fresh model repository."""
    client = http("ann")
    assert client.post("/api/repos/create", json={"name": "model"}).status_code == 200
    return client
