"""Git trees: reading one page by page, and building the next one from a commit's operations."""

from __future__ import annotations

from collections.abc import Iterator

import pygit2
from pygit2.enums import FileMode

from ftplug_registry.server.errors import entry_not_found, hub_error

Listed = tuple[str, pygit2.Object]  # path, tree entry

_REGULAR = {FileMode.BLOB, FileMode.BLOB_EXECUTABLE}


def is_file(entry: pygit2.Object) -> bool:
    """Say whether a tree entry is a regular file.

    Symbolic links and submodules, which only git itself can put into a repository, are not:
    nothing here follows, serves or lists them.
    """
    return entry.filemode in _REGULAR


def is_directory(entry: pygit2.Object) -> bool:
    """Say whether a tree entry is a directory."""
    return entry.filemode == FileMode.TREE


def find(tree: pygit2.Tree, path: str) -> pygit2.Object | None:
    """Return the file or directory at ``path``, None where there is nothing to serve."""
    entry: pygit2.Object = tree
    if "\0" in path:  # where a C string ends
        return None
    for name in path.split("/"):
        if not isinstance(entry, pygit2.Tree) or not name:
            return None
        try:
            entry = entry[name]
        except (KeyError, ValueError):
            return None
    return entry if is_file(entry) or is_directory(entry) else None


def walk(tree: pygit2.Tree, base: str = "", *, recursive: bool) -> Iterator[Listed]:
    """Yield files and directories below ``tree``, each directory before what it holds."""
    stack = [(base, iter(tree))]
    while stack:
        base, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        if not (is_file(entry) or is_directory(entry)):
            continue
        try:
            path = base + entry.raw_name.decode()  # type: ignore[union-attr]  # entries have one
        except UnicodeDecodeError:
            continue  # no URL can name it
        yield path, entry
        if recursive and isinstance(entry, pygit2.Tree):
            stack.append((f"{path}/", iter(entry)))


class NewTree:
    """A directory of the tree that a commit makes; subdirectories are read when first touched."""

    def __init__(self, repository: pygit2.Repository, tree: pygit2.Tree | None = None) -> None:
        self._repository = repository
        self._entries = repository.TreeBuilder(tree) if tree else repository.TreeBuilder()
        self._touched: dict[str, NewTree] = {}

    def add(self, path: str, blob: pygit2.Oid) -> None:
        """Put a file at ``path``; raise 400 where a directory is, or a file on the way."""
        self._add(path.split("/"), blob, path)

    def remove(self, path: str, *, directory: bool) -> None:
        """Remove a file or a directory; raise 404 if there is none at ``path``."""
        self._remove(path.split("/"), directory, path)

    def write(self) -> pygit2.Oid:
        """Store the tree and return its id."""
        for name, child in self._touched.items():
            self._entries.insert(name, child.write(), FileMode.TREE)
        self._touched.clear()
        return self._entries.write()

    def _add(self, names: list[str], blob: pygit2.Oid, path: str) -> None:
        name, *rest = names
        if rest:
            self._child(name, path, create=True)._add(rest, blob, path)
            return
        existing = self._entries.get(name)
        if name in self._touched or (existing is not None and is_directory(existing)):
            raise hub_error(400, f"{path}: a folder of that name exists")
        executable = existing is not None and existing.filemode == FileMode.BLOB_EXECUTABLE
        mode = FileMode.BLOB_EXECUTABLE if executable else FileMode.BLOB
        self._entries.insert(name, blob, mode)

    def _remove(self, names: list[str], directory: bool, path: str) -> None:
        name, *rest = names
        if rest:
            child = self._child(name, path, create=False)
            child._remove(rest, directory, path)
            if not child._is_empty():
                return
        existing = self._entries.get(name)
        if not rest:
            is_folder = name in self._touched or (existing is not None and is_directory(existing))
            if is_folder != directory or (existing is None and not is_folder):
                raise entry_not_found(path)
        self._touched.pop(name, None)
        if existing is not None:
            self._entries.remove(name)

    def _child(self, name: str, path: str, *, create: bool) -> NewTree:
        if name not in self._touched:
            existing = self._entries.get(name)
            is_other = existing is not None and not is_directory(existing)
            if not create and (existing is None or is_other):
                raise entry_not_found(path)
            if is_other:
                raise hub_error(400, f"{path}: {name!r} is a file, not a folder")
            tree = existing if isinstance(existing, pygit2.Tree) else None
            self._touched[name] = NewTree(self._repository, tree)
        return self._touched[name]

    def _is_empty(self) -> bool:
        return not self._touched and len(self._entries) == 0
