"""A bottleneck adapter of ``adapters`` as ftplug's method: where it stands, and its tensors.

Its modules are ``LAYER.output.adapters.NAME.adapter_down.0`` and ``….adapter_up``, beside a dense
layer that ftplug's method wraps. What its config can say beyond that is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import ArtifactError
from ftplug.structure import backbone_prefix, layer_stacks
from ftplug_plugins.layouts.converted import number, whole_number

if TYPE_CHECKING:
    from torch import Tensor, nn

# What the config must say for the method to compute the same; the rest is of training.
_REQUIRED: dict[str, Any] = {
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "use_gating": False,
    "inv_adapter": None,
    "cross_adapter": False,
    "phm_layer": False,
    "stochastic_depth": 0.0,
}
_KEY = re.compile(r"(.+)\.adapters\.[^.]+\.adapter_(down\.0|up)\.(weight|bias)")
_OURS = re.compile(r"(.+)\.adapter\.(down|up)\.(weight|bias)")
_ACTIVATIONS = {"leakyrelu": "leaky_relu"}  # by another name in transformers


@dataclass(frozen=True)
class BottleneckAdapter:
    """The adapter; ``held`` are its tensors by module, part and kind, ``head`` those of a head."""

    where: Path
    settings: Mapping[str, Any]
    left_out: tuple[int, ...]
    held: Mapping[tuple[str, str, str], Tensor]
    head: Mapping[str, Tensor]
    title: str
    about: Mapping[str, Any]
    plain: Path | None = None
    remarks: tuple[str, ...] = ()
    named_revision: str | None = None
    task: str | None = None
    also: Mapping[str, list[int]] = field(default_factory=dict)
    unheard: tuple[str, ...] = ()
    taken: set[object] = field(default_factory=set)  # keys of the tensors that were asked for

    @classmethod
    def of(
        cls,
        where: Path,
        config: Mapping[str, Any],
        held: Mapping[str, Tensor],
        head: Mapping[str, Tensor],
        *,
        title: str,
        about: Mapping[str, Any],
    ) -> BottleneckAdapter:
        """Read config and names; refuse what the method does not compute."""
        for name, value in _REQUIRED.items():
            if (config.get(name, value) or None) != (value or None):
                raise ArtifactError(
                    f"{where}: a bottleneck with {name}={config[name]!a:.40} is none of ftplug's"
                )
        left_out = config.get("leave_out") or []
        if not isinstance(left_out, list) or not all(type(n) is int for n in left_out):
            raise ArtifactError(
                f"{where}: leave_out={left_out!a:.60}: a list of layers is expected"
            )
        parts = {}
        for key, tensor in held.items():
            if (found := _KEY.fullmatch(key)) is None:
                raise ArtifactError(f"{where}: {key[:80]!a} is no tensor of a plain bottleneck")
            part = (found[1], found[2].removesuffix(".0"), found[3])
            if part in parts:
                raise ArtifactError(f"{where}: {key[:80]!a} is of a second adapter in one file")
            parts[part] = tensor
        remarks = ("its dropout is left out",) if config.get("dropout") else ()
        settings = _settings(config, where)
        return cls(where, settings, tuple(left_out), parts, head, title, about, remarks=remarks)

    @property
    def named_base(self) -> str | None:
        """The base that it names."""
        return self.about["base_model_name_or_path"] or None

    @property
    def model_class(self) -> str | None:
        """The class of the model that it was saved from."""
        return self.about["auto_mapping"]["base_model_class"] or None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The head's."""
        return {name: tuple(tensor.shape) for name, tensor in self.head.items()}

    def changed(self, model: nn.Module, loaded: nn.Module | None) -> Iterable[str]:
        """Return the head's parameters."""
        return list(self.head)

    def methods(
        self, model: nn.Module, loaded: nn.Module | None, replaced: Sequence[str]
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """Return ``bottleneck`` with its settings; the lower layers may have none."""
        depth = max((len(stack.layers) for stack in layer_stacks(model)), default=0)
        lower = set(self.left_out)
        if lower != set(range(len(lower))):
            raise ArtifactError(
                f"{self.where}: leave_out={sorted(lower)}: ftplug's bottleneck leaves out the "
                "lowest layers alone"
            )
        layers = {"layers": depth - len(lower)} if lower else {}
        missing = (name for name in self.held if not self._site_of(model, name[0]))
        if (module := next(missing, None)) is not None:
            raise ArtifactError(
                f"{self.where}: it adapts {module[0][:80]!a}, where ftplug's bottleneck has no "
                f"place in a {type(model).__name__}"
            )
        return [("bottleneck", {**self.settings, **layers})]

    def _site_of(self, model: nn.Module, module: str) -> bool:
        """Whether the model has such a module, with BERT's dense layer in it."""
        names = {name for name, _ in model.named_modules()}
        prefix = backbone_prefix(model)
        return any(f"{start}{module}.dense" in names for start in ("", prefix))

    def value(self, name: str, wanted: Tensor, loaded: nn.Module | None) -> Tensor | None:
        """Return the tensor of a site, which is the dense layer or what holds it; or the head's."""
        if name in self.head:
            self.taken.add(name)
            return self.head[name]
        if (found := _OURS.fullmatch(name)) is None:
            return None
        site, part, kind = found.groups()
        for place in (site, site.rpartition(".")[0]):
            for module in (place, place.partition(".")[2]):  # saved with the backbone's name or not
                if (tensor := self.held.get((module, part, kind))) is not None:
                    self.taken.add((module, part, kind))
                    return tensor
        return None

    def left(self, loaded: nn.Module | None, own: Collection[int]) -> list[str]:
        """Return the tensors that nobody asked for; nothing is asked of peft."""
        inside = [".".join(key) for key in self.held if key not in self.taken]
        return inside + [name for name in self.head if name not in self.taken]


def _settings(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    factor, scaling = config.get("reduction_factor"), config.get("scaling", 1.0)
    if isinstance(factor, Mapping):
        raise ArtifactError(
            f"{where}: reduction_factor={factor!a:.60}: one whole number for all layers is expected"
        )
    if isinstance(scaling, str):
        raise ArtifactError(
            f"{where}: scaling={scaling!a:.40}: a learned scale is none of ftplug's"
        )
    factor = whole_number(factor, f"{where}: reduction_factor")
    scaling = number(scaling, f"{where}: scaling")
    activation = str(config.get("non_linearity")).lower()
    before = _flag(config, "original_ln_before", where)
    if (
        before
        and not _flag(config, "is_parallel", where)
        and config.get("residual_before_ln") is not True
    ):
        raise ArtifactError(
            f"{where}: residual_before_ln={config.get('residual_before_ln')!a:.40} is none of "
            "ftplug's"
        )
    placement = _placement(config, where)
    return {
        "reduction_factor": factor,
        "non_linearity": _ACTIVATIONS.get(activation, activation),
        "placement": placement,
        "scaling": scaling,
        **({"original_ln_before": True} if before and placement != "parallel" else {}),
    }


def _placement(config: Mapping[str, Any], where: Path) -> str:
    after = (_flag(config, "mh_adapter", where), _flag(config, "output_adapter", where))
    parallel = _flag(config, "is_parallel", where)
    if parallel:
        found = {(False, True): "parallel"}.get(after)
    else:
        found = {(False, True): "pfeiffer", (True, True): "houlsby"}.get(after)
    if found is None:
        raise ArtifactError(
            f"{where}: mh_adapter={after[0]}, output_adapter={after[1]} and "
            f"is_parallel={parallel} is no placement of ftplug's bottleneck"
        )
    return found


def _flag(config: Mapping[str, Any], name: str, where: Path) -> bool:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ArtifactError(f"{where}: {name}={value!a:.60}: true or false is expected")
    return bool(value)
