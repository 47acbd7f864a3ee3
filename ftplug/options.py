"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ftplug.errors import FtplugError

if TYPE_CHECKING:
    from ftplug.method import Method

Methods = Annotated[
    list[str], typer.Option("--method", "-M", help="Method name; several for a composition.")
]
Settings = Annotated[
    list[str],
    typer.Option("--set", "-s", help="Setting, e.g. r=8; with several methods lora.r=8."),
]
Like = Annotated[
    Path | None,
    typer.Option("--like", metavar="DIR", help="Train as the best of an ftplug compare was."),
]
DatasetName = Annotated[
    str | None,
    typer.Option("--dataset-name", help="What the data are called, where they have no name."),
]
BaseId = Annotated[
    str | None,
    typer.Option("--base-id", help="Hub id of the base, where it was loaded from a folder."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would train and the memory; then stop.")
]
Report = Annotated[
    Path | None, typer.Option("--report", help="Write what was trained and measured as JSON.")
]
TrainHead = Annotated[
    bool, typer.Option(help="Train the task head and everything not in the base checkpoint.")
]
CheckFinite = Annotated[
    bool, typer.Option(help="Stop at a loss or gradient that is NaN or infinite.")
]
Probe = Annotated[
    bool, typer.Option(help="Keep in artifacts what the method changes in a few answers.")
]
DropPeftConfig = Annotated[
    bool, typer.Option("--drop-peft-config", help="Leave out the script's own peft adapters.")
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="auto", help="Go on from the last whole checkpoint, if any."),
]
Preemptible = Annotated[
    bool,
    typer.Option("--preemptible", help="SIGTERM, SIGUSR1: write a checkpoint, exit 143 or 138."),
]
AllowBatchChange = Annotated[
    bool, typer.Option("--allow-batch-change", help="Resume with another global batch.")
]
LearningRateText = Annotated[
    str | None,
    typer.Option("--lr", help="'suggested' for the method's own learning rate, or a number."),
]
StartFrom = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Continue from this artifact (folder or org/name); its method is the default.",
    ),
]
RequireSignature = Annotated[
    bool,
    typer.Option("--require-signature", help="Refuse it unless somebody known here has signed it."),
]
Trusted = Annotated[
    Path | None,
    typer.Option(
        "--trusted",
        metavar="FILE_OR_DIR",
        help="Keys of which one must have signed it: trusted_keys, a .pub, or a folder of them.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of fresh tensors, order and dropout."),
]
SeedArg = Annotated[
    str | None,
    typer.Option("--seed-arg", help="Added to the script's arguments, e.g. '--seed {seed}'."),
]


def resumes(text: str | None) -> Literal["auto"] | None:
    """Return what ``--resume`` says."""
    if text not in (None, "auto"):
        raise FtplugError(
            f"--resume {text!r}: write 'auto', or say resume_from_checkpoint in the script"
        )
    return "auto" if text else None


def learning_rate(text: str | None) -> float | Literal["suggested"] | None:
    """Return what ``--lr`` says."""
    if text is None:
        return None
    if text == "suggested":
        return "suggested"
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise FtplugError(f"--lr {text!r}: write 'suggested' or a positive number, e.g. 1e-3")
    return value


def setting_texts(settings: Sequence[str]) -> dict[str, str]:
    """Return ``{"r": "8"}`` for ``["r=8"]``."""
    texts: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise FtplugError(f"--set {text!r}: write SETTING=VALUE, e.g. --set r=8")
        texts[key] = value
    return texts


def configured(names: Sequence[str], settings: Sequence[str]) -> list[Method]:
    """Return methods configured from ``--method`` and ``--set key=value`` texts."""
    from ftplug.host import from_texts

    return from_texts(names, setting_texts(settings))
