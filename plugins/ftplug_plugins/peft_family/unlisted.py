"""Types that the installed peft has and ``types.json`` does not list, made of their config classes.

The host asks this module (entry point ``ftplug.method_families``) for names that no entry point
has. What peft declares is all that is known of such a type: its settings, and that its layers go
where LoRA's do. So a model that carries one is saved in the host's own file where peft's format
cannot hold all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftplug import Method
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_bridge.method import make_persistent
from ftplug_plugins.peft_family.about import About
from ftplug_plugins.peft_family.declared import left_out, method_name, settings_of
from ftplug_plugins.peft_family.family import method_class
from ftplug_plugins.peft_family.refused import Refused
from ftplug_plugins.peft_family.special import FromValues, persistent_buffers

if TYPE_CHECKING:
    from torch import nn

_CURE = "use peft.get_peft_model, or a newer ftplug"


def title() -> str:
    """Return what has the types."""
    return f"peft {versions.installed()}"


def names() -> Iterable[str]:
    """Return the names of the types that no method here is written for; peft is not imported."""
    return sorted(_unlisted())


def build(name: str) -> type[Method]:
    """Return the method of one of these names, from peft's config class."""
    kind = _unlisted()[name]
    config = versions.configs()[kind]
    settings, reason = settings_of(kind, config), _why_not(kind, config)
    cls = method_class(name, kind, settings, Refused if reason else Declared, _about(kind, config))
    cls.refused = reason
    return cls


@dataclass(frozen=True, eq=False)
class Declared(FromValues):
    """Offered from peft's config class: it has no tests here, beyond those of the mechanism."""

    resolves: ClassVar[frozenset[str]] = frozenset()  # an entry of target_modules may mean more

    def shareable(self) -> bool:
        """Whether its layers can stand beside those of another method: that is not known."""
        return False

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers; every tensor that they keep is saved, since any may be drawn."""
        super().inject(config, model)
        for layer in self.own_layers(model):
            _keep_all(layer)


def _keep_all(layer: nn.Module) -> None:
    """Let a state dict hold the tensors that peft's layer keeps as plain attributes or leaves out.

    What belongs to the layer of the base below it stays as it is.
    """
    import torch

    plain = {n: v for n, v in vars(layer).items() if n not in ("_parameters", "_buffers")}
    for name, value in plain.items():
        if type(value) is torch.Tensor:
            delattr(layer, name)
            layer.register_buffer(name, value)
        elif type(value) is dict and any(type(one) is torch.Tensor for one in value.values()):
            setattr(layer, name, persistent_buffers(value))
    for name, part in layer.named_modules():
        if name.partition(".")[0] != "base_layer":
            make_persistent(part)
            part._non_persistent_buffers_set.clear()


def _unlisted() -> dict[str, str]:
    """Return ``{name: type}``."""
    return {method_name(kind): kind for kind in versions.types() - set(versions.recorded())}


def _about(kind: str, config: Any) -> About:
    unsettable = ", ".join(left_out(kind, config))
    rest = f"; not settable here: {unsettable}" if unsettable else ""
    return About(f"{title()}'s {kind}, as its config declares it; not tested with ftplug{rest}.")


def _why_not(kind: str, config: Any) -> str:
    """Say what is missing for a type that puts no layers into a model, else nothing."""
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS
    from peft.tuners.tuners_utils import BaseTuner

    tuner: Any = next((c for key, c in TUNERS.items() if getattr(key, "value", key) == kind), None)
    if issubclass(config, PromptLearningConfig):
        return (
            f"it trains virtual tokens, and what peft computes them by is not known here: {_CURE}"
        )
    layers = isinstance(tuner, type) and issubclass(tuner, BaseTuner)
    if not layers or getattr(tuner, "tuner_layer_cls", None) is None:
        return f"peft declares no kind of layer that it puts into a model: {_CURE}"
    return ""
