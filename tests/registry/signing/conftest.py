"""Keys and a folder of settings for each test of signatures."""

import pytest
import signers


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """The user's folder of settings, empty."""
    folder = tmp_path / "settings"
    monkeypatch.setenv("FTPLUG_CONFIG", str(folder))
    monkeypatch.delenv("FTPLUG_KEY_PASSPHRASE", raising=False)
    return folder


@pytest.fixture
def alice(tmp_path):
    """A private key's path, and its public key."""
    return signers.key_pair(tmp_path, "alice")


@pytest.fixture
def mallory(tmp_path):
    """Somebody else's."""
    return signers.key_pair(tmp_path, "mallory")


@pytest.fixture
def signed(artifact, alice):
    """An artifact that alice has signed."""
    return signers.signed(artifact, alice[0])
