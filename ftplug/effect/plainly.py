"""Asking a model itself: without what a Trainer wraps around it to train faster."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Let the model compute in its own type, uncompiled, within the block, as a loaded one does.

    accelerate puts a forward in autocast on the model, and keeps the one that was there. What is
    compiled stays so, with its cache. Python's and numpy's generators are put back.
    """
    import numpy as np
    import torch

    forwards: dict[str, Any] = vars(model)
    python, numbers = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, numbers)
        if "_original_forward" in forwards and "forward" in forwards:
            stack.callback(forwards.__setitem__, "forward", forwards["forward"])
            forwards["forward"] = forwards["_original_forward"]
        for kind in {p.device.type for p in model.parameters()} | {"cpu"}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes long
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
