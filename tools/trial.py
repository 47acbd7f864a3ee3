"""One class of model against methods: each in one backward pass, each in its outcome."""

from __future__ import annotations

import copy
import logging
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import small_batch
import small_model
import torch
from torch import nn

import ftplug
from ftplug.errors import FtplugError

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora all-linear": {"target_modules": ("all-linear",)},
    "loha": {},
    "ia3": {},
    "bottleneck": {},
    "reft": {},
    "prefix-tuning": {},
    "prompt-tuning": {},
    "freeze": {"layers": 1},
    "bitfit": {},
    "layernorm": {},
    "lora bitfit": {},
}
LONGEST = 600  # characters of a refusal
SECONDS = 20  # of one combination
_COUNTED = re.compile(r"\((\d+) of \d+ tensors\)")
_NAMED = re.compile(r"no gradient reached (.*?) in the first|reached the experts of (.*?) in the f")


def tried(name: str, task: str, settings: Iterable[str] = SETTINGS) -> Iterator[dict[str, Any]]:
    """Yield ``{model, task, method, end, line}`` of each setting; one without method: not built."""
    about = {"model": name, "task": task}
    try:
        with limited(3 * SECONDS):  # a loaded machine is slow, and no method has a part in it yet
            model, batch = fitting(name, task)
    except Exception as error:
        yield about | {"end": "not built", "line": said(error)}
        return
    for setting in settings:
        begun = time.perf_counter()
        end, line = outcome(copy.deepcopy(model), batch, setting)
        seconds = round(time.perf_counter() - begun, 2)
        yield about | {"method": setting, "end": end, "line": line, "seconds": seconds}


def fitting(name: str, task: str) -> tuple[Any, dict[str, Any]]:
    """Return a small model and a batch that it takes; raises where none of the ways fits."""
    reasons: list[str] = []
    for build in small_model.builds(name):
        try:
            model = build()
        except Exception as error:
            reasons.append(said(error))
            continue
        for batch in small_batch.batches(model, task):
            trial = copy.deepcopy(model)
            try:
                backward(trial, batch)
            except Exception as error:
                reasons.append(said(error))
                continue
            if any(p.grad is not None for p in trial.parameters()):
                return model, batch
            reasons.append("nothing that it gives needs a gradient")
    raise small_model.NotSmallError(reasons[0])


def backward(model: Any, batch: dict[str, Any]) -> None:
    """Make one backward pass of the loss, or of what the model answers where it has none."""
    torch.manual_seed(0)
    output = model(**batch)
    loss = getattr(output, "loss", None)
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        answers = [t for t in floats(output) if t.requires_grad]
        if not answers:
            return  # nothing trains: that must have been said
        loss = torch.stack([t.float().pow(2).mean() for t in answers]).sum()
    if not torch.isfinite(loss).all():
        raise ValueError(f"the loss is {loss}")
    loss.sum().backward()


def floats(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of numbers in an output, however deep."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() and output.numel():
            yield output
    elif isinstance(output, dict | list | tuple):
        for part in output.values() if isinstance(output, dict) else output:
            yield from floats(part)


def outcome(model: nn.Module, batch: dict[str, Any], setting: str) -> tuple[str, str]:
    """Return how a setting ends on a model (works, refused, dies) and what was said."""
    try:
        with limited(SECONDS), warnings_of_ftplug() as lines:
            ftplug.apply(model, *methods(setting), **SETTINGS[setting])
            backward(model, batch)
    except FtplugError as error:
        line = str(error)
        fine = "\n" not in line and len(line) <= LONGEST
        return ("refused", line) if fine else ("dies", f"not one short line: {line[:LONGEST]}")
    except Exception as error:
        return "dies", said(error)
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    named = sum(map(_named, lines))
    if len(silent) != named:
        return "dies", f"{len(silent)} tensors without a gradient, {named} named: {silent[:3]}"
    return "works", f"{named} named" if named else ""


def methods(setting: str) -> list[str]:
    """Return the names of the methods of a setting."""
    return setting.removesuffix(" all-linear").split()


def _named(line: str) -> int:
    """Return how many tensors a warning of the first backward pass names."""
    if (names := _NAMED.search(line)) is None:
        return 0
    if counted := _COUNTED.search(line):
        return int(counted[1])
    return len((names[1] or names[2]).split(", "))


@contextmanager
def warnings_of_ftplug() -> Iterator[list[str]]:
    """Collect what ftplug warns of within the block."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ftplug")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError where the block takes longer; what never returns to Python is not seen."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def said(error: BaseException) -> str:
    """Return an error of others as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]
