"""Paths in a repository: which ones a commit may contain."""

from __future__ import annotations

import re

from ftplug_registry.server.errors import hub_error

MAX_PATH = 1024  # bytes of UTF-8
MAX_COMPONENT = 255  # bytes: what file systems take
MAX_DEPTH = 64

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_SHORT_NAME = re.compile(r"gi\w*~\d+.*")  # what NTFS calls .git and its like


def checked_path(path: object) -> str:
    """Return ``path`` if a commit may hold a file there, on every system that checks it out.

    Raises:
        HTTPException: 400; the path is absolute, leaves the repository, names git's own files in
            one of their spellings, is too long, or is not text.
    """
    if not isinstance(path, str) or not path or _CONTROL.search(path):
        raise hub_error(400, f"not a path in a repository: {_shown(path)}")
    components = path.split("/")
    if len(path.encode()) > MAX_PATH or len(components) > MAX_DEPTH:
        raise hub_error(400, f"path is too long or too deep: {_shown(path)}")
    for component in components:
        if component in {"", ".", ".."} or len(component.encode()) > MAX_COMPONENT:
            raise hub_error(400, f"not a path in a repository: {_shown(path)}")
        if _is_gits_own(component):
            raise hub_error(400, f"path belongs to git itself: {_shown(path)}")
    return path


def _is_gits_own(component: str) -> bool:
    plain = _IGNORED_BY_HFS.sub("", component).casefold().partition(":")[0].rstrip(" .")
    if plain in {".git", ".gitmodules"} or _SHORT_NAME.fullmatch(plain):
        return True
    return plain in {".gitattributes", ".gitignore", ".mailmap"} and component != plain


def _shown(path: object) -> str:
    return ascii(path)[:200]
