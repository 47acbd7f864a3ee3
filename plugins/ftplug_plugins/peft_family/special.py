"""Methods of peft whose state is more than their trained tensors, each with what it needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ftplug import MethodError, hookimpl
from ftplug.context import WEIGHTS, read_tensors
from ftplug.inplace import wrap_forward
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_bridge.keys import ADAPTER
from ftplug_plugins.peft_bridge.method import PeftMethod, is_weightless

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import Context, RunView


@dataclass(frozen=True, eq=False)
class FromValues(PeftMethod):
    """peft computes with the base's values, which a weightless copy lacks: it gets random ones."""

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers; on a weightless copy only names and shapes matter."""
        if not is_weightless(model):
            super().inject(config, model)
            return
        with _random_values(config, model):
            super().inject(config, model)


@contextmanager
def _random_values(config: Any, model: nn.Module) -> Iterator[None]:
    """Give the target modules values on the CPU within the block."""
    import torch
    from peft.tuners.tuners_utils import check_target_module_exists
    from torch import nn

    swapped = [
        (module, key, parameter)
        for name, module in model.named_modules()
        if check_target_module_exists(config, name)
        for key, parameter in module._parameters.items()
        if parameter is not None
    ]
    with torch.device("cpu"):
        for module, key, parameter in swapped:
            values = torch.randn(parameter.shape).to(parameter.dtype)
            module._parameters[key] = nn.Parameter(values, parameter.requires_grad)
        yield
    for module, key, parameter in swapped:  # peft has frozen the stand-in
        parameter.requires_grad_(module._parameters[key].requires_grad)
        module._parameters[key] = parameter


@dataclass(frozen=True, eq=False)
class Frod(FromValues):
    """The basis is computed from all layers at once, and saved: eigenvectors have no fixed sign."""

    decided: ClassVar[Mapping[str, Any]] = MappingProxyType({"progressbar": False})
    saved_buffers: ClassVar[tuple[str, ...]] = ("frod_U",)

    @hookimpl
    def merge_model(self, model: nn.Module) -> None:
        """Fold each layer into the one it wraps and drop the shared basis."""
        peft_files.merge(model, self.name)
        for name in ("frod_V", "frod_s_indices", "frod_s_size"):
            delattr(model, name)


@dataclass(frozen=True, eq=False)
class Unilora(FromValues):
    """Which entry of the vector fills which place is saved as well."""

    decided: ClassVar[Mapping[str, Any]] = MappingProxyType({"save_indices": True})


@dataclass(frozen=True, eq=False)
class Lily(PeftMethod):
    """Layers share matrices by the entry of ``target_modules`` that means them: names cannot."""

    resolves: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True, eq=False)
class Psoft(PeftMethod):
    """The principal subspace is saved beside peft's files, which leave it to be computed anew."""

    saved_buffers: ClassVar[tuple[str, ...]] = ("_psoft_A_cache", "_psoft_B_cache")


@dataclass(frozen=True, eq=False)
class Shira(FromValues):
    """The indices of the selected weights are buffers: saved, moved and copied with the layer."""

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers and register their indices."""
        super().inject(config, model)
        for layer in self.own_layers(model):
            layer.shira_indices = persistent_buffers(layer.shira_indices)


@dataclass(frozen=True, eq=False)
class Osf(PeftMethod):
    """Gradients are kept orthogonal to the large singular directions, in a deepcopy as well."""

    saved_buffers: ClassVar[tuple[str, ...]] = (
        "_osf_U_low_init",
        "_osf_S_low_init",
        "_osf_V_low_init",
        "_osf_U_high",
        "_osf_V_high",
    )

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers; each attaches its gradient hooks again where a copy has lost them."""
        super().inject(config, model)
        for layer in self.own_layers(model):
            wrap_forward(layer, _with_hooks)


def _with_hooks(layer: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if layer.training and not layer.osf_svd_params[ADAPTER]["U_low"]._backward_hooks:
        layer._attach_hooks(ADAPTER)
    return forward(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Adamss(FromValues):
    """Subspaces are as large as k-means makes them, which needs scikit-learn.

    peft can prune them while it trains (``use_asa``); that is refused, since no checkpoint holds
    what its decisions are made of.
    """

    saved_buffers: ClassVar[tuple[str, ...]] = ("scatter_index",)

    @hookimpl
    def prepare_model(self, model: nn.Module, context: Context) -> None:
        """Build the layers, if scikit-learn is there to cluster with."""
        try:
            import sklearn.cluster  # noqa: F401
        except ImportError as error:
            raise MethodError("adamss: needs scikit-learn: pip install scikit-learn") from error
        super().prepare_model(model, context)

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers and register what peft keeps in plain dictionaries."""
        if config.use_asa:
            raise MethodError(
                "adamss: use_asa=True prunes by switching requires_grad off, with importances that "
                "no checkpoint holds: leave it off, or use adalora"
            )
        with versions.seeded_svd():
            super().inject(config, model)
        for layer in self.own_layers(model):
            layer.scatter_index = persistent_buffers(layer.scatter_index)

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read the tensors; a weightless copy takes their shapes, which depend on the base."""
        tensors = super().load_artifact(model, directory, run)
        if is_weightless(model):
            beside = directory / WEIGHTS  # the host's file holds all where peft's would hold half
            known = tensors or (read_tensors(beside) if beside.is_file() else {})
            _take_shapes(model, known)
        return tensors


def _take_shapes(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    from torch import nn

    for name, parameter in list(model.named_parameters()):
        given = tensors.get(name)
        if ".adamss_B." in name and given is not None and given.shape != parameter.shape:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Parameter(given.to("meta")))


def persistent_buffers(tensors: Any) -> Any:
    """Return a plain dictionary of tensors as buffers that are saved."""
    from peft.tuners._buffer_dict import BufferDict

    return BufferDict(dict(tensors.items()), persistent=True)


@dataclass(frozen=True, eq=False)
class Deft(PeftMethod):
    """Its layers take the bias of the layer within, which they hold on to while that runs."""

    def partition_refusal(self) -> str:
        """Under ZeRO-3 the layer within has given up its bias when it is used."""
        return "it uses the biases of layers that have run"


@dataclass(frozen=True, eq=False)
class TrainableTokens(PeftMethod):
    """``token_indices`` names the tokens, by id; tied output embeddings follow."""

    def config(self, model: nn.Module, context: Context) -> Any:
        """Refuse an empty selection: nothing would train."""
        config = super().config(model, context)
        if not config.token_indices:
            raise MethodError("trainable-tokens: name the tokens to train, e.g. token_indices=5,17")
        return config

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build the layers, whose memory of the start is no part of a graph."""
        import torch
        from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

        if is_deepspeed_zero3_enabled() and not torch.cuda.is_available():
            raise MethodError(
                "trainable-tokens: under DeepSpeed ZeRO-3 peft takes the tokens from the base by "
                "way of a CUDA device alone: use ZeRO-2, DDP, or another method"
            )
        with warnings.catch_warnings():  # peft 0.19 says that it cannot tie them, and does
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
            super().inject(config, model)
        for layer in self.own_layers(model):
            versions.detach(layer.trainable_tokens_original)

    @hookimpl
    def probe_inputs(
        self, inputs: Sequence[Mapping[str, torch.Tensor]]
    ) -> list[dict[str, torch.Tensor]]:
        """Put three of the tokens into each input, before its last one."""
        import torch

        indices = self.config_values()["token_indices"]
        given = []
        for number, stored in enumerate(inputs):
            ids = stored["input_ids"].clone()
            own = [indices[(3 * number + i) % len(indices)] for i in range(3)]
            ids[..., -4:-1] = torch.tensor(own)
            given.append({"input_ids": ids})
        return given
