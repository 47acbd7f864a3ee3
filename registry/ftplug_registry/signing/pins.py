"""First-use pins: which key signed a repository when it was first seen, as ssh knows hosts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ftplug.errors import ArtifactError, RegistryError, one_line
from ftplug.files.config_folder import config_folder
from ftplug.files.folder_lock import awaited
from ftplug.files.staged import replace_file
from ftplug_registry.signing.keys import PublicKey, read_bounded
from ftplug_registry.signing.trusted import Trusted

_FOLDER = "signers"
_LARGEST = 2**16  # bytes of a pin


@dataclass(frozen=True)
class Repository:
    """A repository at a server, and the commit of it that is looked at."""

    endpoint: str
    repo_id: str
    sha: str

    @property
    def path(self) -> Path:
        """Where its pin lies. A Hub takes any case of an id for the same repository."""
        place = f"{self.endpoint.rstrip('/')}/{self.repo_id}".lower()
        name = self.repo_id.lower().replace("/", "--")[:80]
        digest = hashlib.sha256(place.encode("utf-8")).hexdigest()[:16]
        return config_folder() / _FOLDER / f"{name}-{digest}.json"


@dataclass(frozen=True)
class Earlier:
    """A key that another one followed."""

    key: str
    pem: str


@dataclass(frozen=True)
class Pin:
    """The signer of a repository.

    ``key`` is a key's fingerprint, ``x509:`` with that of an authority, or ``sigstore:`` with an
    identity; ``pem`` the public key, where it is one. ``first`` is the first signed commit that was
    seen here; None where a person has named the key before. ``since`` is the first commit with this
    key, where it followed the ``earlier`` ones.
    """

    endpoint: str
    repo_id: str
    key: str
    pem: str | None
    first: str | None
    since: str | None = None
    earlier: list[Earlier] = field(default_factory=list)

    def public_keys(self) -> dict[str, PublicKey]:
        """Return the keys that are known, by fingerprint; one that has another is left out."""
        known = [Earlier(self.key, self.pem or ""), *self.earlier]
        keys = {one.key: PublicKey(one.pem) for one in known}
        return {name: key for name, key in keys.items() if key.fingerprint == name}

    def as_trusted(self) -> list[Trusted]:
        """Return an identity at Sigstore as a line would name it."""
        kind, _, rest = self.key.partition(":")
        who, _, issuer = rest.partition(" ")
        return [Trusted(who, "pinned", issuer=issuer)] if kind == "sigstore" else []


def pin_of(repository: Repository) -> Pin | None:
    """Return the pin of a repository. Raises :class:`RegistryError` where it is damaged."""
    path = repository.path
    if not os.path.lexists(path):
        return None
    import pydantic

    try:
        return pydantic.TypeAdapter(Pin).validate_json(read_bounded(path, _LARGEST), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise RegistryError(
            f"{path}: damaged ({one_line(first['msg'])}): nobody can tell who signed "
            f"{repository.repo_id}: ftplug trust {repository.repo_id} KEY writes it anew"
        ) from None


def pin(repository: Repository, new: Pin, *, instead_of: Pin | None) -> None:
    """Note a signer, if the pin is still what it was found to be; another one is refused."""
    with _held():
        if (there := pin_of(repository)) not in (instead_of, new):
            now = there.key[:16] if there else "nobody"
            raise RegistryError(
                f"{repository.repo_id}: another process has pinned {now} meanwhile, not "
                f"{new.key[:16]}: run the same command again"
            )
        _write(repository, new)


def pin_anyway(repository: Repository, new: Pin | None) -> None:
    """Replace or, with None, remove a pin: a person said so."""
    with _held():
        if new is not None:
            _write(repository, new)
        else:
            repository.path.unlink(missing_ok=True)


def _write(repository: Repository, new: Pin) -> None:
    content = json.dumps(asdict(new), indent=2) + "\n"
    replace_file(repository.path, content.encode("utf-8"), 0o600)


@contextmanager
def _held() -> Iterator[None]:
    """One process at a time; what the system refuses is one line."""
    folder = config_folder() / _FOLDER
    try:
        with awaited(folder):
            yield
    except ArtifactError as error:
        raise RegistryError(str(error)) from error
    except OSError as error:
        raise RegistryError(
            f"{folder}: cannot be written ({one_line(error)}): make it writable, or name another "
            "folder by FTPLUG_CONFIG"
        ) from error
