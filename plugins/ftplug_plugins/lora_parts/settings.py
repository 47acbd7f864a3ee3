"""LoRA's rarer settings with their help, by peft's names, and what combines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from ftplug import Method, MethodError

TargetModules = Annotated[
    tuple[str, ...],
    "Ends of module names, or all-linear; empty: what peft picks for the architecture; none: no "
    "module, only target_parameters.",
]
NO_MODULES = "none"
Start = Annotated[bool | str, "True (B is zero), gaussian, orthogonal or mica."]
RankPattern = Annotated[dict[str, int], "Other ranks, by name or pattern."]
AlphaPattern = Annotated[dict[str, int], "Other lora_alpha, by name or pattern."]
LayersToTransform = Annotated[
    tuple[int, ...] | int | None, "Indices of the layers to adapt; none: all of them."
]
LayersPattern = Annotated[
    tuple[str, ...] | str | None, "Name of the list of layers, where peft does not find it."
]
TargetParameters = Annotated[
    tuple[str, ...], "Ends of parameter names to adapt, or all-experts (experts are no modules)."
]
BlockDiagonal = Annotated[
    dict[str, Any] | None, "Settings of peft's BdLoraConfig: block-diagonal A or B."
]
Fused = Annotated[
    bool, "Train layer and update as one function, where they are plain; False: peft's forward."
]

_STARTS = ("gaussian", "orthogonal", "mica")
_CURES = {
    "pissa": "it is a method of its own: use pissa",
    "olora": "it is a method of its own: use olora",
    "eva": "it needs a pass over the training data before the model is changed: use the methods "
    "pissa or olora",
    "corda": "it needs covariances of the training data first: use the methods pissa or olora",
    "lora_ga": "it needs gradients of the training data first: use the methods pissa or olora",
    "loftq": "it replaces the base's weights by quantized ones, and an artifact would fit no other "
    "base: use the method qlora, or load the base in 4 bits (BitsAndBytesConfig)",
}


def checked_start(method: str, start: bool | str) -> bool | str:
    """Return a known ``init_lora_weights``, 'true' and 'false' as typed; refuse what is none."""
    if isinstance(start, bool) or start in _STARTS:
        return start
    if start.lower() in ("true", "false"):
        return start.lower() == "true"
    kind, _, niter = start.partition("_niter_")
    cure = _CURES.get(kind, f"it is true, {', '.join(_STARTS[:-1])} or {_STARTS[-1]}")
    raise MethodError(
        f"{method}: init_lora_weights={start}: {cure}{f' with niter={niter}' if niter else ''}"
    )


def meant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a user gives them, in whose list for ``target_modules`` nothing is none.

    An artifact's empty list is the default. It comes before the settings are checked.
    """
    empty = settings.get("target_modules") in ([], (), "[]", "()")
    given = dict(settings)
    return given | {"target_modules": [NO_MODULES]} if _names(given) and empty else given


def _names(settings: Mapping[str, Any]) -> bool:
    return settings.get("target_parameters") not in (None, [], (), "", "[]", "()")


def refuse_beside(method: Method, reasons: Mapping[str, str]) -> None:
    """Refuse settings of LoRA that a variant cannot take, each with its reason."""
    given, plain = method.settings(), method.defaults()
    for name, reason in reasons.items():
        if given[name] != plain[name]:
            raise MethodError(
                f"{method.name}: {name}={given[name]} does not combine with it: {reason}"
            )
