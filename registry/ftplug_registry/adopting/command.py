"""The command ``ftplug adopt``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftplug_registry.options import AsJson, Revision, Target
from ftplug_registry.printing import shown

if TYPE_CHECKING:
    from ftplug.adopting.adopt import Adopted


def adopt(
    adapter: Target,
    base: Annotated[str, typer.Option("--base", help="The model it goes on: an id or a folder.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="The artifact's folder: NAME-adopted by default.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Where it says none: text-classification, text-generation, …"),
    ] = None,
    revision: Revision = None,
    base_revision: Annotated[
        str | None, typer.Option("--base-revision", help="Branch, tag or commit sha of the base.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept tensors that lie in a pickle alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an artifact of an adapter that another library trained.

    What it reads: adapters of peft (also Unsloth's and axolotl's output folders), bottleneck and
    LoRA of AdapterHub's adapters, LoRA and DoRA of MLX. The artifact is pinned to the base by its
    weights' fingerprint, has a probe, and keeps the author's card. Its answers are compared with
    what peft itself computes: equal to 1e-6, or it is refused. Nothing of the folder is run, no
    link in it is followed, and DIR stays as it is.

    Example: ftplug adopt org/sql-lora --base org/base --to sql-lora
    """
    from ftplug.adopting.adopt import Source, adopt
    from ftplug.artifacts.registries import is_published
    from ftplug_registry.adopting.fetching import fetched

    directory, source = Path(adapter), Source()
    if is_published(adapter, revision):
        directory, sha = fetched(adapter, revision, allow_pickle=allow_pickle)
        source = Source(adapter, sha)
    name = os.path.basename(os.path.abspath(adapter)) or "adapter"  # of ., too; or of org/name
    done = adopt(
        directory,
        base,
        to=to or Path(f"{name}-adopted"),
        task=task,
        base_revision=base_revision,
        allow_pickle=allow_pickle,
        source=source,
    )
    if as_json:
        typer.echo(json.dumps(_content(done, source), indent=2))
    else:
        _print(done, adapter, base)


def _content(done: Adopted, source: Any) -> dict[str, Any]:
    manifest = done.manifest
    return {
        "path": str(done.folder),
        "was": done.title,
        "repository": source.repo_id,
        "sha": source.revision,
        "methods": [{"name": m["name"], "settings": m["settings"]} for m in manifest.methods],
        "base": manifest.base,
        "largest_difference": done.compared.difference,
        "not_compared": done.compared.note or None,
        "effect": manifest.effect,
        "remarks": done.remarks,
        "left_there": done.strays,
        "files": sorted(manifest.files),
    }


def _print(done: Adopted, adapter: str, base: str) -> None:
    from ftplug.artifacts.effects.entry import in_words
    from ftplug.method import settings_to_show

    manifest, folder = done.manifest, done.folder
    typer.echo(f"{shown(adapter)}: {shown(done.title)}")
    for method in manifest.methods:
        settings = ", ".join(f"{k}={v}" for k, v in settings_to_show(method["settings"]).items())
        typer.echo(f"is now {shown(method['name'])} ({shown(settings)}) on {shown(base)}")
    typer.echo(f"{folder}: {len(manifest.files)} files and a card, {done.bytes:,} bytes")
    typer.echo(f"answers: {_compared(done)}")
    typer.echo(f"effect: {shown(in_words(manifest.effect))}")
    for remark in done.remarks:
        typer.echo(f"note: {shown(remark)}")
    if done.strays:
        more = f" and {len(done.strays) - 8} more" if len(done.strays) > 8 else ""
        typer.echo(f"left there: {shown(', '.join(done.strays[:8]))}{more}")
    typer.echo(f'load it: model = ftplug.load("{shown(base)}", "{folder}")')
    typer.echo(f"publish it: ftplug push {folder} ORG/NAME")


def _compared(done: Adopted) -> str:
    found = done.compared
    if found.difference is None:
        return shown(f"not compared: {found.note}")
    return f"as peft's, to {found.inputs} inputs (largest difference {found.difference:.2g})"
