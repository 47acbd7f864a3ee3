"""Activated LoRA: an update that works from its invocation on (https://arxiv.org/abs/2504.12397)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import MinLen

from ftplug import MethodError, hookimpl
from ftplug_plugins.lora import Lora
from ftplug_plugins.lora_parts import activated
from ftplug_plugins.lora_parts.settings import refuse_beside

if TYPE_CHECKING:
    from torch import nn

    from ftplug.context import Context

_UNFIT = {
    "use_dora": "DoRA scales what stands before the invocation, too",
    "use_bdlora": "peft has one kind of layer for each",
    "target_parameters": "peft adapts a parameter at every position",
}


@dataclass(frozen=True, eq=False)
class Alora(Lora):
    """Train LoRA that adapts only what follows its invocation tokens; before them is the base.

    Row t of x, (tokens, in_features), becomes ``W x_t + (lora_alpha / r) B A x_t`` from the last
    occurrence of the tokens in the row on, and stays ``W x_t`` before it, or where the row has
    none. A is (r, in_features), B is (out_features, r). So the key-value cache of what stands
    before is the base's own. For decoder-only language models; it cannot be merged.
    """

    alora_invocation_tokens: Annotated[
        tuple[int, ...], MinLen(1), "Token ids that switch the update on for what follows."
    ] = field(kw_only=True)

    name: ClassVar[str] = "alora"
    decided: ClassVar[Mapping[str, Any]] = MappingProxyType({"task_type": "CAUSAL_LM"})
    paper: ClassVar[str] = "https://arxiv.org/abs/2504.12397"
    citation: ClassVar[str] = """
        @misc{greenewald2025alora,
          title         = {Activated {LoRA}: Fine-tuned {LLMs} for Intrinsics},
          author        = {Greenewald, Kristjan and Lastras, Luis and Parnell, Thomas and Shah,
                           Vraj and Popa, Lucian and Zizzo, Giulio and Gunasekara, Chulaka and
                           Rawat, Ambrish and Cox, David},
          year          = {2025},
          eprint        = {2504.12397},
          archivePrefix = {arXiv}
        }
    """
    MIGRATIONS = ()
    relies_on_internals: ClassVar[bool] = True
    starts_at_base: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_beside(self, _UNFIT)

    def tokens_to_act_on(self) -> tuple[int, ...]:
        """Return the invocation."""
        return self.alora_invocation_tokens

    def shareable(self) -> bool:
        """Whether it shares the model: no, only its layers know the invocation."""
        return False

    def config(self, model: nn.Module, context: Context) -> Any:
        """Return LoRA's config; refuse what does not read tokens from left to right."""
        activated.check(model)
        return super().config(model, context)

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build LoRA's layers, and tell them where the invocation stands."""
        super().inject(config, model)
        activated.activate(model)

    @hookimpl
    def merge_model(self, model: nn.Module) -> None:
        """Refuse: no weight knows where in a row it is used."""
        raise MethodError(
            "alora: its update depends on where the invocation stands, and no weight can hold "
            "that: keep the artifact beside its base"
        )
