"""The registry's commands, which join ``ftplug`` through the entry point ``ftplug.commands``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ftplug.options import BaseId, DatasetName
from ftplug_registry.adopting.command import adopt
from ftplug_registry.governing.commands import deprecate, diff, du, history, promote, withdraw
from ftplug_registry.options import (
    AllowUnsigned,
    AsJson,
    RequireSignature,
    Revision,
    Sign,
    Target,
    Trusted,
)
from ftplug_registry.printing import (
    print_files,
    print_missing,
    print_published,
    print_table,
    shown,
)
from ftplug_registry.server.command import serve
from ftplug_registry.signing_commands import keygen, sign, trust
from ftplug_registry.site.command import site
from ftplug_registry.verifying.command import verify


def add_commands(app: typer.Typer) -> None:
    """Add what publishes, finds, checks, governs and shows artifacts to the command line."""
    publishing = (push, pull, adopt, search, show, verify, sign, keygen, trust)
    governing = (history, diff, promote, deprecate, withdraw, du)
    for command in (*publishing, *governing, serve, site):
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
    dataset_name: DatasetName = None,
    base_id: BaseId = None,
    sign: Sign = None,
    message: Annotated[str | None, typer.Option("--message", help="Commit message.")] = None,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a card that was edited on the Hub.")
    ] = False,
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
    from ftplug.artifacts.author import named_by_author
    from ftplug_registry.contents import contents, size_of
    from ftplug_registry.hub import Hub, check_ref
    from ftplug_registry.pushing.publishing import push
    from ftplug_registry.signing.making import Signer

    named = named_by_author(dataset_name=dataset_name, base_id=base_id)
    said = {"notes": _text(notes), "license": license, **named}
    author = {name: value for name, value in said.items() if value}

    def announce(sizes: Mapping[str, int], url: str) -> None:
        if not as_json:
            print_files(sizes, f"to {url}, branch {revision or 'main'}")

    if dry_run:
        check_ref("branch", revision)
        check_ref("tag", tag)
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
        sign=Signer.of(sign) if sign else None,
        overwrite_card=overwrite_card,
        announce=announce,
    )
    if as_json:
        content = {k: v for k, v in vars(done).items() if k != "commit"} | {"tag": tag}
        typer.echo(json.dumps(content, indent=2))
    else:
        print_published(done, tag)


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
    require_signature: RequireSignature = False,
    trusted: Trusted = None,
    allow_unsigned: AllowUnsigned = False,
    as_json: AsJson = False,
) -> None:
    """Fetch an artifact through the Hub's cache and verify it; a second time works offline.

    The plugin of its method need not be installed.

    Example: ftplug pull org/my-adapter --revision v1 --to adapter
    """
    from ftplug.artifacts.methods import not_installed
    from ftplug_registry.pulling.fetching import snapshot
    from ftplug_registry.signing.checking import Demand

    fetched = snapshot(
        repo_id,
        revision,
        to=to,
        force=force,
        overwrite=overwrite,
        allow_pickle=allow_pickle,
        demand=Demand(trusted, require_signature, allow_unsigned),
    )
    verified = fetched.manifest is not None
    missing = list(not_installed(fetched.manifest)) if fetched.manifest is not None else []
    if as_json:
        content = {"repo_id": repo_id, "sha": fetched.sha, "path": str(fetched.path)}
        more = {"verified": verified, "files": fetched.files, "missing": missing}
        more["signature"] = fetched.signed.known if fetched.signed else None
        more["notice"] = dataclasses.asdict(fetched.notice) if fetched.notice else None
        typer.echo(json.dumps(content | more, indent=2))
        return
    if fetched.manifest is not None:
        names = shown(fetched.manifest.method_names)
        typer.echo(
            f"{repo_id} at {fetched.sha}: {names}, {len(fetched.manifest.files)} files verified"
        )
    else:
        typer.echo(f"{repo_id} at {fetched.sha}: a plain PEFT repository, nothing to verify it by")
    if fetched.signed:
        typer.echo(f"signature: {fetched.signed.known}")
    print_missing(missing)
    typer.echo(str(fetched.path))


def search(
    text: Annotated[str | None, typer.Argument(help="Text in the repository's name.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Base: its id, fingerprint or architecture.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", "-M", help="Method name.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Pipeline tag, e.g. text-classification.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Only those that report it, e.g. accuracy.")
    ] = None,
    author: Annotated[str | None, typer.Option("--author", help="User or organisation.")] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            help="modified, created, downloads, likes, metric, repository, method, base or task.",
        ),
    ] = "modified",
    reverse: Annotated[bool, typer.Option("--reverse", help="Turn the order round.")] = False,
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
        reverse=reverse,
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
            one.base or " ".join(one.base_known_by),
            one.task or "",
            ", ".join(f"{name} {value:.3f}" for name, value in one.metrics.items()),
            f"{one.modified:%Y-%m-%d}" if one.modified else "",
        )
        for one in matches.results
    ]
    print_table(heads, lines)
    if matches.more:
        typer.echo(f"more with --page {page + 1}")


def show(
    artifact: Target,
    revision: Revision = None,
    bom: Annotated[
        bool,
        typer.Option("--bom", help="Print its bill of materials: CycloneDX 1.6, in JSON."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what an artifact is: method, base, data, metrics. Only its manifest is fetched.

    The bill of materials lists files with their hashes, the base, data, libraries and licences.

    Example: ftplug show org/my-adapter --bom > my-adapter.cdx.json
    """
    from ftplug_registry.showing import bill_of_materials, rows, show

    if bom:
        typer.echo(bill_of_materials(artifact, revision), nl=False)
        return
    content = show(artifact, revision)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        print_table(None, rows(content))


def _text(path: Path | None) -> str | None:
    """Return the text of a file the user named."""
    from ftplug.errors import RegistryError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"--notes {path}: cannot be read: {error}") from error
