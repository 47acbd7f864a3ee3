"""Branches and tags."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ftplug_registry.server.errors import Json, hub_error
from ftplug_registry.server.handlers.calls import Call, text_field
from ftplug_registry.server.storage.references import MAIN
from ftplug_registry.server.storage.repository import Repository


def refs(call: Call) -> Response:
    """List branches and tags with the commits they stand for."""
    repository = call.readable()
    answer = {
        "branches": _listed(repository, "refs/heads/"),
        "converts": [],
        "tags": _listed(repository, "refs/tags/"),
    }
    return Json(answer | ({"pullRequests": []} if call.flag("include_prs") else {}))


def _listed(repository: Repository, prefix: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "ref": prefix + name, "targetCommit": str(commit.id)}
        for name, commit in repository.refs.listed(prefix)
    ]


def create_branch(call: Call) -> Response:
    """Create a branch at ``startingPoint``, by default where main is."""
    repository, request = call.writable(), call.json()
    if request.get("emptyBranch") or request.get("overwrite"):
        raise hub_error(501, "ftplug serve creates branches at a revision and overwrites none")
    name = f"refs/heads/{call.path['branch']}"
    start = text_field(request, "startingPoint", MAIN)
    with call.hub.store.locked(repository.id):
        repository = call.hub.store.reopen(repository.id)
        commit = repository.refs.commit(start)
        repository.refs.create(name, commit)
    call.changed(f"branch {call.path['branch']} of {repository.id.url_path} at {commit.id}")
    return Json({"success": True})


def delete_branch(call: Call) -> Response:
    """Delete a branch other than main."""
    repository, branch = call.writable(), call.path["branch"]
    if branch == MAIN:
        raise hub_error(403, "The branch main cannot be deleted")
    with call.hub.store.locked(repository.id):
        call.hub.store.reopen(repository.id).refs.delete(f"refs/heads/{branch}")
    call.changed(f"delete branch {branch} of {repository.id.url_path}")
    return Json({"success": True})


def create_tag(call: Call) -> Response:
    """Tag a revision; with a message the tag is an annotated one."""
    repository, request = call.writable(), call.json()
    tag, message = text_field(request, "tag"), text_field(request, "message", "")
    with call.hub.store.locked(repository.id):
        repository = call.hub.store.reopen(repository.id)
        commit = repository.refs.commit(call.path["revision"])
        if message:
            repository.refs.create_tag(tag, commit, message, call.signed_in())
        else:
            repository.refs.create(f"refs/tags/{tag}", commit)
    call.changed(f"tag {tag} of {repository.id.url_path} at {commit.id}")
    return Json({"success": True})


def delete_tag(call: Call) -> Response:
    """Delete a tag; what it stood for stays."""
    repository, tag = call.writable(), call.path["revision"]
    with call.hub.store.locked(repository.id):
        call.hub.store.reopen(repository.id).refs.delete(f"refs/tags/{tag}")
    call.changed(f"delete tag {tag} of {repository.id.url_path}")
    return Json({"success": True})
