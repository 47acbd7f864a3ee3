"""A stack of layers tried on a few tokens before anything is placed in it: what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug.inplace import in_eval_mode
from ftplug.structure import shape_of, weightless_copy

if TYPE_CHECKING:
    import torch

LENGTH = 8


def some_tokens(stack: Any) -> torch.Tensor:
    """Return (1, length) token ids for a stack; 0 might be padding, of which some warn."""
    import torch

    return torch.ones(1, LENGTH, dtype=torch.long, device=stack.device)


def tried(stack: Any, run: Callable[[Any], Any]) -> Any:
    """Return what ``run`` gives for a weightless copy of a stack in eval mode.

    Where that does not run (some experts ask for values), for the stack itself; None for a
    weightless stack that does not: the real one will tell. Raises what the real one raises.
    """
    import torch

    try:
        return run(weightless_copy(stack).eval())
    except Exception as error:  # whatever a forward may raise without values
        logger.debug("no rehearsal of %s: %s", type(stack).__name__, error)
    if stack.device.type == "meta":
        return None
    with torch.no_grad(), in_eval_mode(stack.modules()):
        return run(stack)


def refuses_embeddings(stack: Any) -> Exception | None:
    """Return why a stack that runs on token ids does not read embeddings one by one, if so."""
    width = shape_of(stack.get_input_embeddings().weight)[1]

    def on_embeddings(some: Any) -> bool:
        ids = some_tokens(some)  # ones: some look zeros up among the embeddings, and find padding
        output = some(inputs_embeds=ids.new_ones(*ids.shape, width, dtype=some.dtype))
        states = output[0]
        if states.shape[1] != ids.shape[1]:  # Funnel pools: which are virtual is not to be told
            raise ValueError(f"it gives {states.shape[1]} positions for {LENGTH} tokens")
        if more := [n for n in output if n.startswith("last_hidden_state_")]:  # ProphetNet
            raise ValueError(f"it gives {more[0]} as well")
        return True

    try:
        tried(stack, on_embeddings)
        return None
    except Exception as error:
        raised = error
    try:
        tried(stack, lambda some: some(input_ids=some_tokens(some)))
    except Exception as error:  # it needs more than ids: what that is, no batch is here to tell
        logger.debug("%s does not run on ids: %s", type(stack).__name__, error)
        return None
    return raised
