"""What a cached pass must equal before anything trains on it: an ordinary forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.errors import one_line
from ftplug_plugins.trunk_pass import in_eval_mode, trunk_in_eval_mode

if TYPE_CHECKING:
    from torch import Tensor

    from ftplug_plugins.trunk import Trunk
    from ftplug_plugins.trunk_rows import Rows


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


def _refusal(trunk: Trunk, backbone: Any, why: str) -> MethodError:
    name = type(backbone).__name__
    return MethodError(f"{trunk.method}: cache=True does not fit {name}: {why}: leave cache out")
