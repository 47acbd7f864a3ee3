"""Accounts and repositories as such: whoami, create, delete, move, settings, the card's check."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from ftplug_registry.server.accounts import is_name
from ftplug_registry.server.errors import BAD_TOKEN, Json, hub_error
from ftplug_registry.server.handlers.calls import Call, text_field
from ftplug_registry.server.storage import metadata
from ftplug_registry.server.storage.repository import RepoId


def whoami(call: Call) -> Response:
    """Say whose token this is."""
    account = call.account
    if account is None:
        raise hub_error(401, BAD_TOKEN)
    user = {"type": "user", "id": account.name, "name": account.name, "fullname": account.name}
    orgs = [{"type": "org", "id": org, "name": org, "fullname": org} for org in account.orgs]
    token = {"displayName": "ftplug serve", "role": "write"}
    auth = {"type": "access_token", "accessToken": token}
    return Json({**user, "email": None, "isPro": False, "orgs": orgs, "auth": auth})


def create(call: Call) -> Response:
    """Create a repository; 409 with its address if it exists, which exist_ok reads."""
    request = call.json()
    id = _repo_id(call, request)
    owner = call.owner_of(id.namespace)
    address = {"id": str(id), "name": str(id), "url": f"{call.hub.endpoint}/{id.url_path}"}
    private = bool(_private(request))
    if call.hub.store.create(id, owner, private=private):
        call.changed(f"create {id.url_path} ({'private' if private else 'public'})")
        return Json(address)
    message = f"You already created this {id.kind[:-1]} repo"
    return Json({**address, "error": message}, 409, {"X-Error-Message": message})


def delete(call: Call) -> Response:
    """Delete a repository."""
    id = _repo_id(call, call.json())
    call.writable(id)
    call.hub.store.delete(id)
    call.changed(f"delete {id.url_path}")
    return Json({"success": True})


def move(call: Call) -> Response:
    """Rename a repository or hand it to another of the caller's namespaces."""
    request = call.json()
    kind = _kind(request)
    old, new = (_id_of(kind, text_field(request, name)) for name in ("fromRepo", "toRepo"))
    call.writable(old)
    call.owner_of(new.namespace)
    if old != new:
        call.hub.store.move(old, new)
        call.changed(f"move {old.url_path} to {new.url_path}")
    return Json({"success": True, "url": f"{call.hub.endpoint}/{new.url_path}"})


def settings(call: Call) -> Response:
    """Change who may read a repository: public or private; there are no gates here."""
    repository, request = call.writable(), call.json()
    changes: dict[str, str] = {}
    private = _private(request)
    if private is not None:
        changes["visibility"] = "private" if private else "public"
    if request.get("gated", False) is not False:
        raise hub_error(501, "ftplug serve has no gates: a repository is public or private")
    with call.hub.store.locked(repository.id):
        repository = call.hub.store.reopen(repository.id)
        repository.configure(**changes)
        call.changed(f"settings of {repository.id}: {changes.get('visibility', 'as before')}")
        return Json({"private": repository.private, "gated": False})


def validate_yaml(call: Call) -> Response:
    """Check a card's metadata; 400 if there is anything wrong."""
    content = call.json().get("content")
    if not isinstance(content, str):
        raise hub_error(400, "content must be a string")
    errors = [{"message": message} for message in metadata.errors(content)]
    warnings = []
    if not errors and not metadata.parse(content):
        warnings = [{"message": "empty or missing yaml metadata in repo card"}]
    return Json({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def _repo_id(call: Call, request: dict[str, Any]) -> RepoId:
    account = call.signed_in()
    namespace = text_field(request, "organization", account.name)
    return _id_of(_kind(request), f"{namespace}/{text_field(request, 'name')}")


def _kind(request: dict[str, Any]) -> str:
    kind = text_field(request, "type", "model")
    if kind not in {"model", "dataset", "space"}:
        raise hub_error(400, "type must be model, dataset or space")
    return f"{kind}s"


def _id_of(kind: str, text: str) -> RepoId:
    namespace, _, name = text.partition("/")
    if not (is_name(namespace) and is_name(name)):
        raise hub_error(400, f"not a repository id: {re.sub(r'[^ -~]', '?', text)[:200]}")
    return RepoId(kind, namespace, name)


def _private(request: dict[str, Any]) -> bool | None:
    """Read visibility, or private as older clients send it; None if neither is there."""
    visibility, private = request.get("visibility"), request.get("private")
    if visibility is None:
        if private is not None and not isinstance(private, bool):
            raise hub_error(400, "private must be true or false")
        return private
    if visibility not in ("public", "private"):
        raise hub_error(400, "visibility must be public or private")
    return bool(visibility == "private")
