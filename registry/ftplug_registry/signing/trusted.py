"""Whom a person trusts: a file of lines like ssh's allowed signers, public keys, certificates.

A line of ``trusted_keys`` is ``WHO [repositories="org/*,…"] KIND KEY [comment]``. KIND and KEY are
a public key as OpenSSH writes it, ``x509`` with the base64 of a certificate authority's DER, or
``sigstore`` with the address of who vouches for WHO (``https://accounts.google.com``). A word with
spaces stands in quotation marks. What is not understood is refused: a rule that is left out, or
read as another, lets in whom it should keep out.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ftplug.errors import RegistryError, one_line
from ftplug.files.config_folder import config_folder
from ftplug_registry.signing.keys import PublicKey, public_key, read_bounded

TRUSTED_KEYS = "trusted_keys"
_LARGEST = 2**20  # bytes of a file
_MOST_FILES = 1000  # of a folder
_OPTION = "repositories="
_PEM = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----[ \t\r]*$", re.MULTILINE)
_KINDS = ("x509", "sigstore")
# How OpenSSH begins the kinds of its keys.
_KEY_KINDS = ("ecdsa-sha2-", "ssh-rsa", "ssh-dss", "ssh-ed25519", "sk-ecdsa-", "sk-ssh-")
# A "!" before a pattern is ssh's "but not", and a "[" alone is a letter: neither is taken.
_PART = r"(?:[\w.*?-]|\[!?[\w.-]+\])+"
_PATTERN = re.compile(f"{_PART}(/{_PART})?")


@dataclass(frozen=True)
class Trusted:
    """One who is trusted: a key, a certificate authority or an identity at Sigstore.

    ``repositories`` are patterns (``org/*``); empty: all of them.
    """

    who: str
    where: str
    repositories: tuple[str, ...] = ()
    key: PublicKey | None = None
    authority: bytes | None = None  # DER
    issuer: str | None = None

    @property
    def pinned(self) -> str:
        """What a pin notes: it stays the same as long as this one does."""
        if self.key:
            return self.key.fingerprint
        if self.authority:
            import hashlib

            return f"x509:{hashlib.sha256(self.authority).hexdigest()}"
        return f"sigstore:{self.who} {self.issuer}"

    def names(self, repo_id: str | None) -> bool:
        """Whether the line names this very repository, by a pattern."""
        return repo_id is not None and any(
            fnmatchcase(repo_id.lower(), pattern.lower()) for pattern in self.repositories
        )

    def counts_for(self, repo_id: str | None) -> bool:
        """Whether a signature of theirs counts: a line for repositories counts for these alone."""
        return not self.repositories or self.names(repo_id)


def trusted(path: str | os.PathLike[str] | None) -> tuple[Trusted, ...]:
    """Return whom a file or folder names; without one, the user's own ``trusted_keys``, if any.

    A file holds lines, or one public key or certificates in PEM, whose owner is then called as the
    file is. Raises :class:`RegistryError` naming file and line of what cannot be read.
    """
    if path is None:
        own = config_folder() / TRUSTED_KEYS
        return tuple(_of_file(own)) if os.path.lexists(own) else ()
    given = Path(path)
    if not os.path.isdir(given):
        found = tuple(_of_file(given))
    else:
        files = [one for one in sorted(given.iterdir()) if not one.name.startswith(".")]
        if len(files) > _MOST_FILES:
            raise RegistryError(f"{given}: {len(files)} files are no folder of keys")
        found = tuple(line for file in files for line in _of_file(file))
    if not found:
        raise RegistryError(f"{given}: names nobody: write a line WHO KIND KEY, or give a .pub")
    return found


def line_for(who: str, key: PublicKey) -> str:
    """Return the line of a file of trusted keys."""
    return f"{who} {key.openssh}"


def _of_file(path: Path) -> Iterator[Trusted]:
    content = read_bounded(path, _LARGEST).removeprefix(codecs.BOM_UTF8)  # some editors write it
    if _PEM.search(content):
        yield from _of_pem(path, content)
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise RegistryError(f"{path}: neither text nor PEM") from None
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _of_line(line, f"{path}, line {number}")


def _of_pem(path: Path, content: bytes) -> Iterator[Trusted]:
    """Yield what blocks of PEM hold, all of one kind: one key, or certificates."""
    who, kinds = path.stem, [kind.decode("ascii") for kind in _PEM.findall(content)]
    _require_no_lines(path, content)
    if "CERTIFICATE" not in kinds:
        if len(kinds) > 1:
            raise RegistryError(
                f"{path}: {len(kinds)} keys in one file: give each its own (a folder of them is "
                "taken), or write lines WHO KIND KEY"
            )
        yield Trusted(who, str(path), key=public_key(content, path))
        return
    if other := [kind for kind in kinds if kind != "CERTIFICATE"]:
        raise RegistryError(f"{path}: certificates and {other[0]} in one file: give each its own")
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        certificates = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise RegistryError(f"{path}: no certificate in it: {one_line(error)}") from None
    if len(certificates) != len(kinds):
        raise RegistryError(f"{path}: {len(kinds)} certificates begin, {len(certificates)} end")
    for one in certificates:
        yield Trusted(who, str(path), authority=one.public_bytes(Encoding.DER))


def _require_no_lines(path: Path, content: bytes) -> None:
    """Refuse PEM among lines of trusted keys; words that other programs write before it are none.

    Of two readings of one file the one would leave out what the other says.
    """
    inside = False
    for number, raw in enumerate(content.splitlines(), 1):
        inside = inside or raw.startswith(b"-----BEGIN ")
        words = raw.decode("utf-8", "replace").split()
        told = any(word.startswith((_OPTION, *_KEY_KINDS)) or word in _KINDS for word in words)
        if not inside and told and not words[0].startswith("#"):
            raise RegistryError(
                f"{path}, line {number}: a line WHO KIND KEY beside a key in PEM: keep the two in "
                "files of their own"
            )
        inside = inside and not raw.startswith(b"-----END ")


def _of_line(line: str, where: str) -> Trusted:
    who, *rest = _words(line, where)
    if who.startswith(_OPTION) or _is_kind(who):
        raise RegistryError(f'{where}: WHO is missing: write WHO [repositories="org/*"] KIND KEY')
    repositories: tuple[str, ...] = ()
    while rest and "=" in rest[0] and not rest[0].startswith("="):
        name, _, value = rest.pop(0).partition("=")
        if f"{name}=" != _OPTION:
            raise RegistryError(f"{where}: no option named {name[:40]!r}: repositories= is one")
        if repositories:
            raise RegistryError(f"{where}: repositories= stands twice: separate them by commas")
        repositories = _patterns(value, where)
    if len(rest) < 2 or not who.isprintable():
        raise RegistryError(f'{where}: write WHO [repositories="org/*"] KIND KEY')
    if _OPTION in line.partition(rest[1])[2]:
        raise RegistryError(f"{where}: repositories= stands behind the key: write it before KIND")
    return Trusted(who, where, repositories, **_key_of(rest[0], rest[1], where))


def _is_kind(word: str) -> bool:
    return word in _KINDS or word.startswith(_KEY_KINDS)


def _words(line: str, where: str) -> list[str]:
    """Return WHO, options, KIND and KEY; of what follows, a comment, nothing is read.

    A backslash is a letter like others, and an apostrophe no quotation mark: names have both.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.quotes, lexer.escape = True, "", '"', ""
    words: list[str] = []
    try:
        for word in lexer:
            words.append(word)
            if len(words) > 2 and _is_kind(words[-2]):  # the key was read: a comment may follow
                break
    except ValueError as error:
        raise RegistryError(f"{where}: {one_line(error).lower()}") from None
    if not words or not words[0]:
        raise RegistryError(f"{where}: WHO is missing")
    return words


def _patterns(value: str, where: str) -> tuple[str, ...]:
    """Return the patterns of ``repositories=``, without the blanks around them."""
    found = tuple(each.strip() for each in value.split(","))
    if not any(found):
        raise RegistryError(f"{where}: repositories= names none")
    for one in found:
        if not _PATTERN.fullmatch(one):
            but_not = "; what a line does not count for cannot be told" if one[:1] == "!" else ""
            raise RegistryError(
                f"{where}: repositories= has {one[:60]!r}, which is no pattern of repositories "
                f"(org/*), separated by commas{but_not}"
            )
    return found


def _key_of(kind: str, key: str, where: str) -> dict[str, Any]:
    if kind == "sigstore":
        if not key.startswith("https://"):
            raise RegistryError(f"{where}: sigstore takes the https:// address of an issuer")
        return {"issuer": key}
    if kind != "x509":
        return {"key": public_key(f"{kind} {key}".encode(), where)}
    from cryptography import x509

    try:
        raw = base64.b64decode(key, validate=True)
        x509.load_der_x509_certificate(raw)
    except (binascii.Error, ValueError) as error:
        raise RegistryError(f"{where}: no certificate: {one_line(error)}") from None
    return {"authority": raw}
