"""Freezing: train the head, the pooler and the top layers; the lower layers stay as pretrained.

Feature extraction and partial fine-tuning as compared in https://arxiv.org/abs/1911.03090.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.method import Kind, Migration
from ftplug.structure import backbone_prefix, pooler, require_layer_stacks
from ftplug_plugins.shared.eval_mode import hold_in_eval_mode, let_go
from ftplug_plugins.trunk_cache.moved import cache_moved

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Freeze(Method):
    """Train the head, the pooler and the top layers, or what glob patterns name.

    ``layers=0`` trains head and pooler only. ``train`` replaces layers and pooler by patterns such
    as ``*.LayerNorm.*``; the head still trains (``train_head=False`` switches that off).
    Beside it ``trunk-cache`` runs the frozen layers once per example instead of once per epoch.
    """

    layers: Annotated[int, Ge(0), "How many top layers train besides head and pooler."] = 2
    train: Annotated[
        tuple[str, ...], "Glob patterns of parameter names to train instead of layers and pooler."
    ] = ()
    frozen_eval: Annotated[bool, "Keep what does not train in eval mode: no dropout."] = False

    name: ClassVar[str] = "freeze"
    kind: ClassVar[Kind] = "selection"
    MIGRATIONS: ClassVar[tuple[Migration, ...]] = (cache_moved("freeze"),)
    paper: ClassVar[str] = "https://arxiv.org/abs/1911.03090"
    citation: ClassVar[str] = """
        @article{lee2019elsa,
          title   = {What Would {Elsa} Do? Freezing Layers During Transformer Fine-Tuning},
          author  = {Lee, Jaejun and Tang, Raphael and Lin, Jimmy},
          journal = {arXiv preprint arXiv:1911.03090},
          year    = {2019}
        }
    """

    def suggested_learning_rate(self) -> LearningRate:
        """The fewer layers train, the larger a step they take."""
        if self.layers == 0 and not self.train:
            return LearningRate(1e-4, 1e-3, 1e-2)
        return LearningRate(1e-5, 3e-4, 1e-3)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select by pattern, or the pooler and the top layers of every stack."""
        names = [name for name, _ in model.named_parameters()]
        if self.train:
            return _matching(names, self.train)
        stacks = require_layer_stacks(model, self.name)
        deepest = max(len(stack.layers) for stack in stacks)
        if self.layers > deepest:
            raise MethodError(
                f"freeze: layers={self.layers}, but {type(model).__name__} has {deepest}"
            )
        prefixes = [f"{prefix}." for stack in stacks for prefix, _ in stack.top(self.layers)]
        return pooler(model) + [name for name in names if name.startswith(tuple(prefixes))]

    @hookimpl
    def finish_model(self, model: nn.Module, may_train: frozenset[str]) -> None:
        """Hold what does not train in eval mode, if asked to."""
        if self.frozen_eval:
            for part in list(_frozen_parts(model, may_train)):
                hold_in_eval_mode(part)

    @hookimpl(trylast=True)  # what came later is taken off first
    def merge_model(self, model: nn.Module) -> None:
        """Nothing was added; dropout comes back."""
        let_go(model)


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            there_are = _there_are(names, pattern)
            raise MethodError(f"freeze: no parameter matches train={pattern!r}: {there_are}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _there_are(names: list[str], pattern: str) -> str:
    """Say which patterns are most like one, and which there are."""
    ends = sorted({f"*.{'.'.join(name.split('.')[-2:])}" for name in names})
    near = difflib.get_close_matches(pattern, ends, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}(there are {', '.join(ends[:8])}{' …' if len(ends) > 8 else ''})"


def _frozen_parts(model: nn.Module, selected: frozenset[str]) -> Iterator[nn.Module]:
    """Yield the largest modules of the backbone none of whose parameters is selected."""
    from torch import nn

    frozen: list[str] = []
    prefix = backbone_prefix(model)
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in frozen)
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        runs = type(module).forward is not nn.Module.forward  # a ModuleList has none of its own
        if path.startswith(prefix) and runs and own and not inside and not selected & set(own):
            frozen.append(path)
            yield module
