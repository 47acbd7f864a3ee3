"""Asking a model that was just loaded what the artifact's probe asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.artifacts.contents import Contents
from ftplug.attaching.sharding import is_offloaded, is_sharded
from ftplug.base.quantization import is_quantized
from ftplug.context import logger, quiet
from ftplug.effect.probe import FILE, Probe
from ftplug.errors import ArtifactError, FtplugError, NotProbed, NotReplayable, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.artifacts.manifest import Manifest
    from ftplug.effect.pieces import Answers
    from ftplug.effect.replaying import Replayed

_CURE = "load it on its own base, or force=True"


def probe_in(contents: Contents) -> Probe | None:
    """Read the probe of an artifact, if it has one: the bytes that its manifest lists."""
    if FILE not in contents.names:
        return None
    with contents.given_as(contents.directory):
        return Probe.read(contents.directory / FILE)


def require_effect(
    model: nn.Module,
    probe: Probe | None,
    directory: Path,
    *,
    rounded: bool,
    force: bool,
) -> None:
    """Ask one of the probe's inputs; raises :class:`ArtifactError` where nothing is of the effect.

    Also where the answers are certainly others, in the dtype that the probe was made in, of tensors
    that were not ``rounded`` to another since. All else but the trained answers is warned about,
    and everything under ``force``.
    """
    if probe is None:
        return
    if reason := why_not_asked(model):
        logger.info("%s: its effect was not checked: %s", directory, reason)
        return
    found = asked(model, probe, one=True)
    if isinstance(found, str):
        logger.warning("%s: its effect could not be checked: %s", directory, found)
    elif not force and (found.verdict == "no effect" or (found.refused and not rounded)):
        raise ArtifactError(f"{directory}: {found.line()}: {_CURE}")
    elif found.verdict != "trained":
        logger.warning("%s: %s", directory, found.line())


def are_rounded(tensors: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether tensors of an artifact are of another type than those of the model."""
    live = structure.named_tensors(model)
    return any(tensor.dtype != live[name].dtype for name, tensor in tensors.items())


def asked(model: nn.Module, probe: Probe, *, one: bool = False) -> Replayed | str:
    """Replay a probe, or return in a line why this model cannot be asked."""
    from ftplug.effect.replaying import replay

    try:
        return replay(model, probe, one=one)
    except NotProbed as error:
        return str(error)
    except FtplugError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        return one_line(error)[:200]


def own_probe(directory: Path, manifest: Manifest) -> Probe | None:
    """Read the probe of an artifact in a folder, if it has one, and check its digest."""
    if FILE not in manifest.files:
        return None
    return probe_in(Contents(directory, {FILE: manifest.files[FILE]}, tensors_later=True))


def off(model: nn.Module, probe: Probe) -> Answers | None:
    """Return the answers without the method of a model that still carries it; None where it cannot.

    They say how noisy this machine is: a plain model has no method to switch off.
    """
    from ftplug.effect.replaying import without_method

    try:
        return without_method(model, probe)
    except FtplugError:
        return None


def asked_plain(
    cls: Any, folder: Path, probe: Probe, without: Answers | None, artifact: Path
) -> str:
    """Read a merged model with its class's ``from_pretrained``, ask it, and return what it says.

    Raises :class:`ArtifactError` where its answers are not those of the artifact.
    """
    from ftplug.effect.replaying import replay_plain

    if not hasattr(cls, "from_pretrained"):
        return (
            f"its answers were not compared with the trained ones: {cls.__name__} is read by hand"
        )
    with quiet():
        model = cls.from_pretrained(folder).eval()
    try:
        found = replay_plain(model, probe, without)
    except (NotProbed, NotReplayable) as error:
        return f"its answers were not compared with the trained ones: {error}"
    if found.verdict in ("no effect", "other"):
        raise ArtifactError(f"{artifact}: merged, it does not answer as trained: {found.line()}")
    return found.line()


def why_not_asked(model: nn.Module) -> str:
    """Return why a model is not asked while it is loaded: no values are there, or it takes long."""
    if any(tensor.is_meta for tensor in model.parameters()):
        return "the model is on the meta device, or offloaded"
    if is_quantized(structure.pretrained(model)):
        return "the base is quantized: ftplug verify --effect asks it"
    if is_offloaded(model):
        return "the base is offloaded"
    return "its processes hold shards" if is_sharded(model) else ""
