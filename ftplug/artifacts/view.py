"""A folder that has an artifact's verified files alone, which methods read instead of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug import discovery
from ftplug.artifacts.contents import Contents
from ftplug.artifacts.file_names import is_config
from ftplug.artifacts.strangers.harmless import place_config
from ftplug.attaching.attachment import require_attachment
from ftplug.errors import ArtifactError

if TYPE_CHECKING:
    from torch import nn

# None is Python's own choice. Links and configs take no room: in a container that cannot be written
# there is usually shared memory.
PLACES: tuple[str | None, ...] = (None, "/dev/shm")
_OURS = "ftplug"  # the distribution of the methods that read listed weights by name, no configs


@contextmanager
def view_of(contents: Contents, model: nn.Module) -> Iterator[Path]:
    """Yield a folder of links to the files that were verified.

    Configs are there as :mod:`ftplug.artifacts.strangers.harmless` lets them through. Where no
    folder can be made it is the artifact's own, for methods that come with ftplug alone, and only
    if all weights in it are listed; otherwise raises :class:`ArtifactError`.
    """
    with ExitStack() as within:
        for place in PLACES:
            try:
                made = tempfile.TemporaryDirectory(prefix="ftplug-", dir=place)
                view = Path(within.enter_context(made))
                _place_files(contents, model, view)
            except OSError as error:
                reason = error
                continue
            break
        else:
            _require_readable_in_place(contents, model, reason)
            view = contents.directory
        yield view


def _place_files(contents: Contents, model: nn.Module, view: Path) -> None:
    for name in contents.names:
        source, target = contents.directory / name, view / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_config(name):
            place_config(contents.config(name), source, target, model)
        else:
            target.symlink_to(source.resolve())


def _require_readable_in_place(contents: Contents, model: nn.Module, reason: OSError) -> None:
    """Refuse what only a folder of our own keeps from a method: other files, a stranger's words."""
    directory = contents.directory
    cure = f"there is no writable temporary folder ({reason}): set TMPDIR to one"
    host = require_attachment(model).host
    for method in host.methods:
        ours = discovery.is_offered(method.name)
        ours = ours and discovery.entry(method.name).distribution == _OURS
        if host.implements_for(method, "load_artifact") and not ours:
            raise ArtifactError(
                f"{directory}: {method.name} reads files of an artifact in ways of its own, and "
                + cure
            )
    for path in directory.rglob("*.safetensors"):
        if (name := path.relative_to(directory).as_posix()) not in contents.names:
            raise ArtifactError(f"{directory}: {name} is not listed in its manifest, and {cure}")
