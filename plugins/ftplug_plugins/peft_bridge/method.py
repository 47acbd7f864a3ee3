"""Base of peft's methods: config, injection, files, merge.

peft builds its layers *in* the model; the tuner object that does so is only a builder here. What a
tuner shares between layers (VeRA's projections, VB-LoRA's bank) is reachable from those layers or
becomes a child of the model. So a deepcopy has its own, and the host saves it with the rest.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ftplug import Method, MethodError, hookimpl
from ftplug.context import one_line
from ftplug_plugins.peft_bridge import beside as peft_beside
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge import literal, versions
from ftplug_plugins.peft_bridge.injected import injections
from ftplug_plugins.peft_bridge.keys import ADAPTER
from ftplug_plugins.peft_bridge.names import check_patterns, resolve_names
from ftplug_plugins.peft_bridge.targets import choose_targets

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import Context, RunView

_LONGEST = 400  # characters of an error of peft's
_NOISE = (
    "fan_in_fan_out is set to",  # GPT-2's Conv1D holds W transposed: peft copes
    "Detected that the base layer has no bias",
    "Unsupported layer type",  # layer norms have no in_features, and need none
    "Setting boft_n_butterfly_factor to 1",
    "Failed to load the CUDA extension",
    "You have passed exclude_modules",
    "Using Rank-Stabilized LoRA with rank_pattern",  # of a conversion that is ours here
    "The following (rank|alpha)_pattern keys did not match",  # of the same: ours are checked before
)


@dataclass(frozen=True, eq=False)
class ConfigFields(Method):
    """A method whose fields are the fields of peft's config."""

    peft_type: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.defaults()
        changed = [n for n, value in self.settings().items() if value != plain.get(n, value)]
        versions.check_settings(self.name, self.peft_type, changed)

    def config_class(self) -> Any:
        """Return peft's config class for this method."""
        import peft
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

        return CONFIGS[peft.PeftType(self.peft_type)]

    def config_values(self) -> dict[str, Any]:
        """Return the settings as arguments of the config."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: list(v) if isinstance(v, tuple) else copy(v) for n, v in values.items()}

    def peft_config(self, **decided: Any) -> Any:
        """Return peft's config with this method's settings, but for what is ``decided``."""
        values = self.config_values() | decided
        return versions.build_config(self.name, self.config_class(), values, self.defaults())

    def prompt_config(self) -> Any:
        """Return peft's config with this method's settings."""
        return self.peft_config()


@dataclass(frozen=True, eq=False)
class PeftMethod(ConfigFields):
    """Base of peft's methods that put layers in place of modules."""

    resolves: ClassVar[frozenset[str]] = literal.RESOLVED
    decided: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # config fields that we set
    saved_buffers: ClassVar[tuple[str, ...]] = ()  # what peft computes anew, by attribute

    @hookimpl
    def prepare_model(self, model: nn.Module, context: Context) -> None:
        """Let peft put its layers beside or in place of the target modules."""
        with translated(self.name, model), _quiet():
            config = self.config(model, context)
            resolve_names(self.name, config, model)
            choose_targets(config, model)
            check_patterns(self.name, config, model)
            with peft_beside.beside(
                *(self.name, config, model),
                shareable=self.shareable(),
                literal=self._literal(config, model),
            ):
                self.inject(config, model)

    def _literal(self, config: Any, model: nn.Module) -> Mapping[str, Any]:
        if not (self.resolves and literal.has_patterns(vars(self))):
            return {}
        return literal.literal_names(config, model)

    def resolved(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the settings with the names that their patterns mean."""
        own = next((i for i in injections(model) if i.method == self.name), None)
        names = own.literal if own else {}
        return literal.settings_of(names, self.settings(), self.defaults())

    def config(self, model: nn.Module, context: Context) -> Any:
        """Return the settings as peft's config."""
        return self.peft_config(**self.decided)

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build peft's layers in the model, in float32 even beside a bf16 base, as it does."""
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS

        tuner = cast("Any", TUNERS[config.peft_type])(model, config, ADAPTER)
        tuner._cast_adapter_dtype(ADAPTER, True)
        reachable = {id(module) for module in model.modules()}
        for name, shared in tuner.named_children():
            if name != "model" and id(shared) not in reachable and list(shared.state_dict()):
                model.add_module(name, shared)
        for module in model.modules():
            for name in self.saved_buffers:
                make_persistent(getattr(module, name, None))

    def shareable(self) -> bool:
        """Whether its layers can stand beside those of another method."""
        return True

    def own_layers(self, model: nn.Module) -> list[Any]:
        """Return the layers that this method put into the model."""
        import peft
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS

        own = TUNERS[peft.PeftType(self.peft_type)].tuner_layer_cls
        return [layer for _, layer in peft_files.tuner_layers(model) if isinstance(layer, own)]

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select what peft trains."""
        return peft_beside.trainable(model)

    @hookimpl
    def save_artifact(
        self,
        model: nn.Module,
        directory: Path,
        tensors: Mapping[str, torch.Tensor],
        run: RunView,
    ) -> Iterable[str]:
        """Write peft's own two files where they are complete; else nothing."""
        return peft_files.save(model, directory, tensors, run=run, computed=self.saved_buffers)

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read them back under in-memory names."""
        return peft_files.load(model, directory, run=run)

    @hookimpl
    def disable_model(self, model: nn.Module) -> AbstractContextManager[None]:
        """Switch peft's layers off."""
        return peft_files.adapters_off(model)

    @hookimpl
    def merge_model(self, model: nn.Module) -> None:
        """Fold each layer into the one it wraps, where peft can."""
        peft_files.merge(model, self.name)


def make_persistent(buffers: Any) -> None:
    """Let a module's buffers be saved: what is drawn or decomposed must come back as it was."""
    if hasattr(buffers, "persistent"):
        buffers.persistent = True
        buffers._non_persistent_buffers_set.clear()


@contextmanager
def translated(name: str, model: nn.Module) -> Iterator[None]:
    """Turn peft's refusals into a MethodError of one line.

    On a weightless copy, what cannot be computed there is no refusal: the host goes on to the real
    model.
    """
    weightless = is_weightless(model)
    refusals = (
        *(ValueError, TypeError, AttributeError, AssertionError, ImportError, KeyError),
        re.error,
    )
    try:
        yield
    except MethodError:
        raise
    except (*refusals, NotImplementedError, RuntimeError) as error:
        if weightless and not isinstance(error, refusals) and "meta" in str(error).lower():
            raise
        reason = one_line(error) or type(error).__name__
        if len(reason) > _LONGEST:  # some print the module at fault, with all that it holds
            reason = f"{reason[:_LONGEST]} …"
        raise MethodError(f"{name}: {type(model).__name__}: {reason}") from error


def is_weightless(model: nn.Module) -> bool:
    """Whether the model is the host's copy on the meta device."""
    return any(parameter.is_meta for parameter in model.parameters())


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message)
        yield
