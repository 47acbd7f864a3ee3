"""Artifacts that lie in a registry: what the host asks of whatever package talks to one."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ftplug.artifacts.notices.reading import notice_beside, tell
from ftplug.entry_points import the_one
from ftplug.errors import ArtifactError, RegistryError
from ftplug.files.staged import require_whole

if TYPE_CHECKING:
    from torch import nn

GROUP = "ftplug.registries"


class Registry(Protocol):
    """What an entry point of ``ftplug.registries`` leads to: an object with these functions."""

    def pull(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        allow_pickle: bool = False,
        require_signature: bool = False,
        trusted: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Return the local folder of a verified artifact, signed where that is asked for."""

    def require_signature(
        self, directory: Path, *, trusted: str | os.PathLike[str] | None = None
    ) -> None:
        """Refuse a folder that nobody has signed who is trusted here."""

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
        announce: bool = True,
    ) -> nn.Module:
        """Put an adapter that ftplug did not make on its base; NaN only with ``force``.

        ``announce`` warns that nothing of it is verified.
        """

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
    artifact: str | os.PathLike[str],
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    require_signature: bool = False,
    trusted: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the folder of an artifact: a local one as it is, ``org/name`` pulled and verified.

    ``require_signature``, or keys that are ``trusted``, refuse it without a signature that counts.
    What its publisher says of it (deprecated, withdrawn) is warned of.
    """
    demanded = require_signature or trusted is not None
    more: dict[str, Any] = {"trusted": trusted} if demanded else {}
    if is_published(artifact, revision):
        more |= {"require_signature": True} if demanded else {}
        return registry().pull(str(artifact), revision, allow_pickle=allow_pickle, **more)
    folder = Path(artifact)
    require_whole(folder)  # half of another artifact may look like an adapter of peft's
    if demanded:
        registry().require_signature(folder, **more)
    if folder.parent.name != "snapshots":  # of the Hub's cache: told when it was pulled
        tell(folder, notice_beside(folder))
    return folder


def signed_start(start_from: str | None, required: bool, trusted: Path | None) -> str | None:
    """Return what ``ftplug run --from`` continues: where that is asked for, signed, as a folder."""
    if not required and trusted is None:
        return start_from
    if start_from is None:
        raise ArtifactError("--require-signature and --trusted go with the artifact --from")
    return str(artifact_folder(start_from, require_signature=True, trusted=trusted).resolve())


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
