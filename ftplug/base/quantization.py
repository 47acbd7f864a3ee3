"""4-bit layers of bitsandbytes that compute alike on every processor, in training as in evaluation.

On a CPU with AVX512-BF16 a ``Linear4bit`` repacks its weight in place at its first evaluation,
rounds the weight's scales to bfloat16 and computes in bfloat16 from then on. A layer with fewer
inputs than a block has values cannot be repacked, and its evaluation raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftplug.errors import MethodError

if TYPE_CHECKING:
    from torch import nn


def is_quantized(model: Any) -> bool:
    """Whether the weights of a transformers model are of few bits."""
    return bool(getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None))


def refuse_repacked(model: nn.Module) -> None:
    """Refuse a model that was evaluated on such a CPU: unpacking does not bring the scales back."""
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if hasattr(state, "original_nested"):  # stays when it is unpacked, or could not be packed
            raise MethodError(
                f"{name} of this {type(model).__name__} was evaluated before it had a method, and "
                "bitsandbytes rounds 4-bit weights when this CPU evaluates them: load the base "
                "again, put the method on first, and ask the base under ftplug.disabled(model)"
            )


def keep_unpacked(model: nn.Module) -> None:
    """Let the 4-bit layers of a model evaluate as they train."""
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in module.__dict__:
            module.__dict__["support_avx512bf16_for_cpu"] = False
