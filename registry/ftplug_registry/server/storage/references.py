"""Branches, tags and revisions: which commit a name stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pygit2
from pygit2.enums import ObjectType

from ftplug_registry.server.accounts import Account
from ftplug_registry.server.errors import hub_error, revision_not_found

MAIN = "main"
MAX_REF = 200  # characters: each part becomes a file name

_FULL_SHA = re.compile(r"[0-9a-fA-F]{40}")
_SHORT_SHA = re.compile(r"[0-9a-fA-F]{7,39}")


class References:
    """The refs of one git repository. Who changes any of them holds the repository's lock."""

    def __init__(self, git: pygit2.Repository) -> None:
        self._git = git

    def commit(self, revision: str) -> pygit2.Commit:
        """Return the commit of a branch, a tag, a full ref name, HEAD, or an id of 7 to 40 digits.

        A full id always means itself: no branch can take its place.
        """
        commit = self._by_id(revision) if _FULL_SHA.fullmatch(revision) else None
        names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        if revision == "HEAD" or revision.startswith("refs/"):
            names.append(revision)
        for name in names:
            commit = commit or self._by_ref(name)
        if commit is None and _SHORT_SHA.fullmatch(revision):
            commit = self._by_id(revision)
        if commit is None:
            raise revision_not_found(revision)
        return commit

    def branch_head(self, branch: str) -> pygit2.Commit:
        """Return the head of a branch, given by its short or its full name."""
        head = self._by_ref(full_name(branch))
        if head is None:
            raise revision_not_found(branch)
        return head

    def listed(self, prefix: str) -> Iterator[tuple[str, pygit2.Commit]]:
        """Yield short name and commit of every ref below ``prefix``."""
        for name in sorted(self._git.references):
            if name.startswith(prefix) and (commit := self._by_ref(name)):
                yield name.removeprefix(prefix), commit

    def create(self, name: str, commit: pygit2.Commit) -> None:
        """Create a branch or a light tag by its full name; 409 if it exists."""
        self._check_new(name)
        self._git.create_reference(name, commit.id)

    def create_tag(self, tag: str, commit: pygit2.Commit, message: str, tagger: Account) -> None:
        """Create an annotated tag; 409 if it exists."""
        self._check_new(f"refs/tags/{tag}")
        self._git.create_tag(tag, commit.id, ObjectType.COMMIT, signature(tagger), message)

    def delete(self, name: str) -> None:
        """Delete a branch or tag by its full name, or raise RevisionNotFound."""
        try:
            self._ref(name).delete()
        except (KeyError, ValueError) as error:
            raise revision_not_found(name.split("/", 2)[2]) from error

    def _by_id(self, sha: str) -> pygit2.Commit | None:
        try:
            git_object = self._git.get(sha)
        except ValueError:  # ambiguous
            return None
        return git_object if isinstance(git_object, pygit2.Commit) else None

    def _by_ref(self, name: str) -> pygit2.Commit | None:
        try:
            return self._ref(name).peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError):  # no such ref, no valid name, not a commit
            return None

    def _ref(self, name: str) -> pygit2.Reference:
        if "\0" in name:  # where a C string ends
            raise KeyError(name)
        return self._git.lookup_reference(name)

    def _check_new(self, name: str) -> None:
        short = name.split("/", 2)[2]
        is_odd = short.startswith("-") or short == "HEAD" or _FULL_SHA.fullmatch(short)
        if is_odd or len(name) > MAX_REF or not _is_ref_name(name):
            raise hub_error(400, f"Invalid reference name: {ascii(short)[:200]}")
        for other in self._git.references:  # x and x/y exclude each other
            if f"{name}/".startswith(f"{other}/") or other.startswith(f"{name}/"):
                raise hub_error(409, f"Reference already exists: {other!a}")


def full_name(branch: str) -> str:
    """Return ``refs/heads/x`` for ``x`` and for itself."""
    return f"refs/heads/{branch.removeprefix('refs/heads/')}"


def signature(account: Account) -> pygit2.Signature:
    """Return an account as git's author."""
    return pygit2.Signature(account.name, f"{account.name}@localhost")


def _is_ref_name(name: str) -> bool:
    try:
        return "\0" not in name and bool(pygit2.reference_is_valid_name(name))
    except ValueError:  # a lone surrogate
        return False
