"""Listings of a repository's files, page by page, with sizes, digests and last commits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import pygit2
from starlette.responses import Response

from ftplug_registry.server.errors import Json, entry_not_found, hub_error
from ftplug_registry.server.handlers.calls import Call, json_object
from ftplug_registry.server.storage import trees
from ftplug_registry.server.storage.references import MAIN
from ftplug_registry.server.storage.repository import Repository, date, title_and_body

PAGE, EXPANDED_PAGE, COMMITS_PAGE = 1000, 50, 100
MAX_PATHS = 1000

_Item = dict[str, Any]


def tree(call: Call) -> Response:
    """List a folder's files and folders, with ``recursive`` also what is below them."""
    repository = call.readable()
    commit = repository.refs.commit(call.path["revision"])
    path = call.path.get("path", "").strip("/")
    folder = trees.find(commit.tree, path) if path else commit.tree
    if not isinstance(folder, pygit2.Tree):
        raise entry_not_found(path)
    expand, start = call.flag("expand"), call.number("cursor", 0, 10**9)
    size = EXPANDED_PAGE if expand else PAGE
    size = max(1, call.number("limit", size, size))
    entries = trees.walk(folder, f"{path}/" if path else "", recursive=call.flag("recursive"))
    page = list(islice(entries, start, start + size + 1))
    items = _items(repository, commit, page[:size], expand=expand)
    address = f"tree/{commit.id}" + (f"/{quote(path, safe='')}" if path else "")
    following = {"recursive": call.flag("recursive"), "expand": expand, "limit": size}
    more = {**following, "cursor": start + size} if len(page) > size else None
    return Json(items, headers=_next(call, address, more))


def paths_info(call: Call) -> Response:
    """Describe the given paths; what does not exist is left out."""
    repository = call.readable()
    commit = repository.refs.commit(call.path["revision"])
    paths, expand = _requested_paths(call)
    entries = [(path, trees.find(commit.tree, path)) for path in dict.fromkeys(paths)]
    existing = [(path, entry) for path, entry in entries if entry is not None]
    return Json(_items(repository, commit, existing, expand=expand))


def _requested_paths(call: Call) -> tuple[list[str], bool]:
    """Read the Python client's form or the JavaScript client's JSON."""
    if call.headers.get("content-type", "").startswith("application/json"):
        request = json_object(call.body)
        paths, expand = request.get("paths", []), request.get("expand") is True
    else:
        try:
            form = parse_qs(
                call.body.decode("ascii"), errors="strict", max_num_fields=MAX_PATHS + 9
            )
        except ValueError as error:
            raise hub_error(400, f"the form is not valid: {MAX_PATHS} paths at most") from error
        paths, expand = form.get("paths", []), form.get("expand", [""])[-1].lower() == "true"
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise hub_error(400, "paths must be a list of strings")
    if len(paths) > (EXPANDED_PAGE if expand else MAX_PATHS):
        raise hub_error(413, f"{len(paths)} paths are too many for one request")
    return paths, expand


def _items(
    repository: Repository, commit: pygit2.Commit, page: Sequence[trees.Listed], *, expand: bool
) -> list[_Item]:
    items = [_item(repository, path, entry) for path, entry in page]
    if expand:
        last = repository.last_commits(commit, [path for path, _ in page])
        for item in items:
            if changed := last.get(item["path"]):
                title, when = title_and_body(changed)[0], date(changed.commit_time)
                item["lastCommit"] = {"id": str(changed.id), "title": title, "date": when}
    return items


def _item(repository: Repository, path: str, entry: pygit2.Object) -> _Item:
    if trees.is_directory(entry):
        return {"type": "directory", "oid": str(entry.id), "size": 0, "path": path}
    file = repository.describe(path, entry)
    item = {"type": "file", "oid": str(file.blob), "size": file.size, "path": path}
    if file.pointer:
        size, pointer_size = file.pointer.size, file.blob_size
        item["lfs"] = {"oid": file.pointer.oid, "size": size, "pointerSize": pointer_size}
    return item


def siblings(repository: Repository, commit: pygit2.Commit, *, blobs: bool) -> list[_Item]:
    """List every file of a commit as repository infos do, with sizes and digests if wanted."""
    items: list[_Item] = []
    for path, entry in repository.files(commit):
        item: _Item = {"rfilename": path}
        if blobs:
            file = repository.describe(path, entry)
            item |= {"size": file.size, "blobId": str(file.blob)}
            if pointer := file.pointer:
                size, pointer_size = pointer.size, file.blob_size
                item["lfs"] = {"sha256": pointer.oid, "size": size, "pointerSize": pointer_size}
        items.append(item)
    return items


def commits(call: Call) -> Response:
    """List the history of a revision, newest first."""
    repository = call.readable()
    head = repository.refs.commit(call.path.get("revision", MAIN))
    size = max(1, call.number("limit", COMMITS_PAGE, PAGE))
    page = call.number("p", 0, 10**6)
    history = list(islice(repository.history(head), page * size, (page + 1) * size + 1))
    more = {"limit": size, "p": page + 1} if len(history) > size else None
    items = [_commit_item(commit) for commit in history[:size]]
    return Json(items, headers=_next(call, f"commits/{head.id}", more))


def _commit_item(commit: pygit2.Commit) -> _Item:
    title, message = title_and_body(commit)
    return {
        "id": str(commit.id),
        "title": title,
        "message": message,
        "authors": [{"user": commit.author.name}],
        "date": date(commit.commit_time),
    }


def _next(call: Call, address: str, query: dict[str, Any] | None) -> dict[str, str]:
    """Return the Link header to a list's next page: of the same commit, wherever the branch is."""
    if query is None:
        return {}
    url = f"{call.hub.endpoint}/api/{call.kind}/{call.repo_id}/{address}?{urlencode(query)}"
    return {"Link": f'<{url}>; rel="next"'}
