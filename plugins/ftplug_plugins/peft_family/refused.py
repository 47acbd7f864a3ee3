"""Methods of peft that cannot be put on a model here: each says why, and what to use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftplug import MethodError, hookimpl
from ftplug_plugins.peft_bridge.method import ConfigFields

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Refused(ConfigFields):
    """A method of peft that cannot be put on a model in place."""

    @hookimpl
    def prepare_model(self, model: nn.Module) -> None:
        """Say why, and what to use."""
        raise MethodError(f"{self.name}: {self.refused}")

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Nothing: it is never reached."""
        return ()


@dataclass(frozen=True, eq=False)
class Lacking(Refused):
    """A method that the installed peft does not have: nothing can be made of its settings."""

    def __post_init__(self) -> None:
        raise MethodError(f"{self.name}: {self.refused}")


class Xlora(Refused):
    """Needs adapters that are trained already, so it is no way to train one."""

    refused: ClassVar[str] = (
        "it mixes LoRA adapters that are trained already, and an artifact holds one: train lora "
        "here and mix the results with peft's XLoraConfig"
    )


class Shadow(Refused):
    """Its shadow state passes through peft's wrapper around the model."""

    refused: ClassVar[str] = (
        "its state passes through peft's wrapper around the model, and a method here changes the "
        "model in place: use peft.get_peft_model, or bottleneck or lora here"
    )


class Cpt(Refused):
    """Its loss needs a type for every token of the input, which no Trainer passes."""

    refused: ClassVar[str] = (
        "its loss needs the type of every input token (input_type_mask), without which it has no "
        "label to train on: use prompt-tuning with init= the text of the context"
    )
