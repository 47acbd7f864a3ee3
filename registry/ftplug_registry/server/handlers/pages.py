"""Pages for a browser: the list at ``/``, and a page at each repository's address.

They show what the caller may read by the same check as the API: a browser has no token, so that
private repositories look absent.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pygit2
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ftplug_registry.server.accounts import RESERVED
from ftplug_registry.server.errors import hub_error
from ftplug_registry.server.handlers.calls import Call
from ftplug_registry.server.storage.references import MAIN
from ftplug_registry.server.storage.repository import RepoId, Repository, date
from ftplug_registry.server.storage.trees import find, is_file
from ftplug_registry.site import pages
from ftplug_registry.site.addresses import Addresses
from ftplug_registry.site.artifact import Artifact, read
from ftplug_registry.site.found import READ, Found, Listed, Version
from ftplug_registry.site.pages import Site

_TITLE = "Models served here"
_KEPT = 512  # commits whose manifests stay read
_MOST_FILES = 10_000
_UNREADABLE = (pygit2.GitError, LookupError, OSError, ValueError)
_HEADERS = {
    "Content-Security-Policy": f"{pages.POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization",
}


def home(call: Call) -> Response:
    """Show the list of all repositories, or with an owner in the address of those of one."""
    owner = call.path.get("owner")
    artifacts = [one for one in _artifacts(call) if owner in (None, one.name.partition("/")[0])]
    if owner is not None and not artifacts:
        return _missing(call)
    title = _TITLE if owner is None else f"{owner}: models"
    return _html(call, Site(artifacts, _addresses(artifacts), title).home())


def comparisons(call: Call) -> Response:
    """Show what ``ftplug compare`` concluded."""
    return _html(call, _site(call).comparisons())


def bases(call: Call) -> Response:
    """Show quality against size."""
    return _html(call, _site(call).bases())


def page(call: Call) -> Response:
    """Show a repository, at a revision if the address names one."""
    if call.path["namespace"] in RESERVED:
        raise hub_error(404, "Not Found")
    id = RepoId("models", call.path["namespace"], call.path["name"])
    revision = call.path.get("revision", MAIN)
    try:
        repository = call.readable(id)
        artifact = _artifact(call, repository, repository.refs.commit(revision))
    except HTTPException:
        return _missing(call)
    site = Site([artifact], _addresses([artifact]), _TITLE)
    return _html(call, site.page(artifact))


def style(call: Call) -> Response:
    """Serve the style sheet."""
    return _answer(call, pages.style(), "text/css")


def script(call: Call) -> Response:
    """Serve the script."""
    return _answer(call, pages.script(), "text/javascript")


def _site(call: Call) -> Site:
    artifacts = list(_artifacts(call))
    return Site(artifacts, _addresses(artifacts), _TITLE)


def _addresses(artifacts: list[Artifact]) -> Addresses:
    return Addresses.of_server(one.name for one in artifacts)


def _artifacts(call: Call) -> Iterator[Artifact]:
    """Yield the models that the caller may read; what is damaged has a remark."""
    for repository in call.hub.store.repositories("models"):
        try:
            if call.may_read(repository):
                yield _artifact(call, repository, repository.refs.commit(MAIN))
        except HTTPException:  # deleted just now
            continue
        except _UNREADABLE:
            yield read(Found(str(repository.id), remark="the repository cannot be read"))


def _artifact(call: Call, repository: Repository, commit: pygit2.Commit) -> Artifact:
    known = _read(str(repository.git_directory), str(commit.id), repository.id)
    refs = (("tag", "refs/tags/"), ("branch", "refs/heads/"))
    versions = tuple(
        Version(name, str(at.id), kind)
        for kind, prefix in refs
        for name, at in repository.refs.listed(prefix)
    )
    return dataclasses.replace(known, versions=versions, endpoint=call.hub.endpoint)


@lru_cache(maxsize=_KEPT)
def _read(git_directory: str, sha: str, id: RepoId) -> Artifact:
    """Read a commit, whose content never changes."""
    repository = Repository(id, Path(git_directory).parent)
    commit = repository.refs.commit(sha)
    return read(
        Found(
            str(id),
            files=dict(_files(repository, commit)),
            listed=dict(_listed(repository, commit)),
            sha=sha,
            date=date(commit.commit_time),
        )
    )


def _files(repository: Repository, commit: pygit2.Commit) -> Iterator[tuple[str, bytes]]:
    for name, most in READ.items():
        entry = find(commit.tree, name)
        if entry is not None and is_file(entry):
            file = repository.describe(name, entry)
            if file.pointer is None and file.size <= most:
                yield name, repository.content(file.blob)


def _listed(repository: Repository, commit: pygit2.Commit) -> Iterator[tuple[str, Listed]]:
    for count, (path, entry) in enumerate(repository.files(commit)):
        if count == _MOST_FILES:
            return
        file = repository.describe(path, entry)
        yield path, Listed(file.size, file.pointer.oid if file.pointer else None)


def _missing(call: Call) -> Response:
    site = Site([], _addresses([]), _TITLE)
    return Response(site.missing(""), 404, _HEADERS, media_type="text/html")


def _html(call: Call, text: str) -> Response:
    return _answer(call, text, "text/html")


def _answer(call: Call, text: str, kind: str) -> Response:
    """Answer with a page, or that the browser has it already."""
    content = text.encode("utf-8")
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": etag}
    known = call.headers.get("if-none-match", "")
    if known.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)
