"""Large files: pointers in git, objects beside it, and signed addresses to upload them to."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ftplug.files.flush import flush_directory
from ftplug_registry.server.errors import hub_error

OID = re.compile(r"[0-9a-f]{64}")
LARGEST_POINTER = 200  # bytes; ours are about 130
LIFETIME = 6 * 3600  # seconds that a signed address is good for

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n"
)


@dataclass(frozen=True)
class Pointer:
    """What git stores in place of a large file: its sha256 and its size in bytes."""

    oid: str
    size: int

    def text(self) -> bytes:
        """Return the blob that git stores."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n"
        ).encode()

    @classmethod
    def parse(cls, blob: bytes) -> Pointer | None:
        """Read a pointer, or return None for any other file."""
        match = _POINTER.fullmatch(blob)
        return cls(match[1].decode(), int(match[2])) if match else None


class LfsObjects:
    """The large files of one repository, where git-lfs itself keeps them.

    They are a repository's own: knowing the digest of somebody's private file is not enough to
    commit it elsewhere and read it there.
    """

    def __init__(self, git_directory: Path) -> None:
        self._directory = git_directory / "lfs" / "objects"

    def path(self, oid: str) -> Path:
        """Return where an object lies or would lie."""
        return self._directory / oid[:2] / oid[2:4] / oid

    def size(self, oid: str) -> int | None:
        """Return an object's size in bytes, None where it is missing."""
        try:
            return self.path(oid).stat().st_size
        except FileNotFoundError:
            return None

    def add(self, oid: str, file: Path) -> None:
        """Take a complete, verified file."""
        path = self.path(oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        file.replace(path)
        for folder in (path.parent, path.parent.parent, self._directory):
            flush_directory(folder)

    def pointer(self, oid: object, size: object = None) -> Pointer:
        """Return the pointer to an object that a commit names.

        Raises:
            HTTPException: 400; the object was never uploaded here, or has another size.
        """
        if not isinstance(oid, str) or not OID.fullmatch(oid):
            raise hub_error(400, "lfsFile: oid must be a sha256 in lower-case hex digits")
        stored = self.size(oid)
        if stored is None:
            raise hub_error(400, f"lfsFile: upload the LFS object {oid} before committing it")
        if size is not None and size != stored:
            raise hub_error(400, f"lfsFile: the LFS object {oid} has {stored} bytes, not {size!r}")
        return Pointer(oid, stored)


class Signer:
    """Signs upload addresses: their clients send no token there."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def query(self, repository: str, oid: str, size: int) -> str:
        """Return the query string that allows one upload of one object to one repository."""
        expires = int(time.time()) + LIFETIME
        signature = self._signature(repository, oid, size, expires)
        return f"size={size}&expires={expires}&signature={signature}"

    def verified_size(self, repository: str, oid: str, query: dict[str, str]) -> int:
        """Return the size that a signed address stands for.

        Raises:
            HTTPException: 403; the address is not ours, was changed or has expired.
        """
        size, expires = query.get("size", ""), query.get("expires", "")
        if re.fullmatch(r"[0-9]{1,18}", size) and re.fullmatch(r"[0-9]{1,12}", expires):
            expected = self._signature(repository, oid, int(size), int(expires))
            given = query.get("signature", "").encode("utf-8", "surrogateescape")
            if hmac.compare_digest(expected.encode(), given) and time.time() < int(expires):
                return int(size)
        raise hub_error(403, "The signature of the upload address is not valid or has expired")

    def _signature(self, *parts: object) -> str:
        text = "\n".join(map(str, parts)).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
