"""The placement of virtual tokens: what a stack of layers knows of those before its input.

It is kept on the stack, under one attribute, so that a deepcopy and a DataParallel replica have
their own, and peft's encoder holds nothing but peft's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_ATTRIBUTE = "_virtual_tokens"


@dataclass(frozen=True)
class Placement:
    """peft's config of the encoder, and the learned positions of the stack (None: no limit).

    ``in_output`` is True within a call whose caller cuts the virtual positions off itself.
    """

    config: Any
    positions: int | None
    in_output: bool = False

    @property
    def count(self) -> int:
        """The number of virtual tokens."""
        count: int = self.config.num_virtual_tokens
        return count


def placement_of(stack: nn.Module) -> Placement:
    """Return the placement of the virtual tokens before a stack's input."""
    placement: Placement = stack.__dict__[_ATTRIBUTE]
    return placement


def note(stack: nn.Module, placement: Placement) -> None:
    """Let the stack know of its virtual tokens."""
    stack.__dict__[_ATTRIBUTE] = placement


@contextmanager
def in_output(stack: nn.Module) -> Iterator[None]:
    """Let the stack's output have the virtual positions within the block."""
    before = placement_of(stack)
    note(stack, replace(before, in_output=True))
    try:
        yield
    finally:
        note(stack, before)
