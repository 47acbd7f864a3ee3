"""The names of the Trainer on which the binding rests, asked for before a Trainer is changed.

An override of a private name that a release of transformers renames or no longer calls would
silently have no effect. So each must be there, take the parameters it is given, and be called.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from types import CodeType
from typing import Any

from transformers import Trainer

from ftplug.training.compat import refuse, transformers_version

# Overridden names, with the parameters that the overrides pass on or read.
PARAMETERS = {
    "_get_grad_norm": ("model", "grad_norm"),
    "_clip_grad_norm": ("model",),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_load_rng_state": ("checkpoint",),
    "_maybe_log_save_evaluate": ("model", "trial"),
    "_push_from_checkpoint": ("checkpoint_folder",),
    "_save": ("output_dir", "state_dict"),
    "_run_epoch": (
        "train_dataloader",
        "epoch",
        "epochs_trained",
        "resume_from_checkpoint",
        "steps_trained_in_current_epoch",
    ),
    "_save_checkpoint": ("model", "trial"),
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_save_rng_state": ("output_dir",),
    "get_batch_samples": ("epoch_iterator",),
    "push_to_hub": ("commit_message", "blocking", "token", "revision"),
    "save_model": ("output_dir", "_internal_call"),
    "train": ("resume_from_checkpoint", "trial"),
    # These are called, not overridden.
    "_finish_current_push": (),
    "_move_model_to_device": ("model", "device"),
    "init_hf_repo": ("token",),
    "is_world_process_zero": (),
}
# What stands in our classes and is no override.
OWN = {
    "_batches_file", "_chosen", "_claim", "_may_go_on", "_name_best_checkpoint", "_preempted",
    "_upload_checkpoint", "_upload_frozen", "upload_from_checkpoint",
}  # fmt: skip
# What users call; all other overridden names must be called by the Trainer itself.
ENTRIES = {"evaluate", "train", "save_model", "push_to_hub"}
# What a Trainer sets on itself, and the binding reads.
ATTRIBUTES = (
    "accelerator", "args", "callback_handler", "control", "is_deepspeed_enabled",
    "is_fsdp_enabled", "lr_scheduler", "model", "optimizer", "place_model_on_device", "state",
)  # fmt: skip


def overrides(*classes: type) -> list[str]:
    """Return the names of the Trainer's methods that these classes of ours replace."""
    ours = {c: None for cls in classes for c in cls.__mro__ if c not in Trainer.__mro__}
    names = (name for c in ours for name, value in vars(c).items() if inspect.isfunction(value))
    return [name for name in dict.fromkeys(names) if name not in OWN and name != "__repr__"]


def missing_names(cls: type, overridden: Collection[str]) -> list[str]:
    """Return what the binding needs of the Trainer class and does not find, each with the reason.

    Overridden names must exist, take the parameters, and be called by the Trainer's own code.
    """
    called = set(_called_names(cls))
    missing = []
    for name in dict.fromkeys([*overridden, *PARAMETERS]):
        function = inspect.getattr_static(cls, name, None)
        if not callable(function):
            missing.append(f"{name} (is gone)")
            continue
        parameters = inspect.signature(function).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        lacking = [p for p in PARAMETERS.get(name, ()) if p not in parameters and not anything]
        if lacking:
            missing.append(f"{name} (takes no {', '.join(lacking)})")
        elif name in overridden and name not in called | ENTRIES:
            missing.append(f"{name} (is called by nobody)")
    return missing


def _called_names(cls: type) -> Iterator[str]:
    """Yield the attribute names that the methods of a class use."""
    for owner in cls.__mro__[:-1]:
        for function in filter(inspect.isfunction, vars(owner).values()):
            yield from _names_in(inspect.unwrap(function).__code__)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def check_trainer(trainer: Any, overridden: Collection[str]) -> None:
    """Refuse a Trainer to which the binding's overrides would not apply, naming what is missing."""
    missing = missing_names(Trainer, overridden)
    missing += [f"{name} (is not set)" for name in ATTRIBUTES if not hasattr(trainer, name)]
    if missing:
        refuse(f"transformers {transformers_version()} lacks of the Trainer: {'; '.join(missing)}")
