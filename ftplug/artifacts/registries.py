"""Artifacts that lie in a registry: what the host asks of whatever package talks to one."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ftplug.entry_points import the_one
from ftplug.errors import ArtifactError, RegistryError
from ftplug.files.staged import require_whole

if TYPE_CHECKING:
    from torch import nn

GROUP = "ftplug.registries"


class Registry(Protocol):
    """What an entry point of ``ftplug.registries`` leads to: an object with these functions."""

    def pull(
        self, repo_id: str, revision: str | None = None, *, allow_pickle: bool = False
    ) -> Path:
        """Return the local folder of a verified artifact."""

    def push(self, directory: str | Path, repo_id: str, **options: Any) -> Any:
        """Publish an artifact folder."""

    def is_plain(self, directory: Path) -> bool:
        """Whether a folder is an adapter that ftplug did not make."""

    def load_plain(
        self,
        base: nn.Module | str | os.PathLike[str],
        directory: Path,
        *,
        allow_pickle: bool,
        force: bool,
    ) -> nn.Module:
        """Put an adapter that ftplug did not make on its base; NaN only with ``force``."""

    def round_trip(self, directory: Path, name: str) -> AbstractContextManager[Any]:
        """Publish to an embedded Hub, pull back, verify: yields ``path`` and figures."""


def installed_registry() -> Registry | None:
    """Return the installed registry, if there is one; PluginError where there are several."""
    point = the_one(GROUP)
    return None if point is None else cast("Registry", point.imported())


def registry() -> Registry:
    """Return the installed registry, or say that there is none."""
    installed = installed_registry()
    if installed is None:
        raise RegistryError(
            "no registry is installed (entry point ftplug.registries): install ftplug anew"
        )
    return installed


def artifact_folder(
    artifact: str | os.PathLike[str], revision: str | None = None, *, allow_pickle: bool = False
) -> Path:
    """Return the folder of an artifact: a local one as it is, ``org/name`` pulled and verified."""
    if is_published(artifact, revision):
        return registry().pull(str(artifact), revision, allow_pickle=allow_pickle)
    folder = Path(artifact)
    require_whole(folder)  # half of another artifact may look like an adapter of peft's
    return folder


def is_published(artifact: str | os.PathLike[str], revision: str | None = None) -> bool:
    """Whether this means a repository ``org/name``: there is no such folder, and it reads like one.

    Raises :class:`ArtifactError` for a folder of which a revision is asked, and for nothing at all.
    """
    if not isinstance(artifact, str | os.PathLike) or not str(artifact):
        raise ArtifactError(f"an artifact is a folder or org/name, not {artifact!r}")
    text = artifact if isinstance(artifact, str) else ""
    like_a_path = text.startswith((".", "/", "~")) or "\\" in text or text.endswith("/")
    if not os.path.exists(artifact) and text.count("/") == 1 and not like_a_path:
        return True
    if revision is not None:
        raise ArtifactError(f"{artifact}: a local folder has no revision {revision!r}")
    return False
