"""TRL's trainers: what they compare the policy with, and the head they compute themselves.

DPO, KTO, GRPO and RLOO compare the policy with a reference. For a ``PeftModel`` TRL switches the
adapter off or, where it came with a trained one, back to a copy of that; for any other model it
loads the base a second time. A model that carries a method can do what a ``PeftModel`` does.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from ftplug import structure
from ftplug.attaching.attachment import attachment_of, require_attachment, unwrap_model
from ftplug.attaching.disabling import disabled
from ftplug.attaching.original_values import OriginalValues
from ftplug.attaching.plan import saved_tensors
from ftplug.errors import MethodError
from ftplug.frames import calling_object, constructor_argument
from ftplug.inplace import in_eval_mode
from ftplug.structure.shards import is_shard, shape_of

if TYPE_CHECKING:
    from transformers import Trainer

    from ftplug.attaching.plan import Plan

_COMPARING = ("DPOTrainer", "KTOTrainer", "GRPOTrainer", "RLOOTrainer")
# Names in their modules: what they load a reference with, and make an engine of it under DeepSpeed.
_LOAD, _PREPARE = "create_model_from_path", "prepare_deepspeed"


class Reference(nn.Module):
    """Stands where TRL keeps a reference model: asks the policy, as it was before it trained.

    A method that this Trainer put on the model is disabled: the base answers, exactly. A model that
    came with a trained method (SFT before DPO, ``--from``) answers as it came. Dropout is off.
    """

    def __init__(self, trainer: Trainer, *, trained_before: bool) -> None:
        super().__init__()
        self._trainer = weakref.ref(trainer)
        model = self.policy
        attached = require_attachment(model)
        self._as_it_came: OriginalValues | None = None
        if trained_before:
            tensors = saved_tensors(model, attached.plan)
            kept = {name: tensor.clone() for name, tensor in tensors.items()}
            self._as_it_came = OriginalValues(attached.base, kept)
        else:
            attached.original_values.keep(model)

    @property
    def policy(self) -> nn.Module:
        """The model that trains; it is no submodule of this one."""
        trainer = self._trainer()
        assert trainer is not None  # it holds this reference
        return unwrap_model(cast("nn.Module", trainer.model))

    @property
    def config(self) -> Any:
        """The policy's: TRL reads it."""
        return structure.pretrained(self.policy).config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the policy did before it trained."""
        policy = self.policy
        with self.answering(policy):
            return policy(*args, **kwargs)

    # Not through an instance's forward: TRL and accelerate patch it, and the policy's already.
    __call__ = forward

    @contextmanager
    def answering(self, policy: nn.Module) -> Iterator[None]:
        """Let the policy itself be the reference within the block."""
        if attachment_of(policy) is None:
            raise MethodError(
                f"{type(self._trainer()).__name__}: its reference was its own model, whose method "
                "was taken off: attach another one, or build a new Trainer (ref_model=)"
            )
        before = self._as_it_came
        as_it_was = before.put_back(policy) if before else disabled(policy)
        with as_it_was, in_eval_mode(policy.modules()):
            yield


def give_reference(
    trainer: Trainer, *, trained_before: bool, holds_base: bool = False
) -> Reference | None:
    """Let a Trainer that compares ask its own model, unless it was given a reference.

    ``trained_before``: the model came with a method. ``holds_base``: see :func:`holds_base`.
    Raises :class:`MethodError` where that would compare with something else than TRL promises.
    """
    module = _comparing_module(trainer)
    args, name = cast("Any", trainer.args), type(trainer).__name__
    # A subclass with other arguments makes its own reference, as LLaMA-Factory's do.
    if module is None or not getattr(args, "beta", 0):
        return None
    built = hasattr(trainer, "ref_model")  # ftplug.attach: TRL has loaded one, or was given one
    precomputes = getattr(args, "precompute_ref_log_probs", False)
    given = cast("Any", trainer).ref_model if built else constructor_argument(trainer, "ref_model")
    if isinstance(given, Reference):  # of a method that was taken off this Trainer
        given = None
    if built and given is not None and trained_before and not holds_base:
        raise MethodError(
            f"{name}: ftplug.attach cannot tell whether ref_model is yours or the base that TRL "
            "loads: give callbacks=[ftplug.FTPlugCallback(…)] to the constructor"
        )
    if (given is not None and not holds_base) or (built and precomputes):
        return None
    model = unwrap_model(cast("nn.Module", trainer.model))
    if not _answers_for_itself(trainer, model, trained_before, precomputes):
        if trained_before or precomputes:
            raise MethodError(f"{name}: a sharded model is no reference of itself: pass ref_model=")
        return None  # TRL loads the base
    if getattr(args, "sync_ref_model", False):
        if trained_before or require_attachment(model).plan.added:
            raise MethodError(
                f"{name}: sync_ref_model=True moves a second model along, which must have the same "
                "parameters: pass ref_model=, or leave it out"
            )
        return None  # TRL loads the base
    reference = Reference(trainer, trained_before=trained_before)
    if built:
        cast("Any", trainer).ref_model = reference
    elif precomputes:
        _precompute_with(trainer, reference)
    else:
        _instead_of_loading(module, trainer, reference)
    return reference


def _answers_for_itself(
    trainer: Trainer, model: nn.Module, trained_before: bool, precomputes: bool
) -> bool:
    """Whether the processes share the model in a way in which it can be its own reference.

    Under ZeRO-3 that costs each process a whole copy of what a method changes of the base: then
    the base that TRL loads, in parts, is the smaller one.
    """
    if trainer.is_fsdp_enabled:
        return False
    if not trainer.is_deepspeed_enabled:
        return True
    if precomputes or any(map(is_shard, model.parameters())):
        return False
    changes_base = bool(require_attachment(model).plan.existing)
    return trained_before or not changes_base or _zero_stage(trainer) < 3


def _zero_stage(trainer: Trainer) -> int:
    return int(trainer.accelerator.state.deepspeed_plugin.zero_stage)


def require_reference(trainer: Trainer, reference: Reference) -> None:
    """Refuse to train a model on that came trained against a base that TRL loaded after all."""
    ref_model = cast("Any", trainer).ref_model
    if reference._as_it_came is not None and ref_model is not None and ref_model is not reference:
        raise MethodError(
            f"{type(trainer).__name__} made a reference model in a way ftplug does not know: "
            "pass ref_model="
        )


def refuse_follower(trainer: Trainer, model: nn.Module) -> None:
    """Refuse a second model that follows this one parameter by parameter, and has not the same.

    TRL moves one along by a callback: a reference (``sync_ref_model``), or the teacher of SDPO and
    SDFT (``teacher_model_kind="ema"``).
    """
    shapes = [shape_of(parameter) for parameter in model.parameters()]
    for callback in trainer.callback_handler.callbacks:
        kinds = {cls.__name__ for cls in type(callback).__mro__}
        follower = getattr(callback, "ref_model", None)
        if "SyncRefModelCallback" not in kinds or not isinstance(follower, nn.Module):
            continue
        if [shape_of(parameter) for parameter in follower.parameters()] != shapes:
            raise MethodError(
                f"{type(callback).__name__} moves a second model along, which lacks what "
                f"{require_attachment(model).host.names} added: leave it out (SDPO, SDFT: "
                "teacher_model_kind='base' or 'live'), or take a method that adds nothing (full)"
            )


def holds_base(trainer: Trainer) -> bool:
    """Whether the Trainer's reference has the very weights its model has now."""
    reference = getattr(trainer, "ref_model", None)
    if not isinstance(reference, nn.Module) or trainer.model is None:
        return False
    if any(map(is_shard, reference.parameters())):  # each process would compare what it holds
        return False
    theirs, ours = reference.state_dict(), trainer.model.state_dict()
    return theirs.keys() == ours.keys() and all(
        value.device == ours[name].device and value.equal(ours[name])
        for name, value in theirs.items()
    )


def refuse_bypassed_head(trainer: Trainer, model: nn.Module, plan: Plan) -> None:
    """Refuse what a method adds to the output layer: TRL multiplies with its weight alone."""
    if not any(cls.__module__.startswith("trl.") for cls in type(trainer).__mro__):
        return
    output = structure.pretrained(model).get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is output]
    added = [n for n in plan.added if any(n.startswith(f"{name}.") for name in names)]
    if added:
        raise MethodError(
            f"{type(trainer).__name__} multiplies with the weight of {names[0]} alone, so that "
            f"{added[0]} would never train: leave {names[0]} out of the method's targets"
        )


def _comparing_module(trainer: Trainer) -> ModuleType | None:
    """Return TRL's module of a Trainer that compares with a reference."""
    for cls in type(trainer).__mro__:
        if cls.__name__ in _COMPARING and cls.__module__.startswith("trl."):
            return sys.modules[cls.__module__]
    return None


def _instead_of_loading(module: ModuleType, trainer: Trainer, reference: Reference) -> None:
    """Hand the reference to the constructor that is running when it would load the base again.

    It is no model that DeepSpeed would have to prepare: the policy will be.
    """
    waiting = weakref.ref(trainer)

    def answer(name: str) -> None:
        own = getattr(module, name, None)
        if own is None:
            return

        def own_or_reference(*args: Any, **kwargs: Any) -> Any:
            asking, other = calling_object(), name == _PREPARE and args[:1] != (reference,)
            if asking is None or asking is not waiting() or other:
                return own(*args, **kwargs)
            setattr(module, name, own)
            return reference

        setattr(module, name, own_or_reference)

    answer(_LOAD)
    if trainer.is_deepspeed_enabled:
        answer(_PREPARE)


def _precompute_with(trainer: Any, reference: Reference) -> None:
    """Let what is computed once, before training, be the reference's answers."""
    own = type(trainer).compute_ref_log_probs
    waiting = weakref.ref(trainer)

    def compute_ref_log_probs(*args: Any) -> Any:  # newer TRLs give it the model as well
        asking = cast("Any", waiting())
        require_reference(asking, reference)  # an older one loads the base all the same
        with reference.answering(reference.policy):
            return own(asking, *args)

    trainer.compute_ref_log_probs = compute_ref_log_probs


def asking_refusal(trainer: Trainer) -> str:
    """Return why the model of a run must not be asked before it trains; nothing where it may be.

    Under ZeRO-3, with a reference that is an engine of its own, the first backward after a question
    found parameters without values. Why is not known.
    """
    engine = type(getattr(trainer, "ref_model", None)).__name__ == "DeepSpeedEngine"
    return "DeepSpeed trains it beside an engine for TRL's reference" if engine else ""
