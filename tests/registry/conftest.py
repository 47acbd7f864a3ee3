"""An embedded Hub for the registry's tests, and artifacts to publish on it."""

import itertools
import shutil

import folders
import hub as hubs
import pytest
from ftplug_registry import Hub
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.embedded import EmbeddedHub
from runs import shake
from transformers import BertForSequenceClassification

import ftplug
from ftplug import cli


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    accounts = (Account("alice"), Account("bob"))
    with EmbeddedHub(tmp_path_factory.mktemp("hub"), accounts=accounts) as running:
        yield running


@pytest.fixture
def client(server, tmp_path):
    """huggingface_hub in this process, signed in as alice, with an empty cache."""
    with hubs.client(server, "alice", home=tmp_path / "home") as api:
        yield api


@pytest.fixture
def hub(client, server):
    """What push and pull take: alice's."""
    return Hub(server.endpoint, server.token("alice"))


@pytest.fixture
def typed(client, monkeypatch, capsys):
    """Return ``typed(*arguments)``: exit code, standard output and error of a command."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ftplug", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


_NUMBERS = itertools.count()


@pytest.fixture
def repo_id():
    """A repository that does not exist yet."""
    return f"alice/adapter-{next(_NUMBERS)}"


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a tiny BERT without a head, and its tokenizer."""
    return folders.encoder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def saved(base, tmp_path_factory):
    """Sound artifacts on that base, by method; not to be changed."""
    from transformers import AutoTokenizer

    root = tmp_path_factory.mktemp("saved")
    labels = {0: "bad", 1: "good"}
    for name, settings in (("lora", {"r": 4}), ("bottleneck", {"reduction_factor": 4})):
        model = BertForSequenceClassification.from_pretrained(base, id2label=labels)
        model = shake(ftplug.apply(model, name, **settings))
        ftplug.save(model, root / name, processing_class=AutoTokenizer.from_pretrained(base))
    return root


@pytest.fixture
def artifact(saved, tmp_path):
    """A LoRA artifact to change as the test likes."""
    return shutil.copytree(saved / "lora", tmp_path / "artifact")
