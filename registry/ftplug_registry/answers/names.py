"""Commits, digests, sizes and file names that a Hub may say: by allow-lists, before any use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_FILES = 20_000  # of a commit
LARGEST_FILE = 2**50  # bytes

_SHA = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1 of a blob, or a sha256
_REPO = re.compile(r"[\w.-]{1,100}(/[\w.-]{1,100})?", re.ASCII)
_ODD = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_LONGEST = 1024  # characters of a name


class OddAnswerError(ValueError):
    """An answer that no Hub gives; its text says what is odd about it."""


@dataclass(frozen=True)
class Listed:
    """What a tree says of a file: bytes, and the digests that may stand for its content."""

    size: int
    digests: frozenset[str]


def check_sha(value: object) -> str:
    """Return a full commit sha."""
    if not isinstance(value, str) or not _SHA.fullmatch(value):
        raise OddAnswerError(f"names the commit {_shown(value)}, which is no sha")
    return value


def check_digest(value: object) -> str:
    """Return a digest: the client makes a file name of it."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise OddAnswerError(f"names the content {_shown(value)}, which is no sha1 or sha256")
    return value


def check_size(value: object) -> int:
    """Return a size in bytes."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_FILE:
        raise OddAnswerError(f"states the size {_shown(value)}, which is none")
    return value


def check_name(value: object) -> str:
    """Return a file's name, which stays below the folder it is put in."""
    parts = value.split("/") if isinstance(value, str) else [""]
    if (
        not isinstance(value, str)
        or len(value) > _LONGEST
        or _ODD.search(value)
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise OddAnswerError(f"names the file {_shown(value)}, which no repository can hold")
    return value


def read_json(content: bytes) -> Any:
    """Return what a JSON answer says."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, a huge number, or too deep
        raise OddAnswerError(f"does not answer in JSON ({type(error).__name__})") from None


def tree_in(answer: Any) -> Iterator[tuple[str, Listed]]:
    """Yield name and facts of every file of a page of a tree."""
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        raise OddAnswerError("lists no files where it should")
    for item in answer:
        name = check_name(item.get("path"))
        if item.get("type") == "directory":
            continue
        digests = {check_digest(item.get("oid"))}
        size = check_size(item.get("size"))
        if (lfs := item.get("lfs")) is not None:
            if not isinstance(lfs, dict):
                raise OddAnswerError(f"says of {_shown(name)} that it is {_shown(lfs)}")
            digests.add(check_digest(lfs.get("oid")))
            if check_size(lfs.get("size")) != size:
                raise OddAnswerError(f"states two sizes of {_shown(name)}")
        yield name, Listed(size, frozenset(digests))


def check_info(answer: Any, revision: str | None) -> None:
    """Refuse a description of a repository with an odd commit, another one, or odd names."""
    if not isinstance(answer, dict):
        raise OddAnswerError("does not describe the repository")
    sha = check_sha(answer.get("sha"))
    if revision and _SHA.fullmatch(revision) and sha != revision:
        raise OddAnswerError(f"answers with commit {sha} instead of {revision}")
    siblings = answer.get("siblings")
    if siblings is not None and not isinstance(siblings, list):
        raise OddAnswerError("lists no files where it should")
    if len(siblings or ()) > MOST_FILES:
        raise OddAnswerError(f"lists more than {MOST_FILES} files")
    for file in siblings or ():
        check_name(file.get("rfilename") if isinstance(file, dict) else file)


def check_list(answer: Any) -> None:
    """Refuse a list of repositories that the client or a table could not take."""
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        raise OddAnswerError("lists no repositories where it should")
    for item in answer:
        if not isinstance(id := item.get("id"), str) or not _REPO.fullmatch(id):
            raise OddAnswerError(f"lists {_shown(id)}, which is no repository")
        tags, card = item.get("tags") or [], item.get("cardData") or {}
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise OddAnswerError(f"lists {id} with odd tags")
        if not isinstance(card, dict) or not isinstance(item.get("pipeline_tag") or "", str):
            raise OddAnswerError(f"lists {id} with an odd card")


def check_commits(answer: Any) -> None:
    """Refuse a history whose commits have no sha: the client makes paths of them."""
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        raise OddAnswerError("lists no commits where it should")
    for item in answer:
        check_sha(item.get("id"))


def check_refs(answer: Any) -> None:
    """Refuse branches and tags without a name, or that stand for no commit."""
    if not isinstance(answer, dict):
        raise OddAnswerError("lists no branches where it should")
    for kind in ("branches", "tags"):
        refs = answer.get(kind) or []
        if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
            raise OddAnswerError(f"lists no {kind} where it should")
        for ref in refs:
            check_name(ref.get("name"))
            check_sha(ref.get("targetCommit"))


def check_commit(answer: Any) -> None:
    """Refuse an odd commit as the answer to what was sent."""
    if isinstance(answer, dict) and "commitOid" in answer:
        check_sha(answer["commitOid"])


def _shown(value: object) -> str:
    plain = isinstance(value, str | float | None) or (isinstance(value, int) and abs(value) < 2**64)
    text = ascii(value) if plain else type(value).__name__
    return text if len(text) <= 80 else text[:80] + "…"
