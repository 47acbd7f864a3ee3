"""The Trainer's versions: what differs between them, and whether the installed one can be bound.

Each difference is a function that asks whether a name is there, not which version it is. That no
override misses the Trainer is the business of :mod:`ftplug.training.trainer_names`.
"""

from __future__ import annotations

import functools
import inspect
import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug.errors import MethodError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TESTED = ("5.4", "5.24")  # the first and last minor release of transformers that was tested
KNOWN_BAD: dict[str, str] = {}  # release of transformers -> why it does not work
ALLOW = "FTPLUG_UNTESTED"  # set to "allow": what would be refused is only warned about


def hf_api() -> HfApi:
    """Return the Hub client of transformers, which has one from 5.10 on; before, one like it."""
    from transformers.utils import hub

    return hub.hf_api() if hasattr(hub, "hf_api") else _own_api()


@functools.cache
def _own_api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="transformers")


def init_hf_repo(trainer: Any, token: str | None, private: bool | None) -> None:
    """Create the repository; up to 5.22 ``private`` is asked of the arguments alone."""
    if "private" in inspect.signature(trainer.init_hf_repo).parameters:
        trainer.init_hf_repo(token=token, private=private)
        return
    before = trainer.args.hub_private_repo
    try:
        trainer.args.hub_private_repo = before if private is None else private
        trainer.init_hf_repo(token=token)
    finally:
        trainer.args.hub_private_repo = before


def loss_of(trainer: Any, inputs: Any) -> Any:
    """Return the loss of a batch as a training step computes it, with its graph."""
    with trainer.compute_loss_context_manager():
        return trainer.compute_loss(trainer.model_wrapped, trainer._prepare_inputs(inputs))


def has_mixed_mesh_grads(trainer: Any, model: Any) -> bool:
    """Whether gradients lie on several device meshes; up to 5.16 the Trainer knows of none."""
    asked = getattr(trainer, "_has_mixed_mesh_grads", None)
    return bool(asked and asked(model))


def check_transformers() -> None:
    """Refuse a transformers that cannot work; say once that one is newer than what was tested."""
    from packaging.version import Version

    version = transformers_version()
    tested = f"ftplug is tested with transformers {TESTED[0]} to {TESTED[1]}"
    if reason := KNOWN_BAD.get(version):
        refuse(f"transformers {version} does not work with ftplug: {reason}")
    if Version(version) < Version(TESTED[0]):
        refuse(f"{tested}; {version} is older")
    if untested_version() is not None:
        _say_once(
            f"{tested}; {version} is newer and runs all the same, methods that hang on the inside "
            "of a model after a check: if something is odd, report it with both versions"
        )


def untested_version() -> str | None:
    """Return the version of transformers if it is of a newer minor release than was tested."""
    from packaging.version import Version

    version, newest = Version(transformers_version()), Version(TESTED[1]).release
    return str(version) if version.release[: len(newest)] > newest else None


def allow_untested() -> bool:
    """Whether the user lets pass what would be refused, with ``FTPLUG_UNTESTED=allow``."""
    return os.environ.get(ALLOW) == "allow"


def refuse(reason: str, cure: str = f"pip install 'transformers=={TESTED[1]}.*'") -> None:
    """Raise a MethodError with the way out, or only warn where the user allows what is untested."""
    if allow_untested():
        _say_once(f"{reason} ({ALLOW}=allow: going on)")
        return
    raise MethodError(f"{reason}: {cure}, or a newer ftplug; {ALLOW}=allow goes on all the same")


@functools.cache
def _say_once(line: str) -> None:
    logger.warning(line)


def transformers_version() -> str:
    """Return the version of transformers that is installed."""
    import transformers

    return transformers.__version__


def unmet_requirements() -> dict[str, str | None]:
    """Return ``{requirement: version found, or None}`` of what ftplug needs and has not.

    Read from metadata: nothing is imported.
    """
    from packaging.requirements import Requirement

    unmet: dict[str, str | None] = {}
    for requirement in map(Requirement, metadata.requires("ftplug") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            unmet[f"{requirement.name}{requirement.specifier}"] = None
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            unmet[f"{requirement.name}{requirement.specifier}"] = found
    return unmet


def check_requirements() -> None:
    """Refuse libraries of versions that ftplug does not declare, before they fail in some call."""
    if unmet := unmet_requirements():
        lacks = ", ".join(f"{wanted} (found {found or 'none'})" for wanted, found in unmet.items())
        refuse(f"ftplug needs {lacks}", "pip install " + " ".join(f"'{name}'" for name in unmet))
