"""What a cache must fit before anything trains on it: the Trainer, and the model's own forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.errors import one_line
from ftplug_plugins.trunk_cache.forward import in_eval_mode, trunk_in_eval_mode

if TYPE_CHECKING:
    from torch import Tensor

    from ftplug_plugins.trunk_cache.rows import Rows
    from ftplug_plugins.trunk_cache.trunk import Trunk


def check(
    backbone: Any, trunk: Trunk, forward: Any, given: Mapping[str, Any], states: Tensor, rows: Rows
) -> None:
    """Compare the first batch with an ordinary forward: no architecture is taken on trust.

    Raises :class:`ftplug.MethodError` where the trunk is not deterministic, or hands the layers
    above more than hidden states.
    """
    import torch

    with torch.no_grad(), in_eval_mode(backbone.modules()):
        expected, again = (forward(**given)[0].float() for _ in range(2))
        try:
            with trunk_in_eval_mode(backbone, trunk, states):
                found = forward(**given)[0].float()
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            why = f"its layers need more than hidden states ({one_line(error)})"
            raise _refusal(trunk, backbone, why) from error
    if not torch.equal(expected, again):
        raise _refusal(trunk, backbone, "it answers differently each time")
    precision = f"{rows.tag} {trunk.dtype}"
    allowed = (0.1 if "float16" in precision else 1e-3) * float(expected.abs().max())
    for row in range(len(expected)):
        span = rows.span(row)
        if float((found[row, span] - expected[row, span]).abs().max()) > allowed:
            raise _refusal(trunk, backbone, "its layers hand on more than hidden states")


def refuse_trainer(method: str, args: Any) -> None:
    """Refuse what splits the model, and noise that a trunk in eval mode would not get."""
    from accelerate.state import AcceleratorState, is_initialized

    for name in ("torch_compile", "fsdp", "deepspeed", "neftune_noise_alpha"):
        if getattr(args, name, None):
            raise MethodError(f"{method}: cache=True and {name} do not combine: leave one out")
    if args is not None and is_initialized():
        backend = AcceleratorState().dynamo_plugin.backend.value.lower()
        if backend != "no":
            raise MethodError(
                f"{method}: cache=True and accelerate's dynamo_backend={backend} do not combine: "
                "leave cache out, or unset ACCELERATE_DYNAMO_BACKEND"
            )


def _refusal(trunk: Trunk, backbone: Any, why: str) -> MethodError:
    name = type(backbone).__name__
    return MethodError(f"{trunk.method}: cache=True does not fit {name}: {why}: leave cache out")
