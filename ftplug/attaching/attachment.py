"""Methods on a model: ``prepare`` puts them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from ftplug.attaching.changing import refuse_no_values
from ftplug.attaching.differing import other_methods
from ftplug.attaching.first_backward import FirstBackward
from ftplug.attaching.holders import (
    ATTRIBUTE,
    holds,
    is_ours,
    no_longer_holds,
    refuse_held,
    refuse_trained_elsewhere,
)
from ftplug.attaching.original_values import OriginalValues, in_checkpoint
from ftplug.attaching.plan import Plan, set_trainable
from ftplug.attaching.reach import say_what_is_reached, say_what_was_frozen
from ftplug.attaching.rehearsal import Accept, Change
from ftplug.attaching.rollback import Snapshot
from ftplug.attaching.run_view import NoTrainer, RunFacts, Surroundings
from ftplug.attaching.sharding import is_sharded, refuse_divided
from ftplug.attaching.sharing_base.checking import refuse_shared
from ftplug.attaching.sharing_base.shared import copied_on_write
from ftplug.attaching.undoing import UNDO, Undo
from ftplug.base.inspecting import Base, inspect_base
from ftplug.base.quantization import keep_unpacked, refuse_repacked
from ftplug.context import Context
from ftplug.errors import MethodError
from ftplug.host import Host
from ftplug.structure import named_parameters
from ftplug.structure.shards import numel_of

if TYPE_CHECKING:
    from torch import nn

    from ftplug.method import Method

ADAPTERS = ("load_adapter", "add_adapter", "set_adapter", "delete_adapter")  # transformers' own
# On the instance, while it carries a method.
TAKEN_OVER = ("save_pretrained", "save", "load_state_dict", *ADAPTERS)


@dataclass(eq=False)
class Attachment:
    """What ftplug knows about a prepared model. Holds no reference to it, so copies share it."""

    host: Host
    plan: Plan
    train_head: bool
    original_values: OriginalValues = field(repr=False)
    facts: RunFacts = field(repr=False)  # the same for the methods, by way of their ``run``
    names: tuple[str, ...] = ()  # of the base's parameters, before the methods came
    frozen: tuple[str, ...] = ()  # those of them that did not train
    training: dict[str, Any] = field(default_factory=dict)  # facts of the last train()
    author: dict[str, Any] = field(default_factory=dict)  # what was said of the model until then
    first_backward: FirstBackward | None = field(default=None, repr=False)  # of a loop by hand
    taken: Any = field(default=None, repr=False)  # what ftplug.effect.taking keeps of the base

    @property
    def base(self) -> Base:
        """The base model as it was given."""
        return self.facts.base

    @property
    def context(self) -> Context:
        """The seed, the task and the model's class."""
        return self.facts.context

    @property
    def trained_head(self) -> tuple[str, ...]:
        """The names of the parameters of the base's head that may train."""
        return tuple(name for name, old in self.plan.existing.items() if old in self.base.head)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        return self

    def __reduce__(self) -> NoReturn:
        raise MethodError(
            f"a model that carries {self.host.names} cannot be pickled (torch.save, another "
            "process): save the artifact (ftplug.save), and load it on a base there"
        )


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, DataParallel and torch.compile wrappers."""
    from accelerate.utils import extract_model_from_parallel
    from torch import nn

    if not isinstance(model, nn.Module):
        raise MethodError(f"a model is expected, not {model!r}")
    # Asked several times a step, and accelerate walks through all modules for compiled ones.
    if ATTRIBUTE in model.__dict__ and "_orig_mod" not in model.__dict__:
        return model
    inner: nn.Module = extract_model_from_parallel(model, keep_torch_compile=False)
    return inner


def attachment_of(model: nn.Module) -> Attachment | None:
    """Return what is attached to a model, seen through DDP, DataParallel and torch.compile."""
    return unwrap_model(model).__dict__.get(ATTRIBUTE)


def require_attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model, or say that nothing is."""
    attached = attachment_of(model)
    if attached is None:
        raise MethodError(
            f"this {type(model).__name__} carries no ftplug method: use ftplug.apply(model, 'lora')"
        )
    return attached


def prepare(
    model: nn.Module,
    methods: Sequence[Method],
    context: Context,
    *,
    train_head: bool = True,
    fresh: Sequence[str] | None = None,
    accept: Accept = lambda host, plan: None,
    surroundings: Surroundings | None = None,
) -> Attachment:
    """Apply configured methods, once; a model that already carries the same ones is adopted.

    What trains nothing (a transient method) may differ then: the model goes on with those given.
    ``fresh`` names the parameters that are in no checkpoint, where a manifest knows them.
    ``accept`` may raise on the plan; ``surroundings`` is the Trainer's run, where there is one.
    What is refused leaves the model as it was: all is rehearsed on a weightless copy first, and
    what still fails is taken back.
    """
    host = Host(methods)
    if (present := attachment_of(model)) is not None:
        return _adopted(model, present, host, context, train_head)
    refuse_held(model)
    refuse_no_values(model, host.names)
    model.__dict__.pop("peft_config", None)  # some versions of peft leave it where they unloaded
    refuse_divided(model, host.names)
    refuse_repacked(model)
    surroundings = surroundings or NoTrainer()
    base = inspect_base(model, fresh, trainer_is_built=surroundings.is_built)
    facts = RunFacts(context, base, surroundings)
    own = named_parameters(model)
    frozen = {n: numel_of(p) for n, p in own.items() if not p.requires_grad}
    change = Change(host, facts, train_head)
    accept = _unless_trained_elsewhere(model, accept)
    rehearsed = change.rehearsed_on(model, accept)
    before = Snapshot(model)
    try:
        keep_unpacked(model)
        in_parts = is_sharded(model)
        with copied_on_write(model, host.names, loading=context.loading) as settle:
            plan = change.to_parts(model, rehearsed) if in_parts else change.to(model)
            if rehearsed is None:
                accept(host, plan)
            settle(plan.saved)
        nowhere_else = frozenset(own) - in_checkpoint(base, frozenset(own))
        undo = Undo.since(before, model, keep=nowhere_else)
    except BaseException:
        before.restore()
        raise
    set_trainable(model, set(plan.may_train))
    facts.original_values = OriginalValues.of(model, facts.base, plan)
    attachment = Attachment(
        host=host,
        plan=plan,
        train_head=train_head,
        original_values=facts.original_values,
        facts=facts,
        names=tuple(own),
        frozen=tuple(frozen),
    )
    model.__dict__[ATTRIBUTE] = attachment
    model.__dict__[UNDO] = undo
    holds(model)
    if not context.loading:
        say_what_is_reached(model, host, plan, facts.base.total)
        say_what_was_frozen(host, plan, frozen, facts.base.head)
    return attachment


def _unless_trained_elsewhere(model: nn.Module, accept: Accept) -> Accept:
    original = dict(model.named_parameters())

    def accept_both(host: Host, plan: Plan) -> None:
        trained = {id(original[name]) for name in plan.existing.values()}
        refuse_trained_elsewhere(model, host, trained)
        refuse_shared(model, host.names, trained)
        accept(host, plan)

    return accept_both


def _adopted(
    model: nn.Module, present: Attachment, host: Host, context: Context, train_head: bool
) -> Attachment:
    if not host.same_methods(present.host.spec()) or present.train_head != train_head:
        heads = (present.train_head, train_head)
        raise MethodError(other_methods(present.host, host, heads))
    before = [method for method in present.host.methods if method.transient]
    now = [method for method in host.methods if method.transient]
    if before or now:
        present = _exchanged(unwrap_model(model), present, before, now, context)
    return present


def _exchanged(
    model: nn.Module,
    present: Attachment,
    before: Sequence[Method],
    now: Sequence[Method],
    context: Context,
) -> Attachment:
    """Take off the transient methods that are no longer given, and apply those that are."""
    host = Host([*(method for method in present.host.methods if not method.transient), *now])
    host.views = present.facts.views(host)
    names = {method.name for method in now}
    applied, gone = Host(now), Host([method for method in before if method.name not in names])
    facts = replace(present.facts, context=context, surroundings=NoTrainer())  # of this Trainer
    applied.views = gone.views = facts.views(host)
    may_train = frozenset(present.plan.may_train)
    # It may refuse, and then nothing was taken off.
    applied.call("finish_model", model=model, may_train=may_train, context=context)
    gone.call("merge_model", model=model)
    attachment = replace(present, host=host)  # a copy of the model shares the old one
    model.__dict__[ATTRIBUTE] = attachment
    return attachment


def forget(model: nn.Module) -> None:
    """Forget the methods of a model that is plain again: ``save_pretrained`` means what it did.

    What trained before they came does again.
    """
    attached: Attachment | None = model.__dict__.pop(ATTRIBUTE, None)
    model.__dict__.pop(UNDO, None)
    if attached is not None:
        floating = {name for name, p in model.named_parameters() if p.is_floating_point()}
        set_trainable(model, floating.difference(attached.frozen))
    no_longer_holds(model)
    for module in model.modules():
        for name in TAKEN_OVER:
            if is_ours(module.__dict__.get(name)):
                del module.__dict__[name]
