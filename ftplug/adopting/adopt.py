"""From a folder that another library saved to an artifact of ftplug, in one step or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.adopting import folders
from ftplug.adopting.bases import BaseOf
from ftplug.adopting.comparing import Compared, compared, refuse_unable
from ftplug.adopting.foreign import Foreign, layout_of
from ftplug.adopting.placing import refuse_inside, refuse_taken
from ftplug.adopting.tokenizers import tokenizer_in
from ftplug.adopting.words import author_of
from ftplug.artifacts.author import Author, is_repo_id
from ftplug.artifacts.json_values import read_object
from ftplug.artifacts.manifest import Manifest, read_manifest
from ftplug.artifacts.registries import registry
from ftplug.artifacts.saving import save, take_over_saving
from ftplug.artifacts.tensors import check_finite, copy_tensors
from ftplug.attaching.attachment import Attachment, prepare
from ftplug.base.inspecting import inspect_base
from ftplug.context import Context, logger
from ftplug.effect.taking import take_base
from ftplug.errors import ArtifactError, FtplugError, MethodError, one_line
from ftplug.host import resolve

if TYPE_CHECKING:
    from torch import Tensor, nn


_FORCE = re.compile(r"[;:] force=True loads[^;:]*")  # what loading says, and adopting has not


@dataclass(frozen=True)
class Source:
    """Where an adapter is from: a repository and its commit, or neither for a folder."""

    repo_id: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Adopted:
    """The artifact that an adapter became, and what should be said of it.

    ``title`` is what it was, ``strays`` what lay beside it and stayed there.
    """

    folder: Path
    manifest: Manifest
    title: str
    compared: Compared
    remarks: tuple[str, ...]
    strays: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def adopt(
    directory: str | os.PathLike[str],
    base: str,
    *,
    to: str | os.PathLike[str],
    task: str | None = None,
    base_revision: str | None = None,
    allow_pickle: bool = False,
    source: Source | None = None,
) -> Adopted:
    """Make an artifact of an adapter that another library trained.

    ``directory`` is its folder, ``base`` the id or folder of the model that it goes on, of which
    ``base_revision`` is loaded. ``task`` is a pipeline tag, where the adapter does not say its own.
    What peft can read is put on the base by peft, too, and both must give the same answers; so two
    copies of the base are in memory. ``to`` appears complete or not at all.

    Raises :class:`ArtifactError` for what is not sound, and for what no method of ftplug expresses.
    """
    target = Path(to)
    refuse_taken(target)
    picked = folders.picked(Path(directory))
    refuse_inside(target, picked)
    with tempfile.TemporaryDirectory(prefix="ftplug-adopt-") as private:
        copied = folders.copied(picked, Path(private, "adapter"))
        with _named(private, picked):
            foreign = _read(copied.folder, Path(private, "converted"), allow_pickle)
            bases = BaseOf(foreign, base, task=task, revision=base_revision)
            loaded, own = _reference(foreign, bases, allow_pickle)
            model = bases.built()
            attached = _attached(model, foreign, loaded, picked)
            _take_values(model, attached, foreign, loaded, own, picked)
            found = _compared(model, attached, foreign, loaded, picked)
            del loaded
            author = _author(copied.folder)
            tokenizer = tokenizer_in(copied.folder, Path(private, "tokenizer"))
            save(
                model,
                target,
                exist_ok=False,  # somebody may have been faster
                training={"adopted": _facts(foreign, copied, source or Source(), found)},
                author=author,
                processing_class=tokenizer,
            )
    remarks = (*_about_base(foreign, base), *foreign.remarks)
    manifest = read_manifest(target)
    return Adopted(target, manifest, foreign.title, found, remarks, copied.strays)


@contextmanager
def _named(private: str, picked: Path) -> Iterator[None]:
    """Name the user's folder in messages, not the copy of it, or what was made of that."""
    try:
        yield
    except FtplugError as error:
        text = one_line(error.args[0] if error.args else "")
        if private not in text and not _FORCE.search(text):
            raise
        text = _FORCE.sub("", text)
        for copy in (Path(private, "adapter"), Path(private, "converted"), private):
            text = text.replace(str(copy), str(picked))
        raise type(error)(text) from error


def _read(folder: Path, workspace: Path, allow_pickle: bool) -> Foreign:
    workspace.mkdir()
    config = read_object(folder / folders.CONFIG)
    layout = layout_of(folder, config)
    return layout.read(folder, config, workspace, allow_pickle=allow_pickle)


def _reference(
    foreign: Foreign, bases: BaseOf, allow_pickle: bool
) -> tuple[nn.Module | None, Collection[int]]:
    """Return what peft makes of the adapter on a base of its own, and the ids of that base's."""
    if foreign.plain is None:
        return None, ()
    base = bases.built()
    own = {id(parameter) for parameter in base.parameters()}
    loaded = registry().load_plain(
        base, foreign.plain, allow_pickle=allow_pickle, force=False, announce=False
    )
    return loaded, own


def _attached(
    model: nn.Module, foreign: Foreign, loaded: nn.Module | None, where: Path
) -> Attachment:
    """Put the adapter's methods on the base; its values come later."""
    base = inspect_base(model)
    # A head that it holds is its own, whatever the values: a bias may still be zero.
    held = [name for name in base.head if name in foreign.shapes]
    changed = list(dict.fromkeys([*held, *foreign.changed(model, loaded)]))
    if lacking := [n for n in base.fresh if n not in changed]:
        raise ArtifactError(
            f"{where}: neither base nor adapter has values for {lacking[0]} ({len(lacking)} such "
            "tensors): choose the base, or the --task, that it was trained on"
        )
    names = {name for name, _ in model.named_parameters()}
    rest = [name for name in changed if name not in base.head and name in names]
    try:
        methods = resolve(*_as_given(foreign.methods(model, loaded, rest)))
    except MethodError as error:  # a setting beyond what ftplug's method takes
        raise ArtifactError(f"{where}: {error}: use it by the library that it is from") from error
    context = Context(
        seed=0, task=structure.task_of(model), model_class=type(model).__name__, loading=True
    )
    head = any(name in base.head for name in changed)
    try:
        attached = prepare(model, methods, context, train_head=head, fresh=base.fresh)
    except MethodError as error:
        raise ArtifactError(f"{where}: does not fit this base: {error}") from error
    take_base(model)
    take_over_saving(model)
    return attached


def _as_given(
    entries: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[list[str], dict[str, Any]]:
    """Return methods and settings as a user gives them: of several ``lora.r``."""
    names = [name for name, _ in entries]
    if len(entries) == 1:
        return names, dict(entries[0][1])
    return names, {f"{name}.{key}": value for name, own in entries for key, value in own.items()}


def _take_values(
    model: nn.Module,
    attached: Attachment,
    foreign: Foreign,
    loaded: nn.Module | None,
    own: Collection[int],
    where: Path,
) -> None:
    """Copy the adapter's values into the prepared model; nothing may be left on either side."""
    live: Mapping[str, Tensor] = structure.named_tensors(model)
    values: dict[str, Tensor] = {}
    for name in attached.plan.saved:
        value = foreign.value(name, live[name], loaded)
        if value is None and name in attached.plan.may_train:
            raise ArtifactError(f"{where}: it has no values for {name}")
        if value is None:
            continue  # computed from the base or a seed, as there
        if value.shape != live[name].shape:
            raise ArtifactError(
                f"{where}: {name} is {tuple(value.shape)}, ftplug's {attached.host.names} needs "
                f"{tuple(live[name].shape)}"
            )
        values[name] = value.detach()
    if left := foreign.left(loaded, own):
        raise ArtifactError(
            f"{where}: {attached.host.names} has no place for {one_line(left[0])[:200]} "
            f"({len(left)} such tensors)"
        )
    check_finite(model, values, where, but=dict(model.named_buffers()).keys())
    copy_tensors(model, attached.plan, values)
    model.eval()


def _compared(
    model: nn.Module,
    attached: Attachment,
    foreign: Foreign,
    loaded: nn.Module | None,
    where: Path,
) -> Compared:
    taken = attached.taken
    if taken.missing is not None:
        refuse_unable(model, attached, where)
    if loaded is None:
        return Compared(note="the library it is from was not asked")
    if taken.missing is not None:
        return Compared(note=taken.missing.note)
    found = compared(
        *(model, loaded, taken.inputs, where), also=foreign.also, unheard=foreign.unheard
    )
    if found.note:
        logger.warning("%s: not compared with peft: %s", where, found.note)
    return found


def _facts(
    foreign: Foreign, copied: folders.Copied, source: Source, found: Compared
) -> dict[str, Any]:
    """Return what manifest and card say of where it is from; no path of anybody's machine."""
    facts: dict[str, Any] = {"was": foreign.title, "sha256": copied.sha256}
    if source.repo_id:
        facts |= {"repository": source.repo_id, "revision": source.revision}
    if is_repo_id(foreign.named_base):
        facts["named_base"] = foreign.named_base
    if found.difference is not None:
        facts |= {"largest_difference": found.difference, "inputs": found.inputs}
    return facts


def _author(folder: Path) -> Author:
    card = folder / folders.CARD
    return author_of(card) if card.is_file() else {}


def _about_base(foreign: Foreign, base: str) -> Iterator[str]:
    named = foreign.named_base
    if named and named != base:
        yield f"it says that it was trained on {one_line(named)[:120]!a}, and is now on {base}"
