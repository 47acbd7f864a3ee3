"""Accounts of the embedded Hub: their organizations, tokens and rights to write."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftplug.errors import RegistryError
from ftplug.files.staged import replace_file

NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")  # a part of a repository id

RESERVED = ("api", "models", "datasets", "spaces")  # they begin addresses of other things


def is_name(text: str) -> bool:
    """Say whether ``text`` may stand on one side of the slash in a repository id."""
    return bool(NAME.fullmatch(text)) and not (
        "--" in text or ".." in text or text.lower().endswith((".git", ".ipynb", ".lock"))
    )


@dataclass(frozen=True)
class Account:
    """A user: writes in the namespace of its own name and in those of its organizations."""

    name: str
    orgs: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Account:
        """Read ``NAME`` or ``NAME:ORG,ORG``."""
        name, _, orgs = text.partition(":")
        return cls(name, tuple(org for org in orgs.split(",") if org))

    def may_write(self, namespace: str) -> bool:
        """Say whether the account owns a namespace or belongs to it."""
        return namespace == self.name or namespace in self.orgs


class Accounts:
    """The accounts of a root folder.

    ``accounts.json`` holds sha256 digests of the tokens; a token itself stands in ``tokens/NAME``
    alone, a file that ``HF_TOKEN_PATH`` can point to. Only the accounts that are given may sign in:
    those of earlier starts keep their namespace and their token for the day that they are given
    again, and until then the token is worth nothing.
    """

    def __init__(self, root: Path, accounts: Sequence[Account]) -> None:
        self._file = root / "accounts.json"
        self._tokens = root / "tokens"
        self._tokens.mkdir(mode=0o700, exist_ok=True)
        self._accounts, self._digests = self._read()
        for account in accounts:
            self._accounts[account.name] = account
        self._given = {account.name for account in accounts}
        self._check_names()
        for account in accounts:
            path = self.token_path(account.name)
            if not path.exists() or _digest(path.read_text()) != self._digests.get(account.name):
                token = _new_token()
                replace_file(path, token.encode(), mode=0o600)
                self._digests[account.name] = _digest(token)
        self._save()

    def token_path(self, name: str) -> Path:
        """Return the file that holds an account's token."""
        return self._tokens / name

    @property
    def left_out(self) -> list[str]:
        """The accounts of earlier starts that were not given this time."""
        return sorted(set(self._accounts) - self._given)

    def token(self, name: str) -> str:
        """Return an account's token.

        Raises:
            RegistryError: there is no such account.
        """
        if name not in self._given:
            known = ", ".join(sorted(self._given))
            raise RegistryError(f"no account named {name!r}; the accounts here are {known}")
        return self.token_path(name).read_text()

    def by_token(self, token: str) -> Account | None:
        """Return the account whose token this is, if it is anyone's."""
        digest = _digest(token)
        account = None
        for name, known in self._digests.items():  # every one, so that time says nothing
            if hmac.compare_digest(digest, known) and name in self._given:
                account = self._accounts[name]
        return account

    def _read(self) -> tuple[dict[str, Account], dict[str, str]]:
        if not self._file.exists():
            return {}, {}
        try:
            rows = json.loads(self._file.read_text())
            accounts = {name: Account(name, tuple(row["orgs"])) for name, row in rows.items()}
            return accounts, {name: str(row["sha256"]) for name, row in rows.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"{self._file} is not a list of accounts: {error!r}") from error

    def _save(self) -> None:
        rows = {
            name: {"orgs": list(account.orgs), "sha256": self._digests[name]}
            for name, account in self._accounts.items()
        }
        replace_file(self._file, json.dumps(rows, indent=2).encode(), mode=0o600)

    def _check_names(self) -> None:
        users = list(self._accounts)
        orgs = {org for account in self._accounts.values() for org in account.orgs}
        for name in [*users, *orgs]:
            if not is_name(name) or name.lower() in RESERVED:
                raise RegistryError(f"account {name!r}: use letters, digits, '-', '_' and '.'")
        names = [name.lower() for name in [*users, *orgs]]  # one folder each, on any file system
        for name in names:
            if names.count(name) > 1:
                raise RegistryError(
                    f"account {name!r}: the name is taken by another account or org"
                )


def _new_token() -> str:
    alphabet = string.ascii_letters + string.digits
    return "hf_" + "".join(secrets.choice(alphabet) for _ in range(34))  # as scanners expect them


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
