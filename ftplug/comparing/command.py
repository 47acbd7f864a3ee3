"""The command ``ftplug compare``, which joins through the entry point ``ftplug.commands``."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from ftplug.command_group import print_what_can_be
from ftplug.comparing.candidates import DEFAULT, default_candidates, with_baseline
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.measuring.retained import retained_text
from ftplug.comparing.whole import Compared, EngineName, run_comparison
from ftplug.errors import FtplugError
from ftplug.options import DatasetName, learning_rate

DEMO = "ftplug.demo.script"
_DEMOS_MODEL = "BertForSequenceClassification"
_ENGINES = ("process", "slurm", "slurm-local")


def add_commands(app: typer.Typer) -> None:
    """Add compare to the command line."""
    app.command(context_settings={"allow_interspersed_args": False})(compare)


def compare(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="SCRIPT ARGS… (or MODULE ARGS… with -m); without it, the demo."),
    ] = None,
    tries: Annotated[
        list[str],
        typer.Option(
            "--try",
            help="A candidate: 'lora r=8', 'lora+bitfit lora.r=4'; 'default' stands for eight.",
        ),
    ] = [],  # noqa: B006 - typer reads the default
    lr: Annotated[
        str | None,
        typer.Option(
            "--lr",
            help="'suggested' for each method's own, or rates: 1e-4,3e-4,1e-3. Without it three "
            "of each method are tried with one seed, and the best one with all.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each, with seeds 0, 1, …")] = 3,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What is compared: the script's own by default.")
    ] = None,
    greater_is_better: Annotated[
        bool | None,
        typer.Option(
            "--more-is-better/--less-is-better",
            help="Of the metric; by default as the script says of its best model, or by its name.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="What all are compared with: the first --try by default."),
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", help="Differences up to this one count as none.")
    ] = 0.01,
    budget_minutes: Annotated[
        float | None,
        typer.Option("--budget-minutes", help="Most minutes: what is behind is cut short."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Cells at a time; of several each has one GPU.")
    ] = 1,
    engine: Annotated[
        str, typer.Option("--engine", help="'process', or 'slurm' for a cluster's jobs.")
    ] = "process",
    dataset_name: DatasetName = None,
    retain: Annotated[
        Path | None,
        typer.Option("--retain", help="A text that language models should not forget."),
    ] = None,
    seed_arg: Annotated[
        str | None,
        typer.Option("--seed-arg", help="How the script takes a seed: '--seed {seed}'."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="The comparison's folder; given again, it goes on.")
    ] = Path("ftplug-compare"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    module: Annotated[bool, typer.Option("-m", "--module", help="Run a module.")] = False,
) -> None:
    """Say which method is best for a script's data, with error bars; each runs with several seeds.

    Example: ftplug compare --try "lora r=8" --try "freeze layers=2" -- train.py --epochs 3

    Eight methods in an hour: ftplug compare --try default --budget-minutes 60 -- train.py

    Killed or interrupted, the same command goes on: what has ended is kept in --out. There lie
    report.html, summary.json, results.jsonl and best/, the winner's artifact.
    """
    from ftplug.training import compat

    compat.check_requirements()
    compat.check_transformers()
    script, is_module = _script(command or [], module)
    _check(seeds, delta, budget_minutes, jobs, retain)
    candidates, named = _compared(tries, baseline, script, is_module)
    wanted = Comparison(
        command=script,
        module=is_module,
        folder=os.getcwd(),
        candidates=candidates,
        baseline=named,
        key=secrets.token_hex(32),
        rates=rates(lr),
        seeds=seeds,
        metric=metric,
        greater_is_better=greater_is_better,
        delta=delta,
        budget_minutes=budget_minutes,
        dataset_name=dataset_name,
        retain=str(retain.resolve()) if retain else None,
        seed_arg=_seed_argument(seed_arg),
    )
    compared = run_comparison(wanted, out, jobs=jobs, engine=_engine(engine))
    _show(compared, as_json=as_json)
    raise typer.Exit(compared.code)


def rates(text: str | None) -> tuple[float, ...] | Literal["suggested"] | None:
    """Return what ``--lr`` says: one rate, several joined by commas, or the methods' own."""
    if text is None or text == "suggested":
        return learning_rate(text)  # type: ignore[return-value]
    found = [rate for one in text.split(",") if (rate := learning_rate(one.strip()))]
    if "suggested" in found:
        raise FtplugError(f"--lr {text!r}: write 'suggested' alone, or rates: 1e-4,3e-4,1e-3")
    if len(set(found)) < len(found):
        raise FtplugError(f"--lr {text!r}: a learning rate stands there twice")
    return tuple(map(float, found))


def _script(command: Sequence[str], module: bool) -> tuple[tuple[str, ...], bool]:
    """Return what runs in each cell, and whether it is a module; the demo where nothing is given.

    Arguments alone are the demo's.
    """
    if not command or (command[0].startswith("-") and not module):
        if module:
            raise FtplugError("compare -m: name a module: ftplug compare … -m -- MODULE ARGS")
        return (DEMO, *command), True
    if not module and not Path(command[0]).is_file():
        raise FtplugError(
            f"no script at {command[0]}: ftplug compare … -- SCRIPT ARGS (or -m MODULE)"
        )
    if module and _spec_of(command[0]) is None:
        raise FtplugError(f"no module named {command[0]}: it must be importable from here")
    return tuple(command), module


def _spec_of(name: str) -> object:
    sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    finally:
        sys.path.pop(0)


def _compared(
    tries: Sequence[str], baseline: str | None, script: Sequence[str], module: bool
) -> tuple[tuple[str, ...], str]:
    if not tries:
        raise FtplugError(
            "compare: name candidates: --try 'lora r=8' --try 'freeze layers=2', or --try default"
        )
    texts: list[str] = []
    for text in tries:
        if text.strip() != DEFAULT:
            texts.append(text)
        elif script[0] == DEMO:
            texts += default_candidates(_DEMOS_MODEL)
        else:
            from ftplug.comparing.processes.looking import model_class_of

            texts += default_candidates(model_class_of(script, module=module))
    return with_baseline(texts, baseline)


def _check(
    seeds: int, delta: float, budget_minutes: float | None, jobs: int, retain: Path | None
) -> None:
    """Refuse what cannot be meant, before anything runs."""
    from ftplug.training.running import alone

    if alone.number(os.environ, "WORLD_SIZE") > 1:
        raise FtplugError("compare starts its own processes: start it without a launcher")
    for name, number in (("--seeds", seeds), ("--jobs", jobs)):
        if number < 1:
            raise FtplugError(f"{name} {number}: write a whole number of at least 1")
    if not 0 < delta < float("inf"):
        raise FtplugError(f"--delta {delta:g}: write a positive number, e.g. 0.01")
    if budget_minutes is not None:
        from ftplug.comparing.scheduling.pruning import check_installed

        if not 0 < budget_minutes < float("inf"):
            raise FtplugError(f"--budget-minutes {budget_minutes:g}: write a positive number")
        check_installed()
    retained_text(retain)  # each cell would fail by it after its training


def _engine(name: str) -> EngineName:
    found = next((one for one in _ENGINES if one == name), None)
    if found is None:
        raise FtplugError(f"--engine {name!r}: write 'process' or 'slurm'")
    return found  # type: ignore[return-value]


def _seed_argument(text: str | None) -> str | None:
    if text is not None and "{seed}" not in text:
        raise FtplugError(f"--seed-arg {text!r}: write where the seed goes: '--seed {{seed}}'")
    try:
        shlex.split(text or "")
    except ValueError as error:
        said = f"{error}".lower()
        raise FtplugError(f"--seed-arg {text!r}: {said}: quote it as in a shell") from None
    return text


def _show(compared: Compared, *, as_json: bool) -> None:
    """Print the summary; nothing else goes to standard output with ``--json``."""
    from rich.console import Console

    from ftplug.comparing.summary import FILE

    finished, folder = compared.finished, compared.folder
    print_what_can_be()
    if as_json:
        typer.echo((folder.path / FILE).read_text(encoding="utf-8"), nl=False)
        return
    from ftplug.comparing.report.table import notes, terminal_table

    console = Console(highlight=False)
    console.print(terminal_table(finished.summary, folder.results))
    for line in notes(finished.summary):
        typer.echo(line)
    typer.echo(f"report: {finished.report}")
    if finished.best is not None:
        push = f"ftplug push {shlex.quote(str(finished.best))} REPO_ID"
        typer.echo(f"winner: {finished.best} ({push} publishes it)")
