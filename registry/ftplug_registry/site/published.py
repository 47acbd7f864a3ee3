"""Artifacts in repositories of a Hub: their small files and listings, never a weight."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ftplug.artifacts.manifest import MANIFEST, parse_manifest
from ftplug.artifacts.signatures import SIGNATURE
from ftplug.errors import FtplugError, RegistryError, one_line
from ftplug_registry.hub import Hub, check_repo_id
from ftplug_registry.pulling.source import Source
from ftplug_registry.searching import TAG
from ftplug_registry.site.found import READ, Found, Listed, Signature, Version
from ftplug_registry.site.signed import Checking

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_AT_ONCE = 4  # repositories that are asked for at the same time
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_VERSIONS = 1000


def repositories(hub: Hub, place: str) -> list[ModelInfo]:
    """Return the repositories of a namespace that ftplug published, or the one that is named.

    Raises :class:`RegistryError` where there is none, and where the Hub does not answer.
    """
    with hub.stated_errors("site", place):
        if "/" in place:
            check_repo_id(place)
            return [hub.api.model_info(place)]
        found = list(hub.api.list_models(author=place, filter=[TAG], full=True))
    if not found:
        raise RegistryError(
            f"site: {hub.api_endpoint} has no artifact of ftplug in the namespace {place!r} that "
            "the token may see: check the name; a folder is named by its path, as ./zoo"
        )
    return sorted(found, key=lambda info: info.id)


def found_on(hub: Hub, infos: list[ModelInfo], checking: Checking) -> Iterator[Found]:
    """Yield what repositories hold, in their order; what cannot be read is a remark."""
    with ThreadPoolExecutor(_AT_ONCE, "ftplug-site") as pool:
        yield from pool.map(lambda info: _found(hub, info, checking), infos)


def _found(hub: Hub, info: ModelInfo, checking: Checking) -> Found:
    own = dataclasses.replace(hub)  # watches its own requests: bounds are those of a repository
    try:
        with own.stated_errors("site", info.id):
            found = _read(own, info)
    except FtplugError as error:
        reason = one_line(error).removeprefix(f"site {info.id}: ")
        return Found(info.id, url=_url(hub, info.id), remark=f"cannot be read: {reason}")
    return dataclasses.replace(found, signature=_signature(found, checking))


def _read(hub: Hub, info: ModelInfo) -> Found:
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise RegistryError(f"{info.id}: the Hub names no commit")
    source = Source(hub, info.id, str(info.sha))
    if source.listing is None:
        raise RegistryError("the Hub cannot be reached")
    names = [name for name, most in READ.items() if source.has(name) and source.size(name) <= most]
    refs = hub.api.list_repo_refs(info.id)
    versions = [Version(one.name, one.target_commit) for one in refs.tags]
    versions += [Version(one.name, one.target_commit, "branch") for one in refs.branches]
    return Found(
        info.id,
        files={name: source.read(name) for name in names},
        listed={
            name: Listed(one.size, one.lfs.sha256 if one.lfs else None)
            for name, one in source.listing.items()
        },
        url=_url(hub, info.id),
        endpoint=_without_password(hub.api_endpoint),
        sha=source.sha,
        date=info.last_modified.isoformat() if info.last_modified else None,
        versions=tuple(versions[:_MOST_VERSIONS]),
    )


def _url(hub: Hub, repo_id: str) -> str | None:
    """Return a repository's page, unless that is on this machine: others could not open it."""
    is_local = urlsplit(hub.api_endpoint).hostname in _LOCAL
    return None if is_local else _without_password(hub.url(repo_id))


def _without_password(address: str) -> str:
    """Return an address without the name and password that may stand before its host."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _signature(found: Found, checking: Checking) -> Signature | None:
    if MANIFEST not in found.files:
        return None
    if SIGNATURE not in found.files:
        return Signature()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in found.files.items():
            (Path(folder) / name).write_bytes(content)
        try:
            manifest = parse_manifest(found.files[MANIFEST], Path(MANIFEST), plugins=False)
        except FtplugError:
            return None
        return checking.checked(Path(folder), manifest)
