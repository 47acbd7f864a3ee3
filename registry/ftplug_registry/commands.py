"""The registry's commands, which join ``ftplug`` through the entry point ``ftplug.commands``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftplug.cli import printable
from ftplug_registry.server.command import serve

if TYPE_CHECKING:
    from ftplug_registry.pushing.publishing import Published

_WIDEST = 400  # characters of a cell

Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit sha.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Target = Annotated[str, typer.Argument(metavar="DIR|REPO_ID", help="A folder, or org/name.")]


def add_commands(app: typer.Typer) -> None:
    """Add push, pull, search, show, verify and serve to the command line."""
    for command in (push, pull, search, show, verify, serve):
        app.command()(command)


def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="Where to: org/name.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch; made where it is missing.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Name this version, e.g. v1.0: it can be pulled.")
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option("--notes", help="Markdown for the card: intended use and limits."),
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="Licence of the adapter, if not its base's.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", help="Commit message.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print what would be sent; send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish an artifact on the Hub: one commit, complete or not at all.

    Pickles, tokens or keys in text, and files that belong to neither manifest nor card are refused.
    HF_ENDPOINT and the saved token (hf auth login) are honoured.

    Example: ftplug push artifact org/my-adapter --tag v1 --notes notes.md
    """
    from ftplug_registry.contents import contents, size_of
    from ftplug_registry.hub import Hub
    from ftplug_registry.pushing.publishing import push

    author = {k: v for k, v in {"notes": _text(notes), "license": license}.items() if v}

    def announce(sizes: Mapping[str, int], url: str) -> None:
        if not as_json:
            _print_files(sizes, f"to {url}, branch {revision or 'main'}")

    if dry_run:
        files = contents(directory, repo_id, author)
        sizes = {name: size_of(content) for name, content in sorted(files.items())}
        announce(sizes, Hub().url(repo_id))
        typer.echo(json.dumps(sizes, indent=2) if as_json else "nothing was sent (--dry-run)")
        return
    done = push(
        directory,
        repo_id,
        revision=revision,
        private=private,
        tag=tag,
        author=author,
        message=message,
        announce=announce,
    )
    if as_json:
        content = {k: v for k, v in vars(done).items() if k != "commit"} | {"tag": tag}
        typer.echo(json.dumps(content, indent=2))
    else:
        _print_published(done, tag)


def pull(
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="What to fetch: org/name.")],
    revision: Revision = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="A folder of its own, besides the Hub's cache.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Download anew: cures a damaged cache.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let --to replace another artifact.")
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Accept pickled weights of a plain PEFT repository."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch an artifact through the Hub's cache and verify it; a second time works offline.

    Example: ftplug pull org/my-adapter --revision v1 --to adapter
    """
    from ftplug_registry.pulling.fetching import snapshot

    fetched = snapshot(
        repo_id, revision, to=to, force=force, overwrite=overwrite, allow_pickle=allow_pickle
    )
    verified = fetched.manifest is not None
    if as_json:
        content = {"repo_id": repo_id, "sha": fetched.sha, "path": str(fetched.path)}
        typer.echo(json.dumps(content | {"verified": verified, "files": fetched.files}, indent=2))
        return
    if fetched.manifest is not None:
        names = fetched.manifest.method_names
        typer.echo(
            f"{repo_id} at {fetched.sha}: {names}, {len(fetched.manifest.files)} files verified"
        )
    else:
        typer.echo(f"{repo_id} at {fetched.sha}: a plain PEFT repository, nothing to verify it by")
    typer.echo(str(fetched.path))


def search(
    text: Annotated[str | None, typer.Argument(help="Text in the repository's name.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="Base model id.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-M", help="Method name.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Pipeline tag, e.g. text-classification.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Only those that report it, e.g. accuracy.")
    ] = None,
    author: Annotated[str | None, typer.Option("--author", help="User or organisation.")] = None,
    sort: Annotated[
        str, typer.Option("--sort", help="modified, created, downloads, likes or metric.")
    ] = "modified",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Results on a page.")] = 20,
    page: Annotated[int, typer.Option("--page", min=1, help="Which page.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Find artifacts by base, method, task or metric.

    Example: ftplug search --base org/bert --method lora --metric accuracy --sort metric
    """
    from ftplug_registry.searching import search

    matches = search(
        text,
        base=base,
        method=method,
        task=task,
        metric=metric,
        author=author,
        sort=sort,
        limit=limit,
        page=page,
    )
    if as_json:
        results = [dataclasses.asdict(one) for one in matches.results]
        typer.echo(
            json.dumps({"results": results, "page": page, "more": matches.more}, default=str)
        )
        return
    if not matches.results:
        typer.echo("nothing found" if page == 1 else f"nothing on page {page}")
        return
    heads = ("repository", "method", "base", "task", "metrics", "modified")
    lines = [
        (
            one.repo_id + (" (private)" if one.private else ""),
            " + ".join(one.methods),
            one.base or "",
            one.task or "",
            ", ".join(f"{name} {value:.3f}" for name, value in one.metrics.items()),
            f"{one.modified:%Y-%m-%d}" if one.modified else "",
        )
        for one in matches.results
    ]
    _print_table(heads, lines)
    if matches.more:
        typer.echo(f"more with --page {page + 1}")


def show(artifact: Target, revision: Revision = None, as_json: AsJson = False) -> None:
    """Show what an artifact is: method, base, data, metrics. Only its manifest is fetched.

    Example: ftplug show org/my-adapter
    """
    from ftplug_registry.showing import rows, show

    content = show(artifact, revision)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _print_table(None, rows(content))


def verify(
    artifact: Target,
    revision: Revision = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Id or folder of the base, if not as recorded.")
    ] = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Leave the base's weights unchecked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute every file's sha256 and the fingerprint of the base's weights.

    Example: ftplug verify org/my-adapter --revision v1
    """
    from ftplug_registry.verification import verify

    done = verify(artifact, revision, base=base, files_only=files_only)
    if as_json:
        typer.echo(json.dumps(done.as_json(), indent=2))
        return
    typer.echo(f"{len(done.files)} files, {done.bytes:,} bytes: sha256 as in the manifest")
    name = printable(base or done.base or "without a Hub id")
    if done.base_checked:
        typer.echo(f"base {name}: the weights it was trained on")
    else:
        why = "--files-only" if files_only else "made on a base without a fingerprint"
        typer.echo(f"base {name}: not checked ({why})")


def _text(path: Path | None) -> str | None:
    """Return the text of a file the user named."""
    from ftplug.errors import RegistryError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"--notes {path}: cannot be read: {error}") from error


def _print_files(sizes: Mapping[str, int], where: str) -> None:
    for name, size in sizes.items():
        typer.echo(f"  {size:>13,}  {name}")
    typer.echo(f"{len(sizes)} files, {sum(sizes.values()):,} bytes {where}")


def _print_published(done: Published, tag: str | None) -> None:
    for name in done.removed:
        typer.echo(f"  removed {name}: it belonged to the artifact published before")
    state = "published" if done.changed else "unchanged: all of it was there already,"
    typer.echo(f"{state} {done.url} at {done.sha}" + (f", tagged {tag}" if tag else ""))


def _shown(text: str) -> str:
    """Return what a stranger wrote without what would drive the terminal, and not too much."""
    return printable(text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…")


def _print_table(heads: tuple[str, ...] | None, lines: Iterable[tuple[Any, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cells = [[_shown(str(cell)) for cell in line] for line in lines]
    if not console.is_terminal:  # whole lines, for grep and cut
        for row in [list(heads), *cells] if heads else cells:
            typer.echo("\t".join(row))
        return
    table = Table(*(heads or ()), show_header=heads is not None, box=box.SIMPLE_HEAD)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)
