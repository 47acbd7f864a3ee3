"""``ftplug run --seed``: one number decides what a run draws, whatever its script seeds itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from transformers import Trainer, set_seed

from ftplug.errors import FtplugError


def seed_script(command: Sequence[str], seed: int, argument: str | None) -> list[str]:
    """Seed Python, NumPy and torch; return the command, with ``argument`` for a script that seeds.

    ``--seed {seed}`` adds two words. Raises :class:`FtplugError` for what is no such text.
    """
    set_seed(seed)
    if argument is None:
        return list(command)
    try:
        return [*command, *shlex.split(argument.replace("{seed}", str(seed)))]
    except ValueError as error:
        raise FtplugError(
            f"--seed-arg {argument!r}: {error}: write e.g. '--seed {{seed}}'"
        ) from None


def seed_trainer(trainer: Trainer, seed: int) -> None:
    """Seed a Trainer that was built, before a method draws what it adds."""
    trainer.args.seed = trainer.args.data_seed = seed
    # accelerate's sampler is made later, of what the Trainer told it when it was built.
    trainer.accelerator.dataloader_config.data_seed = seed
    set_seed(seed)


def seed_order(loader: Any, seed: int, epoch: int) -> None:
    """Let an epoch's order follow from the seed alone, not from how much dropout a method draws.

    accelerate's own sampler does so already; that of length groups draws from torch's generator.
    """
    sampler: Any = getattr(loader, "batch_sampler", None)
    while (inner := getattr(sampler, "batch_sampler", None)) is not None:
        sampler = inner
    sampler = getattr(sampler, "sampler", None)
    if hasattr(sampler, "generator") and not isinstance(sampler, SeedableRandomSampler):
        sampler.generator = torch.Generator().manual_seed(seed + epoch)
