"""Signing by an account instead of a key: Sigstore's way, which needs a network and a browser."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ftplug.artifacts.signatures import SIGNATURE, UNSIGNED
from ftplug.errors import RegistryError, one_line
from ftplug_registry.signing.library import given_digests, library, stated
from ftplug_registry.signing.making import OF_GIT, signable, write_signatures


def sign_keyless(directory: Path, *, replace: bool = False) -> None:
    """Sign an artifact's folder by an identity that Sigstore vouches for.

    In a job of GitHub's or GitLab's the job's own identity is taken, else a browser asks. Without a
    network it is a :class:`RegistryError` in one line. There is no provenance with it: that is
    signed by keys alone.
    """
    digests, _ = signable(directory, replace=replace)
    config = library().signing.Config()
    try:
        config.use_sigstore_signer(use_ambient_credentials=True)
    except Exception as error:  # whatever the libraries raise where they reach nobody
        raise RegistryError(
            f"sign --keyless: Sigstore cannot be reached ({one_line(error)}): sign with a --key, "
            "which needs no network"
        ) from error
    ignored = (*sorted(UNSIGNED), *OF_GIT)
    config.set_hashing_config(given_digests(directory.resolve().name, digests, ignored))
    with tempfile.TemporaryDirectory() as folder, stated(directory, "sign --keyless"):
        written = Path(folder) / SIGNATURE
        config.sign(folder, written)
        write_signatures(directory, {SIGNATURE: written.read_bytes()})
