"""The command line: ``ftplug methods``, ``run``, ``demo``, and what plugins add."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from ftplug import __version__, options
from ftplug.command_group import CommandGroup
from ftplug.errors import FtplugError, one_line
from ftplug.options import configured, learning_rate, resumes, setting_texts

app = typer.Typer(
    name="ftplug",
    cls=CommandGroup,
    help="Switch the fine-tuning method of any Hugging Face Trainer run, without touching it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts in half the time
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"ftplug {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    from ftplug.quiet import quiet_bitsandbytes

    quiet_bitsandbytes()  # before a command's module imports it


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method with its settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed methods, or one method's settings.

    Example: ftplug methods lora
    """
    from ftplug import discovery, listing
    from ftplug.training import compat

    try:
        compat.check_requirements()
    except FtplugError as error:  # the list is right all the same
        typer.echo(f"warning: {error}", err=True)
    with warnings.catch_warnings(record=True) as broken, contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("always")  # and stdout, which may be read as JSON, is ours alone
        classes = {name: discovery.entry(name).load()} if name else discovery.methods()
        further = {} if name else discovery.further(discovery.entries())
    for warning in broken:
        typer.echo(f"warning: {warning.message}", err=True)
    if not name and not as_json:
        typer.echo(listing.overview(classes, further))
        return
    rows = [listing.row(cls, discovery.entry(key)) for key, cls in classes.items()]
    one = rows[0] if name else rows
    typer.echo(json.dumps(one, indent=2, default=str) if as_json else listing.page(rows[0]))


class _FromScript(BaseException):
    """Carries what a script raised past typer, which would print "Aborted!" for a Ctrl-C."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="SCRIPT ARGS… (or MODULE ARGS… with -m)."),
    ] = None,
    method: options.Methods = [],  # noqa: B006 - typer reads the default
    settings: options.Settings = [],  # noqa: B006
    lr: options.LearningRateText = None,
    start_from: options.StartFrom = None,
    require_signature: options.RequireSignature = False,
    trusted: options.Trusted = None,
    like: options.Like = None,
    dry_run: options.DryRun = False,
    report: options.Report = None,
    train_head: options.TrainHead = True,
    check_finite: options.CheckFinite = True,
    probe: options.Probe = True,
    drop_peft_config: options.DropPeftConfig = False,
    resume: options.Resume = None,
    preemptible: options.Preemptible = False,
    allow_batch_change: options.AllowBatchChange = False,
    seed: options.Seed = None,
    seed_arg: options.SeedArg = None,
    dataset_name: options.DatasetName = None,
    base_id: options.BaseId = None,
    module: Annotated[bool, typer.Option("-m", "--module", help="Run a module.")] = False,
) -> None:
    """Run a Trainer script unmodified, with another fine-tuning method.

    Example: ftplug run --method lora --set r=8 --lr suggested -- train.py --epochs 3

    On several processes: torchrun --nproc_per_node 2 -m ftplug run --method lora -- train.py
    """
    from ftplug.training import compat

    compat.check_requirements()
    compat.check_transformers()
    from ftplug.artifacts.author import named_by_author
    from ftplug.artifacts.registries import signed_start
    from ftplug.training.restarting.going_on import Restarts
    from ftplug.training.script import Launch, methods_from

    won = None
    if like is not None:
        from ftplug.comparing.like import Winner

        beside = {"--method": method, "--set": settings, "--lr": lr, "--from": start_from}
        won = Winner.read(like, beside)
        report = report.resolve() if report else None  # of here: the command may move
        seed = won.seed if seed is None else seed
        command, module, own_seed_arg = won.command(command, module=module, seed=seed)
        seed_arg = seed_arg or own_seed_arg
        dataset_name = dataset_name or won.comparison.dataset_name
    if not command:
        raise typer.BadParameter("Missing argument 'COMMAND...': -- SCRIPT ARGS…")
    author = named_by_author(dataset_name=dataset_name, base_id=base_id)
    if seed_arg is not None and seed is None:
        raise FtplugError("run: --seed-arg says where the seed goes: name it with --seed")
    if won is None and not method and start_from is None:
        raise FtplugError("run: name a --method (ftplug methods lists them) or an artifact --from")
    rate = won.lr if won else learning_rate(lr)
    start_from = signed_start(start_from, require_signature, trusted)
    chosen = configured(method, settings) if method else []
    chosen = chosen or (list(won.methods) if won else methods_from(start_from or ""))
    launch = Launch(
        *(chosen, train_head, rate, start_from, dry_run, report, check_finite),
        probe=probe,
        author=author,
        drop_peft_config=drop_peft_config,
        seed=seed,
        seed_arg=seed_arg,
        restarts=Restarts(resumes(resume), preemptible, allow_batch_change),
    )
    try:
        launch.run(command, module=module)
    except (SystemExit, FtplugError):
        raise
    except BaseException as error:
        raise _FromScript(error) from error


@app.command()
def demo(
    method: options.Methods = ["lora"],  # noqa: B006 - typer reads the default
    settings: options.Settings = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Where the artifact goes: ftplug-demo/METHOD by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs; it stops early.")] = 3,
    lr: Annotated[
        str, typer.Option("--lr", help="'suggested' for the method's own, or a number.")
    ] = "suggested",
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and dropout.")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16 autocast.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fine-tune a real encoder on real sentences: train, evaluate, save, load, predict.

    Example: ftplug demo --method freeze --set layers=2
    """
    from ftplug.demo import run_demo

    rate = learning_rate(lr)
    result = run_demo(
        method,
        setting_texts(settings),
        out=out,
        epochs=epochs,
        seed=seed,
        learning_rate=None if rate == "suggested" else rate,
        bf16=bf16,
        report=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result), indent=2))


@app.command()
def merge(
    artifact: Annotated[str, typer.Argument(metavar="DIR|REPO_ID", help="A folder, or org/name.")],
    to: Annotated[Path, typer.Option("--to", help="Where the plain model goes: a new folder.")],
    base: Annotated[
        str | None, typer.Option("--base", help="Id or folder of the base, if not as recorded.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit sha of a repository.")
    ] = None,
) -> None:
    """Fold an artifact into its base: a plain transformers model that needs no ftplug.

    It is read back and asked what the artifact's probe asks: other answers are refused.

    Example: ftplug merge org/my-adapter --to merged
    """
    from ftplug.artifacts.merged_model import merged

    done = merged(artifact, to, base=base, revision=revision)
    typer.echo(f"{done.folder}: a plain model of {done.bytes:,} bytes; from_pretrained reads it")
    typer.echo(done.effect)


@app.command()
def finish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of an artifact.")],
) -> None:
    """Finish a save that was killed while its files were being moved into their folder.

    Example: ftplug finish out
    """
    from ftplug.files.staged import finish_interrupted
    from ftplug.files.write_errors import stated_write_errors

    if not os.path.isdir(folder):
        raise FtplugError(f"{folder}: no such folder")
    with stated_write_errors(folder):
        done = finish_interrupted(folder)
    typer.echo(f"{folder}: {'the save is finished' if done else 'there is nothing to finish'}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name: lower-case words joined by dashes.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="The folder to write: ftplug-NAME by default.")
    ] = None,
) -> None:
    """Write the package of a new method: one module, its contract test, ready to install.

    Example: ftplug new my-method
    """
    from ftplug.scaffold.package import next_steps, write_package

    typer.echo(next_steps(name, write_package(name, to)), nl=False)


def printable(text: str) -> str:
    """Return one line that a terminal may be shown, whoever wrote it."""
    return "".join(c if c.isprintable() else "�" for c in one_line(text))


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a folder lacks is said where it is


def main() -> None:
    """Run the command line: 0 done, 1 a stated failure in one line on stderr, 2 wrong usage.

    What a script raises under ``ftplug run`` is raised: Python ends as it does for the script.
    """
    try:
        app()
        return
    except FtplugError as error:
        typer.echo(f"ftplug: {printable(str(error))}", err=True)
        sys.exit(1)
    except _FromScript as wrapped:
        raised = wrapped.error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        typer.echo(f"ftplug: cannot write: {error}: make room", err=True)
        sys.exit(1)
    raise raised
