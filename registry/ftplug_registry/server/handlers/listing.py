"""Repositories as search shows them: infos, filters, order, pages."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

import pygit2
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ftplug_registry.server.errors import Json, hub_error
from ftplug_registry.server.handlers.calls import Call
from ftplug_registry.server.handlers.contents import siblings
from ftplug_registry.server.storage import metadata
from ftplug_registry.server.storage.references import MAIN
from ftplug_registry.server.storage.repository import Repository, date
from ftplug_registry.server.storage.trees import find, is_file

PAGE = 1000
DATES = ("lastModified", "createdAt")
COUNTS = ("downloads", "likes", "trendingScore")  # nobody counts here: all 0, newest first

logger = logging.getLogger(__name__)

_UNREADABLE = (pygit2.GitError, LookupError, OSError, ValueError, ArithmeticError)
_Info = dict[str, Any]


def info(call: Call) -> Response:
    """Describe a repository at a revision."""
    repository = call.readable()
    commit = repository.refs.commit(call.path.get("revision", MAIN))
    full = repository_info(repository, commit)
    full["siblings"] = siblings(repository, commit, blobs=call.flag("blobs"))
    return Json(_expanded(call, full))


def listing(call: Call) -> Response:
    """List the repositories of a kind that the caller may read and the query asks for."""
    sort = call.query.get("sort", DATES[0])
    if sort not in (*DATES, *COUNTS):
        raise hub_error(400, f"sort must be one of {', '.join((*DATES, *COUNTS))}")
    key = sort if sort in DATES else DATES[0]
    infos = []
    for repository in call.hub.store.repositories(call.kind):
        with _skipped(repository):
            if repo_info := _matching(call, repository):
                infos.append((repo_info[key], repo_info["id"], repo_info, repository))
    infos.sort(key=lambda row: row[:2], reverse=True)
    if after := call.query.get("cursor"):
        position = _position(after)
        infos = [row for row in infos if row[:2] < position]
    size = max(1, call.number("limit", PAGE, PAGE))
    page = infos[:size]
    items = []
    for *_, repo_info, repository in page:
        with _skipped(repository):
            items.append(_listed(call, repo_info, repository))
    headers = _next(call, page[-1][:2]) if len(infos) > size else {}
    return Json(items, headers=headers)


def repository_info(repository: Repository, commit: pygit2.Commit) -> _Info:
    """Return what is known of a repository at a commit, but for its files."""
    card = _card(repository, commit)
    config = find(commit.tree, "adapter_config.json")
    is_adapter = config is not None and is_file(config)
    created, modified = repository.created_at, date(commit.commit_time)
    name = str(repository.id)
    repo_info = {
        "_id": f"{repository.id.kind}/{name}",
        "id": name,
        "author": repository.id.namespace,
        "sha": str(commit.id),
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": metadata.tags(card, adapter=is_adapter),
        "cardData": card,
        "createdAt": created,
        "lastModified": modified,
    }
    if repository.id.kind == "models":
        repo_info["modelId"] = name
        for key in ("pipeline_tag", "library_name"):
            if isinstance(card.get(key), str):
                repo_info[key] = card[key]
    return repo_info


def _card(repository: Repository, commit: pygit2.Commit) -> dict[str, Any]:
    entry = find(commit.tree, "README.md")
    if entry is None or not is_file(entry):
        return {}
    return _read_card(str(repository.git_directory), str(entry.id))


@lru_cache(maxsize=1024)
def _read_card(git_directory: str, blob: str) -> dict[str, Any]:
    """Read a card's metadata; one that git itself brought may be anything."""
    odb = pygit2.Repository(git_directory).odb
    if odb.read_header(blob)[1] > 2 * metadata.MAX_BLOCK:
        return {}
    try:
        return metadata.parse(odb.read(blob)[1].decode(errors="replace"))
    except ValueError:
        return {}


@contextmanager
def _skipped(repository: Repository) -> Iterator[None]:
    """Leave out what has no commit yet, is deleted just now or damaged: the others are listed."""
    try:
        yield
    except HTTPException:
        return
    except _UNREADABLE as error:
        logger.warning("%s is not listed: %s: %s", repository.id, type(error).__name__, error)


def _matching(call: Call, repository: Repository) -> _Info | None:
    query, name = call.query, str(repository.id)
    if not call.may_read(repository):
        return None
    if query.get("author", repository.id.namespace) != repository.id.namespace:
        return None
    if any(word not in name.lower() for word in query.get("search", "").lower().split()):
        return None
    repo_info = repository_info(repository, repository.refs.commit(MAIN))
    wanted = [tag for text in query.getlist("filter") for tag in text.split(",") if tag]
    wanted += [tag for tag in (query.get("pipeline_tag"), query.get("library")) if tag]
    return repo_info if set(wanted) <= set(repo_info["tags"]) else None


def _listed(call: Call, repo_info: _Info, repository: Repository) -> _Info:
    full = call.flag("full")
    if full or "siblings" in _expand(call):
        commit = repository.refs.commit(repo_info["sha"])
        repo_info["siblings"] = siblings(repository, commit, blobs=False)
    if not (full or call.flag("cardData") or "cardData" in _expand(call)):
        del repo_info["cardData"]
    return _expanded(call, repo_info)


def _expand(call: Call) -> set[str]:
    return set(call.query.getlist("expand") + call.query.getlist("expand[]"))


def _expanded(call: Call, repo_info: _Info) -> _Info:
    """Keep what ``expand`` asks for, everything if it is not there."""
    wanted = _expand(call)
    if not wanted:
        return repo_info
    return {key: value for key, value in repo_info.items() if key in wanted | {"_id", "id"}}


def _next(call: Call, last: tuple[str, str]) -> dict[str, str]:
    cursor = base64.urlsafe_b64encode(json.dumps(last).encode()).decode()
    query = [(name, value) for name, value in call.query.multi_items() if name != "cursor"]
    url = f"{call.hub.endpoint}/api/{call.kind}?{urlencode([*query, ('cursor', cursor)])}"
    return {"Link": f'<{url}>; rel="next"'}


def _position(cursor: str) -> tuple[str, str]:
    try:
        value, id = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, RecursionError) as error:
        raise hub_error(400, "not a cursor of this list") from error
    return str(value), str(id)
