"""The libraries that sign and verify; they are optional, and a second's import."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ftplug.errors import FtplugError, RegistryError, one_line

MISSING = "signatures need model-signing: pip install 'ftplug[sign]'"


@dataclass(frozen=True)
class Library:
    """The parts of model-signing that are public: its API is stable from 1.0 on."""

    signing: Any
    verifying: Any
    hashing: Any
    manifest: Any


def library() -> Library:
    """Return model-signing, or say how to install it."""
    try:
        import OpenSSL  # noqa: F401  # model-signing 1.1 needs it and does not say so
        from model_signing import hashing, manifest, signing, verifying
    except ImportError as error:
        raise RegistryError(f"{MISSING} ({one_line(error)})") from error
    return Library(signing, verifying, hashing, manifest)


def given_digests(name: str, digests: Mapping[str, str], ignored: tuple[str, ...]) -> Any:
    """Return a hashing configuration that answers with digests that are known already.

    ``digests`` are sha256 in hex, by name; ``ignored`` are the paths that stand in the signature as
    left out. The model's folder is not looked at: of a Hub's cache the library reads no links.
    """
    parts = library()
    new_digest = parts.manifest.hashing.Digest  # the type that its items are made of

    class Given(parts.hashing.Config):  # type: ignore[misc, name-defined]
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            items = [
                parts.manifest.FileManifestItem(
                    path=PurePosixPath(path),
                    digest=new_digest("sha256", bytes.fromhex(digest)),
                )
                for path, digest in digests.items()
            ]
            serialization = parts.manifest.SerializationType.from_args(
                {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": list(ignored),
                }
            )
            return parts.manifest.Manifest(name, items, serialization)

    return Given()


@contextlib.contextmanager
def stated(path: Path | str, what: str) -> Iterator[None]:
    """Say in one line what the libraries raise, and let them print nothing."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except FtplugError:
        raise
    except Exception as error:  # of strangers' bytes these libraries raise anything
        said = one_line(error) or type(error).__name__
        raise RegistryError(f"{path}: {what}: {said}") from error
