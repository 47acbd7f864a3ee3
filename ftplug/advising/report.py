"""All advice on a run, and what was seen of it, as text and as JSON."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ftplug.advising import data, layers, steps
from ftplug.advising.advice import MIB, Advice
from ftplug.advising.seen import Seen
from ftplug.errors import FtplugError, one_line
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from transformers import Trainer

CATALOGUE: Mapping[str, Callable[[Seen], Iterator[Advice]]] = {
    "padding": data.padding,
    "dataloader workers": data.workers,
    "bf16": steps.precision,
    "attention": steps.attention,
    "activation checkpointing": steps.checkpointing,
    "optimizer": steps.optimizer,
    "frozen layers": layers.frozen_trunk,
    "logits": layers.logits,
}


@dataclass(frozen=True)
class Report:
    """What was seen of a run, the advice, and what could not be looked at, with the reason."""

    seen: Mapping[str, Any]
    advice: Sequence[Advice]
    failed: Mapping[str, str]

    def content(self, command: Sequence[str]) -> dict[str, Any]:
        """Return all of it as JSON values."""
        pieces = [asdict(one) | {"change": one.is_worth_it} for one in self.advice]
        return {
            "command": list(command),
            "seen": self.seen,
            "advice": pieces,
            "failed": self.failed,
        }

    def __str__(self) -> str:
        take = sorted((a for a in self.advice if a.is_worth_it), key=lambda a: -a.gain)
        leave = [a for a in self.advice if not a.is_worth_it]
        nothing = ["  nothing that this run could show to be cheaper"]
        lines = [_about(self.seen), "", "Worth changing", *(_lines(take) or nothing)]
        if leave:
            lines += ["", "Looked at, better left", *_lines(leave)]
        if self.failed:
            lines += ["", "Could not be looked at"]
            lines += [f"  {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join(lines)


def look_at(trainer: Trainer, loader: Iterable[Any], limit: float) -> Report:
    """Look at a Trainer whose training is about to begin; what a piece of advice raises is kept.

    Says on standard error what is looked at: a large model takes a while.
    """
    seen = Seen(trainer, loader, limit)
    if not seen.batches:
        raise FtplugError("the training data has no batch: there is nothing to advise on")
    _say("a step")
    facts = _facts(seen)
    advice: list[Advice] = []
    failed: dict[str, str] = {}
    for name, look in CATALOGUE.items():
        _say(name)
        try:
            with quiet():
                advice += look(seen)
        except TimeoutError as error:
            failed[name] = one_line(error)
        except Exception as error:  # of the script's own model, data or libraries
            failed[name] = f"{type(error).__name__}: {one_line(error)}"
    return Report(facts, advice, failed)


def _say(what: str) -> None:
    print(f"ftplug advise: looking at {what} …", file=sys.stderr, flush=True)


def _facts(seen: Seen) -> dict[str, Any]:
    counts = [batch.tokens for batch in seen.batches if batch.tokens]
    tokens = sum(count.rows * count.width for count in counts)
    return {
        "trainer": type(seen.trainer).__name__,
        "model": type(seen.model).__name__,
        "methods": seen.methods,
        "parameters": {
            "trained": sum(p.numel() for p in seen.trained),
            "total": sum(p.numel() for p in seen.model.parameters()),
        },
        "device": str(seen.device),
        "epochs": seen.epochs,
        "batch_size": seen.args.per_device_train_batch_size,
        "step_seconds": seen.seconds,
        "fetch_seconds": seen.fetching,
        "kept_bytes": seen.kept,
        "padding": 1 - sum(count.real for count in counts) / tokens if counts else None,
    }


def _about(seen: Mapping[str, Any]) -> str:
    trained, total = seen["parameters"]["trained"], seen["parameters"]["total"]
    by = f" by {' + '.join(seen['methods'])}" if seen["methods"] else ""
    padding = (
        f"{seen['padding']:.0%} of the tokens are padding" if seen["padding"] is not None else ""
    )
    lines = [
        f"{seen['trainer']} trains {trained:,} of {total:,} parameters of {seen['model']}{by}",
        f"on {seen['device']}: epochs {seen['epochs']:.3g}, batch size {seen['batch_size']}",
        f"a step: {1000 * seen['step_seconds']:,.1f} ms forward and backward, "
        f"{1000 * seen['fetch_seconds']:,.1f} ms to fetch its batch",
        f"the largest batch keeps {seen['kept_bytes'] / MIB:,.1f} MiB for its backward",
    ]
    return "\n".join(["ftplug advise", *(f"  {line}" for line in [*lines, padding] if line)])


def _lines(advice: Iterable[Advice]) -> list[str]:
    lines: list[str] = []
    for one in advice:
        lines.append(f"  {one.gain:6.2f} x  {one.setting}")
        said = f"{one.what} [{one.evidence}]"
        lines += textwrap.wrap(said, 92, initial_indent=" " * 12, subsequent_indent=" " * 12)
    return lines
