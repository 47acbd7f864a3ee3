"""Fetching an adapter that ftplug did not make: only files that can be part of one."""

from __future__ import annotations

from pathlib import Path

from ftplug.adopting import folders
from ftplug.artifacts.manifest import MANIFEST
from ftplug.errors import RegistryError
from ftplug_registry.hub import Hub, check_repo_id
from ftplug_registry.pulling.source import Source

_SMALL = 2**26  # bytes of whatever holds no tensors


def fetched(
    repo_id: str, revision: str | None = None, *, allow_pickle: bool = False, hub: Hub | None = None
) -> tuple[Path, str]:
    """Download what can be part of an adapter; return its folder in the cache and its commit.

    A pickle is fetched only where it is accepted, and there is no other file of its kind.
    """
    hub = hub or Hub()
    check_repo_id(repo_id)
    with hub.stated_errors("adopt", repo_id):
        source = Source.resolve(hub, repo_id, revision)
        if source.has(MANIFEST):
            raise RegistryError(
                f"{repo_id} is an artifact of ftplug already: ftplug pull fetches it"
            )
        if not source.has(folders.CONFIG):
            source.forget()
            raise RegistryError(f"{repo_id}: no {folders.CONFIG}, so no adapter{_below(source)}")
        names = [name for name in folders.KNOWN if source.has(name)]
        tensors = [name for name in names if name in folders.WEIGHTS]
        if tensors or not allow_pickle:
            names = [name for name in names if name not in folders.PICKLES]
        if folders.HEADS[1] in names or not allow_pickle:
            names = [name for name in names if name != folders.PICKLED_HEAD]
        _refuse_pickle(source, names)
        for name in names:
            if not name.endswith((".safetensors", ".bin")) and source.size(name) > _SMALL:
                raise RegistryError(f"{repo_id}: {name} is too large for what it is")
        return source.fetch(names), source.sha


def _refuse_pickle(source: Source, names: list[str]) -> None:
    """Refuse a repository of which only a pickle holds the tensors, or the head."""
    holding = (*folders.WEIGHTS, *folders.PICKLES)
    lacking = not any(name in names for name in holding)
    for name in (*(folders.PICKLES if lacking else ()), folders.PICKLED_HEAD):
        if source.has(name) and name not in names and folders.HEADS[1] not in names:
            raise RegistryError(
                f"{source.repo_id}: {name} is a pickle: ask for safetensors, or accept it with "
                "--allow-pickle, read through torch.load(weights_only=True)"
            )


def _below(source: Source) -> str:
    """Return where in the repository there are adapters, if not at its top."""
    listed = source.listing or {}
    found = sorted(n.rpartition("/")[0] for n in listed if n.endswith(f"/{folders.CONFIG}"))
    if not found:
        return ""
    return f" of its own; there are some below ({', '.join(found[:5])}): download the one meant"
