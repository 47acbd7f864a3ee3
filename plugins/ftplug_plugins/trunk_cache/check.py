"""Checks before anything trains on a cache: the Trainer's options, and the model's own forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.context import one_line
from ftplug.inplace import in_eval_mode
from ftplug_plugins.trunk_cache.cut import NAME, TrunkSpec
from ftplug_plugins.trunk_cache.forward import trunk_in_eval_mode
from ftplug_plugins.trunk_cache.rows import Rows

if TYPE_CHECKING:
    from torch import Tensor


def check(
    backbone: Any,
    spec: TrunkSpec,
    forward: Any,
    given: Mapping[str, Any],
    states: Tensor,
    rows: Rows,
) -> None:
    """Compare the first batch with an ordinary forward: no architecture is taken on trust.

    Raises :class:`ftplug.MethodError` where the trunk is not deterministic, or hands the layers
    above more than hidden states.
    """
    import torch

    with torch.no_grad(), in_eval_mode(backbone.modules()):
        expected, again = (forward(**given)[0].float() for _ in range(2))
        try:
            with trunk_in_eval_mode(backbone, spec, states):
                found = forward(**given)[0].float()
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            why = f"its layers need more than hidden states ({one_line(error)})"
            raise _refusal(backbone, why) from error
    if not torch.equal(expected, again):
        raise _refusal(backbone, "it answers differently each time")
    precision = f"{rows.tag} {spec.dtype}"
    allowed = (0.1 if "float16" in precision else 1e-3) * float(expected.abs().max())
    for row in range(len(expected)):
        span = rows.span(row)
        if float((found[row, span] - expected[row, span]).abs().max()) > allowed:
            raise _refusal(backbone, "its layers hand on more than hidden states")


def refuse_trainer(args: Any) -> None:
    """Refuse what splits the model, and noise that a trunk in eval mode would not get."""
    from accelerate.state import AcceleratorState, is_initialized

    for name in ("torch_compile", "fsdp", "deepspeed", "neftune_noise_alpha"):
        if getattr(args, name, None):
            raise MethodError(f"{NAME}: it does not combine with {name}: leave one of them out")
    if args is not None and is_initialized():
        backend = AcceleratorState().dynamo_plugin.backend.value.lower()
        if backend != "no":
            raise MethodError(
                f"{NAME}: it does not combine with accelerate's dynamo_backend={backend}: leave "
                "it out, or unset ACCELERATE_DYNAMO_BACKEND"
            )


def _refusal(backbone: Any, why: str) -> MethodError:
    return MethodError(f"{NAME}: it does not fit {type(backbone).__name__}: {why}: leave it out")
