"""Uploads to LFS: where to send each object, receiving it, and confirming that it is here."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

from starlette.responses import Response

from ftplug_registry.server.errors import Json, hub_error, repo_not_found
from ftplug_registry.server.handlers.calls import Call, is_size
from ftplug_registry.server.storage.lfs import OID
from ftplug_registry.server.storage.repository import Repository

MAX_OBJECTS = 1000  # in one batch request
BLOCK = 1 << 20


def batch(call: Call) -> Response:
    """Tell of each LFS object where to upload it, or nothing if it is here already."""
    repository, request = call.writable(), call.json()
    objects = request.get("objects")
    if request.get("operation") != "upload":
        raise hub_error(501, "ftplug serve takes LFS uploads; downloads go by resolve")
    if not isinstance(objects, list) or len(objects) > MAX_OBJECTS:
        raise hub_error(400, f"objects must be a list of at most {MAX_OBJECTS}")
    answers = [_upload_action(call, repository, item) for item in objects]
    return Json({"transfer": "basic", "objects": answers})


def _upload_action(call: Call, repository: Repository, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict) or not is_size(item.get("size")):
        raise hub_error(400, "each of the objects needs an oid and a size")
    oid, size = item.get("oid"), item["size"]
    if not isinstance(oid, str) or not OID.fullmatch(oid):
        raise hub_error(400, "oid must be a sha256 in lower-case hex digits")
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if size > call.hub.max_upload:
        message = f"files here may have {call.hub.max_upload} bytes"
        return {**answer, "error": {"code": 413, "message": message}}
    if repository.lfs.size(oid) == size:
        return answer
    objects = f"{call.hub.endpoint}/{repository.id.url_path}.git/info/lfs/objects"
    query = call.hub.signer.query(repository.id.url_path, oid, size)
    upload, verify = f"{objects}/{oid}?{query}", f"{objects}/verify"
    return {**answer, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}


def verify(call: Call) -> Response:
    """Confirm that an LFS object is here in full."""
    repository, request = call.writable(), call.json()
    repository.lfs.pointer(request.get("oid"), request.get("size", -1))
    return Json({})


async def put_object(call: Call, chunks: AsyncIterator[bytes]) -> Response:
    """Receive an LFS object at a signed address; it is kept if its digest is its name."""
    hub, oid = call.hub, call.path["oid"]
    size = hub.signer.verified_size(call.repo_id.url_path, oid, dict(call.query))
    descriptor, name = await hub.in_pool(tempfile.mkstemp, ".lfs", "", hub.store.staging)
    try:
        with os.fdopen(descriptor, "wb") as file:
            digest, received = hashlib.sha256(), 0
            async for block in _blocks(chunks):
                received += len(block)
                if received > size:
                    raise hub_error(400, f"the object has more than {size} bytes")
                await hub.in_pool(_write, file, block, digest)
            if received != size or digest.hexdigest() != oid:
                raise hub_error(400, f"the {received} bytes received are not the object {oid}")
            await hub.in_pool(_sync, file)
        await hub.in_pool(_keep, call, oid, Path(name))
    finally:
        Path(name).unlink(missing_ok=True)
    return Response()


def _keep(call: Call, oid: str, file: Path) -> None:
    with call.hub.store.locked(call.repo_id):
        repository = call.hub.store.find(call.repo_id)
        if repository is None:
            raise repo_not_found()  # deleted meanwhile
        repository.lfs.add(oid, file)


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    block = bytearray()
    async for chunk in chunks:
        block += chunk
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _write(file: IO[bytes], block: bytes, digest: Any) -> None:
    file.write(block)
    digest.update(block)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
