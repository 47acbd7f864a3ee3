"""Putting methods on a model: ``apply``, and ``disabled`` to ask the base model again."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.base import Base, inspect_base
from ftplug.context import Context
from ftplug.errors import MethodError
from ftplug.host import Host, MethodLike, resolve
from ftplug.inplace import forwards_disabled
from ftplug.original_values import OriginalValues
from ftplug.plan import Plan, make_plan, set_trainable

if TYPE_CHECKING:
    from torch import nn

    from ftplug.method import Method

_ATTRIBUTE = "_ftplug"


@dataclass(eq=False)
class Attachment:
    """What ftplug knows about a prepared model. Holds no reference to it, so copies share it."""

    host: Host
    base: Base
    plan: Plan
    context: Context
    train_head: bool
    original_values: OriginalValues = field(repr=False)
    training: dict[str, Any] = field(default_factory=dict)  # facts of the last train()

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        return self


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, DataParallel and torch.compile wrappers."""
    from accelerate.utils import extract_model_from_parallel
    from torch import nn

    if not isinstance(model, nn.Module):
        raise MethodError(f"a model is expected, not {model!r}")
    inner: nn.Module = extract_model_from_parallel(model, keep_torch_compile=False)
    return inner


def attachment_of(model: nn.Module) -> Attachment | None:
    """Return what is attached to a model, seen through DDP, DataParallel and torch.compile."""
    return unwrapped(model).__dict__.get(_ATTRIBUTE)


def require_attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model, or say that nothing is."""
    found = attachment_of(model)
    if found is None:
        raise MethodError(
            f"this {type(model).__name__} carries no ftplug method: use ftplug.apply(model, 'lora')"
        )
    return found


def apply(
    model: nn.Module,
    *methods: MethodLike,
    train_head: bool = True,
    seed: int = 42,
    **settings: Any,
) -> nn.Module:
    """Put one or several methods on a model, in place, for a hand-written training loop.

    ``apply(model, "lora", r=8)``, ``apply(model, Lora(r=8))``, ``apply(model, "lora", "bitfit")``.
    Afterwards exactly the parameters that train require gradients. Random initialisation is drawn
    under ``seed`` (the Trainer's default); torch's own generators are left as they were.

    Returns the same object. Raises :class:`MethodError` where a method or setting does not fit.
    """
    chosen = resolve(methods, settings)
    context = Context(seed=seed, task=structure.task_of(model), model_class=type(model).__name__)
    prepare(model, chosen, context, train_head=train_head)
    return model


def prepare(
    model: nn.Module,
    methods: Sequence[Method],
    context: Context,
    *,
    train_head: bool = True,
    fresh: Sequence[str] | None = None,
) -> Attachment:
    """Apply configured methods, once; a model that already carries the same ones is adopted.

    ``fresh`` names the parameters that are in no checkpoint, where a manifest knows them.
    """
    _refuse_strangers(model)
    host = Host(methods)
    if (found := attachment_of(model)) is not None:
        if not host.same_methods(found.host.spec()) or found.train_head != train_head:
            raise MethodError(
                f"the model already carries {found.host.names} with other settings or methods than "
                f"{host.names}: merge it, or load a fresh base"
            )
        return found
    base = inspect_base(model, fresh)
    original = dict(model.named_parameters())
    with _drawn_under(context.seed, model):
        host.call("prepare_model", model=model, context=context)
    plan = make_plan(model, host, base, original, train_head=train_head)
    set_trainable(model, set(plan.may_train))
    attachment = Attachment(
        host=host,
        base=base,
        plan=plan,
        context=context,
        train_head=train_head,
        original_values=OriginalValues.of(model, base, plan),
    )
    model.__dict__[_ATTRIBUTE] = attachment
    if hasattr(model, "save_pretrained"):
        model.__dict__["save_pretrained"] = types.MethodType(_save_pretrained, model)
    return attachment


def detach(model: nn.Module) -> None:
    """Forget the methods of a model that is plain again: ``save_pretrained`` means what it did."""
    model.__dict__.pop(_ATTRIBUTE, None)
    model.__dict__.pop("save_pretrained", None)


def _save_pretrained(self: nn.Module, save_directory: str, **kwargs: Any) -> None:
    """Write the artifact: what ``save_pretrained`` means for a model with a method attached."""
    from ftplug.artifact import save

    if not kwargs.get("is_main_process", True):
        return
    save(self, save_directory, state_dict=kwargs.get("state_dict"))
    if kwargs.get("push_to_hub"):
        raise MethodError("save_pretrained(push_to_hub=True): save, then push the folder")


def _refuse_strangers(model: nn.Module) -> None:
    """Refuse a model that carries peft adapters which ftplug did not put there."""
    if attachment_of(model) is not None:
        return
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise MethodError(
            f"{type(model).__name__} already carries a peft adapter: give ftplug the base model "
            "(model.unload(), or merge_and_unload() to keep what it learned)"
        )


@contextmanager
def _drawn_under(seed: int, model: nn.Module) -> Iterator[None]:
    """Seed torch's generators for the block and put them back afterwards."""
    import torch

    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(seed)
        yield


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Let the model give the base model's answers, exactly, within the block.

    Added modules do nothing and the base's own tensors (a trained head, unfrozen layers) hold the
    values they had when the method was applied. Useful as the reference model of DPO.
    """
    attached = require_attachment(model)
    inner = unwrapped(model)
    with ExitStack() as stack:
        stack.enter_context(attached.original_values.put_back(inner))
        stack.enter_context(forwards_disabled(inner))
        for context in attached.host.call("disable_model", model=inner):
            stack.enter_context(context)
        # Libraries toggle requires_grad when they disable; the plan is put back before leaving.
        grads = {name: p.requires_grad for name, p in inner.named_parameters()}
        stack.callback(lambda: set_trainable(inner, {n for n, on in grads.items() if on}))
        yield
