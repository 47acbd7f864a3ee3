"""``ftplug history``, ``diff``, ``promote``, ``deprecate``, ``withdraw`` and ``du``."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftplug_registry.options import AsJson
from ftplug_registry.printing import print_table, shown

if TYPE_CHECKING:
    from ftplug_registry.governing.history import Version

RepoId = Annotated[str, typer.Argument(metavar="REPO_ID", help="Which repository: org/name.")]
Why = Annotated[
    str | None, typer.Option("--why", help="The reason, at most 300 characters: readers see it.")
]
Use = Annotated[
    str | None, typer.Option("--use", metavar="OTHER", help="The repository to use instead.")
]


def history(
    repo_id: RepoId,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit to begin at.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The latest so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show a repository's versions: who, when, and what changed in settings and metrics.

    Only manifests are fetched. The JSON has every change, the table methods, settings, base and
    metrics.

    Example: ftplug history org/my-adapter --limit 5
    """
    from ftplug_registry.governing.history import history

    found = history(repo_id, revision, limit=limit)
    if as_json:
        versions = [dataclasses.asdict(one) for one in found.versions]
        typer.echo(
            json.dumps({"repo_id": repo_id, "versions": versions, "more": found.more}, default=str)
        )
        return
    heads = ("commit", "tags", "when", "who", "title", "what changed")
    print_table(heads, map(_row, found.versions))
    if found.more:
        typer.echo(f"older ones with --limit {2 * limit}")


def _row(one: Version) -> tuple[str, ...]:
    from ftplug_registry.governing.changes import SETTINGS_AND_METRICS

    told = [change.said() for change in one.changes if change.section in SETTINGS_AND_METRICS]
    changed = "first version" if one.is_first else "; ".join(told)
    if one.state == "unreadable":
        changed = "its manifest cannot be read"
    if one.notice:
        changed = f"{one.notice.kind}: {one.notice.why}" + (f"; {changed}" if changed else "")
    tags, who = ", ".join(one.tags), ", ".join(one.who)
    return one.commit[:12], tags, f"{one.when:%Y-%m-%d %H:%M}", who, one.title, changed


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A folder, org/name, org/name@REV.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one, likewise.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two artifacts: settings, metrics, base, data, versions, files.

    Only their manifests are read. It ends with 0 whether they differ or not; --json has a list.

    Example: ftplug diff org/my-adapter@v1 org/my-adapter@v2
    """
    from ftplug_registry.governing.changes import worded
    from ftplug_registry.governing.differing import diff

    found = diff(first, second)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2, default=str))
        return
    if not found.changes:
        typer.echo(f"no difference between {shown(found.first)} and {shown(found.second)}")
        return
    print_table(
        ("what", "name", found.first, found.second),
        [
            (one.section, one.name, worded(one.before), worded(one.after) + one.difference())
            for one in found.changes
        ],
    )


def promote(
    repo_id: RepoId,
    revision: Annotated[str, typer.Option("--revision", help="Branch, tag or commit to promote.")],
    tag: Annotated[str, typer.Option("--as", metavar="TAG", help="The tag, e.g. production.")],
    move: Annotated[
        bool, typer.Option("--move", help="Move the tag if it points to another commit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a tag point to a version, for others to pull it by. It moves only with --move.

    What it pointed to before is printed: with that you can move it back.

    Example: ftplug promote org/my-adapter --revision v2 --as production --move
    """
    from ftplug_registry.governing.promoting import promote

    done = promote(repo_id, revision, tag, move=move)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done) | {"changed": done.changed}, indent=2))
    elif not done.changed:
        typer.echo(f"unchanged: {repo_id} {tag} points to {done.commit} already")
    elif done.before is None:
        typer.echo(f"{repo_id}: {tag} points to {done.commit}; it is new")
    else:
        typer.echo(f"{repo_id}: {tag} points to {done.commit}, before to {done.before}")


def deprecate(
    repo_id: RepoId,
    why: Why = None,
    use: Use = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the deprecation back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say of a repository that it should not be used any more: pull and load warn of it.

    Only the card's metadata change (ftplug_deprecated): weights, manifest and signature do not, and
    later pushes keep it until --undo. Nobody signs it, and nothing is refused because of it.

    Example: ftplug deprecate org/my-adapter --why "fails on Spanish" --use org/better
    """
    from ftplug_registry.governing.deprecating import deprecate, undeprecate

    _check_undo(undo, why, use)
    done = undeprecate(repo_id) if undo else deprecate(repo_id, why or "", use=use)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done), indent=2))
    elif done.commit is None:
        typer.echo(f"unchanged: {repo_id} " + ("is not deprecated" if undo else "says so already"))
    else:
        state = "no longer deprecated" if undo else f"deprecated: {done.why}{_instead(done.use)}"
        typer.echo(f"{repo_id} is {state} (card at {done.commit})")


def withdraw(
    repo_id: RepoId,
    revision: Annotated[str, typer.Option("--revision", help="Tag, branch or commit.")],
    why: Why = None,
    use: Use = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Also take its files out of main, if main holds it.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the withdrawal back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw one version: its tag is removed, and whoever pulls it is told why.

    The reason stands in the card's metadata (ftplug_withdrawn); other versions are not affected.
    Nothing is deleted without --delete, and old commits stay in the history in any case.

    Example: ftplug withdraw org/my-adapter --revision v2 --why "trained on the test set"
    """
    from ftplug_registry.governing.withdrawing import unwithdraw, withdraw

    _check_undo(undo, why, use)
    if undo and delete:
        raise typer.BadParameter("--delete does not go with --undo")
    done = (
        unwithdraw(repo_id, revision)
        if undo
        else withdraw(repo_id, revision, why or "", use=use, delete=delete)
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done), indent=2))
        return
    state = "no longer withdrawn" if undo else f"withdrawn: {done.why}{_instead(done.use)}"
    typer.echo(f"{repo_id} at {done.commit} is {state}")
    if done.tag:
        typer.echo(f"  tag {done.tag} " + ("is there again" if undo else "is removed"))
    for name in done.still_tagged:
        typer.echo(f"  tag {shown(name)} still points there: ftplug promote --move moves it")
    for name in done.deleted:
        typer.echo(f"  {shown(name)} is deleted from main; the history keeps it")


def _instead(use: str | None) -> str:
    return f", use {use} instead" if use else ""


def _check_undo(undo: bool, why: str | None, use: str | None) -> None:
    if undo and (why or use):
        raise typer.BadParameter("--why and --use do not go with --undo")
    if not undo and not why:
        raise typer.BadParameter("say --why: readers see the reason")


def du(
    place: Annotated[
        str | None,
        typer.Argument(metavar="[DIR|REPO_ID|OWNER]", help="Without it: the Hub's cache here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how much room artifacts take: in the cache, below a folder, or on the Hub.

    Bytes, largest first. What several versions share counts once. Of a repository all branches and
    tags count; an owner is a user or organisation. hf cache rm frees what the cache holds.

    Example: ftplug du my-org
    """
    from ftplug_registry.governing.usage import usage
    from ftplug_registry.hub import Hub

    found = usage(place)
    total = sum(one.bytes for one in found)
    if as_json:
        rows = [dataclasses.asdict(one) for one in found]
        typer.echo(json.dumps({"artifacts": rows, "bytes": total}, indent=2, default=str))
        return
    print_table(("bytes", "versions", "artifact", ""), [_usage_row(one) for one in found])
    typer.echo(f"{len(found)} artifact{'' if len(found) == 1 else 's'}, {total:,} bytes")
    if place and not found and not os.path.isdir(place):
        where = Hub().api_endpoint
        typer.echo(f"{shown(place)}: no folder here, nothing by ftplug at {where} to see", err=True)


def _usage_row(one: Any) -> tuple[str, ...]:
    more = f"last used {one.used:%Y-%m-%d}" if one.used else ""
    if one.latest is not None:
        more = f"main {one.latest:,}"
    return f"{one.bytes:,}", str(one.versions), one.name, more
