"""The variants of LoRA that were settings of ``lora`` in ftplug 0.1 and are methods now."""

from __future__ import annotations

import re
from typing import Any

_TOKENS = "alora_invocation_tokens"


def variants(settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]] | None:
    """Return ``pissa``, ``olora`` or ``alora`` where lora's settings asked for it.

    What it does not know is handed on: it comes last among lora's migrations, since its methods
    have none. A start from the base ran without the invocation tokens, if both were given.
    """
    rest = {name: value for name, value in settings.items() if name != _TOKENS}
    start = re.fullmatch(
        "(pissa|olora|pissa_niter_([0-9]{1,9}))", str(rest.get("init_lora_weights"))
    )
    if start is not None:
        del rest["init_lora_weights"]
        if start[2] is not None:
            rest["niter"] = int(start[2])
        return [(start[1].partition("_")[0], rest)]
    if _TOKENS not in settings:
        return None
    return [("alora", settings)] if _any(settings[_TOKENS]) else [("lora", rest)]


def _any(tokens: Any) -> bool:
    """Whether there are tokens, in a list or as typed on a command line."""
    return bool(tokens.strip("[]() ") if isinstance(tokens, str) else tokens)
