"""The conformance kit: a sound method passes, and each check catches what it is there for."""

import os
import time
from dataclasses import dataclass

import pytest
import torch
from scale import Scale, feed_forwards
from torch import nn

from ftplug import FtplugError, Method, MethodError, hookimpl
from ftplug.inplace import unwrap_forward, wrap_forward
from ftplug.testing import Case, checks, ddp
from ftplug.testing.contract import MethodContract
from ftplug.testing.run import CHECKPOINT


class TestASoundMethod(MethodContract):
    method = Scale


class TestASoundInstance(MethodContract):
    method = Scale(start=0.9)
    families = ("bert",)
    starts_at_base = False


class TestOneThatDoesNotFit(MethodContract):
    method = "prompt-tuning"
    families = ("vit",)
    unfit = {"vit": "reads no token embeddings"}  # noqa: RUF012 - as authors write it


@pytest.mark.parametrize("check", checks.__all__)
def test_every_check_has_a_test_in_the_contract(check):
    if check == "refused_in_one_line":
        check = "what_does_not_fit_is_refused"
    assert callable(getattr(MethodContract, f"test_{check}"))


# Broken methods: each does one thing wrong.


@dataclass(frozen=True, eq=False)
class Detached(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        for linear in feed_forwards(model):
            unwrap_forward(linear)
            wrap_forward(linear, lambda m, forward, x: forward(x) * m.scale.detach())


@dataclass(frozen=True, eq=False)
class ForgetsOne(Scale):
    @hookimpl
    def build_optimizer(self, named_parameters):
        return torch.optim.AdamW(list(named_parameters.values())[1:], lr=1e-2)


@dataclass(frozen=True, eq=False)
class TakesAll(Scale):
    @hookimpl
    def build_optimizer(self, model):
        return torch.optim.AdamW(model.parameters(), lr=1e-2)


@dataclass(frozen=True, eq=False)
class PutsBack(Scale):
    @hookimpl
    def on_step(self, model):
        for linear in feed_forwards(model):
            linear.scale.data.fill_(1)


@dataclass(frozen=True, eq=False)
class MovesTheBase(Scale):
    @hookimpl
    def on_step(self, model):
        for linear in feed_forwards(model):
            linear.weight.data *= 1.01


@dataclass(frozen=True, eq=False)
class PreparesTheBase(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        for linear in feed_forwards(model):
            linear.weight.data *= 2
            linear.scale.data /= 2


@dataclass(frozen=True, eq=False)
class HooksInAsItGoes(Scale):
    @hookimpl
    def on_step(self, model):
        if not model.classifier._forward_hooks:
            model.classifier.register_forward_hook(lambda module, inputs, output: 2 * output)


@dataclass(frozen=True, eq=False)
class CountsInAParameter(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        model.steps = nn.Parameter(torch.zeros(()))

    @hookimpl
    def on_step(self, model):
        model.steps.data += 1


@dataclass(frozen=True, eq=False)
class OneAtATime(Scale):
    """Trains one vector per step, and forgets to drop the optimizer's state of the others."""

    @hookimpl
    def schedule_trainable(self, model, step):
        names = self.select_trainable(model)
        return [names[step % len(names)]]


@dataclass(frozen=True, eq=False)
class DrawsAsItGoes(Scale):
    @hookimpl
    def schedule_trainable(self, model):
        names = self.select_trainable(model)
        return [names[int(torch.randint(len(names), ()))]]


@dataclass(frozen=True, eq=False)
class NeverTheFirst(Scale):
    @hookimpl
    def schedule_trainable(self, model):
        return self.select_trainable(model)[1:]


@dataclass(frozen=True, eq=False)
class ReplacesTheHead(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        if hasattr(model, "classifier"):
            model.classifier = nn.Linear(model.config.hidden_size, 2)


@dataclass(frozen=True, eq=False)
class FreezesTheHead(Scale):
    @hookimpl
    def on_gradients(self, model):
        model.classifier.weight.grad = None


@dataclass(frozen=True, eq=False)
class LosesTheHead(Scale):
    @hookimpl
    def save_artifact(self, tensors):
        return [name for name in tensors if "classifier" in name]


@dataclass(frozen=True, eq=False)
class LoadsAnotherHead(LosesTheHead):
    @hookimpl
    def load_artifact(self, model):
        return {n: torch.zeros(p.shape) for n, p in model.named_parameters() if "classifier" in n}


@dataclass(frozen=True, eq=False)
class LoadsOtherVectors(Scale):
    @hookimpl
    def save_artifact(self, tensors):
        return [name for name in tensors if name.endswith("scale")]

    @hookimpl
    def load_artifact(self, model):
        return {n: torch.ones(p.shape) for n, p in model.named_parameters() if n.endswith("scale")}


@dataclass(frozen=True, eq=False)
class WritesAPickle(Scale):
    @hookimpl
    def save_artifact(self, directory, tensors):
        torch.save(dict(tensors), directory / "scale.pt")


@dataclass(frozen=True, eq=False)
class DrawsUnseeded(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        draw = torch.Generator()
        draw.seed()
        for linear in feed_forwards(model):
            if not linear.scale.is_meta:
                linear.scale.data += 0.1 * torch.randn(linear.scale.shape, generator=draw)


@dataclass(frozen=True, eq=False)
class GrowsAnAttribute(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        for linear in feed_forwards(model):
            linear.gain = 1.0
            wrap_forward(linear, lambda m, forward, x: m.gain * forward(x))

    @hookimpl
    def on_step(self, model):
        for linear in feed_forwards(model):
            linear.gain += 1.0


@dataclass(frozen=True, eq=False)
class ReplacesTheForward(Scale):
    @hookimpl
    def prepare_model(self, model):
        for linear in list(feed_forwards(model)):
            linear.scale = nn.Parameter(torch.ones(len(linear.weight)))
            linear.__class__ = ScaledLinear


class ScaledLinear(nn.Linear):
    def forward(self, hidden_states):
        return super().forward(hidden_states) * self.scale


@dataclass(frozen=True, eq=False)
class HasAGenerator(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        model.__dict__["noise"] = torch.Generator().manual_seed(0)

    @hookimpl
    def on_gradients(self, model):
        for linear in feed_forwards(model):
            noise = torch.randn(linear.scale.shape, generator=model.__dict__["noise"])
            linear.scale.grad += noise


@dataclass(frozen=True, eq=False)
class CountsOnItself(Scale):
    """Treats the second step by how many it has seen; its warm-up ends before the middle."""

    @hookimpl
    def on_gradients(self, model, step):
        seen = self.__dict__["seen"] = self.__dict__.get("seen", -1) + 1
        if step == 1:
            for linear in feed_forwards(model):
                linear.scale.grad *= 1 + seen


@dataclass(frozen=True, eq=False)
class SavesLate(Scale):
    """Counts all steps, but only from the third on in what is resumed."""

    @hookimpl
    def on_gradients(self, model, step, run):
        seen = run.state.get("seen", torch.tensor(self.__dict__.get("seen", 0)))
        for linear in feed_forwards(model):
            linear.scale.grad *= 1 + seen
        self.__dict__["seen"] = int(seen) + 1
        if step >= 2:
            run.state["seen"] = seen + 1


@dataclass(frozen=True, eq=False)
class CountsInItsState(Scale):
    @hookimpl
    def on_gradients(self, model, step, run):
        seen = run.state.setdefault("seen", torch.tensor(0))
        assert seen == step
        for linear in feed_forwards(model):
            linear.scale.grad *= 1 + seen
        seen += 1


@dataclass(frozen=True, eq=False)
class ForgetsTheBias(Scale):
    @hookimpl
    def merge_model(self, model):
        for linear in feed_forwards(model):
            linear.weight.data *= linear.scale.data[:, None]
            del linear.scale
            unwrap_forward(linear)


@dataclass(frozen=True, eq=False)
class LeavesTheVectors(Scale):
    @hookimpl
    def merge_model(self, model):
        for linear in feed_forwards(model):
            linear.weight.data *= linear.scale.data[:, None]
            linear.bias.data *= linear.scale.data
            unwrap_forward(linear)


@dataclass(frozen=True, eq=False)
class HoldsAClosure(Scale):
    @hookimpl
    def prepare_model(self, model):
        for linear in list(feed_forwards(model)):
            linear.scale = nn.Parameter(linear.weight.new_ones(len(linear.weight)))
            wrap_forward(linear, lambda m, forward, x, scale=linear.scale: forward(x) * scale)


@dataclass(frozen=True, eq=False)
class Hoards(Scale):
    @hookimpl
    def build_optimizer(self, named_parameters):
        return torch.optim.AdamW(named_parameters.values(), lr=1e-2, amsgrad=True)


@dataclass(frozen=True, eq=False)
class StopsTheOthers(Scale):
    @hookimpl
    def on_gradients(self, model):
        for name, parameter in model.named_parameters():
            if not name.endswith(".scale") and "classifier" not in name:
                parameter.grad = None


def scaled_in_batches_alone(module, forward, x):
    return forward(x) * (module.scale if len(x) > 1 else 1)


@dataclass(frozen=True, eq=False)
class SleepsOverASingleRow(Scale):
    """Acts in one place on batches alone: what is answered to one input does not show it."""

    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        *_, last = feed_forwards(model)
        unwrap_forward(last)
        wrap_forward(last, scaled_in_batches_alone)


@dataclass(frozen=True, eq=False)
class AlwaysSleepsOverASingleRow(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        for linear in feed_forwards(model):
            unwrap_forward(linear)
            wrap_forward(linear, scaled_in_batches_alone)


@dataclass(frozen=True, eq=False)
class RoundsACopy(Scale):
    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        for linear in feed_forwards(model):
            linear.weight.data = linear.weight.data.half().float()


CATCHES = [
    ("every_saved_tensor_is_seen", SleepsOverASingleRow, r"layer.1\S+scale: .* \(1 in all\)"),
    ("every_saved_tensor_is_seen", AlwaysSleepsOverASingleRow, "training changed no answer"),
    ("every_tensor_gets_a_gradient", Detached, r"scale \(2 in all\) may train but got no gradient"),
    ("every_tensor_is_in_the_optimizer", ForgetsOne, "the optimizer does not hold bert"),
    ("every_tensor_is_in_the_optimizer", TakesAll, r"holds bert\S+ 1 times, not 0"),
    ("every_tensor_moves", PutsBack, r"scale \(2 in all\) may train but has the same value"),
    ("nothing_else_moves", MovesTheBase, r"output.dense.weight \(2 in all\) may not train but"),
    ("nothing_else_moves", PreparesTheBase, r"changed the values of the base's own bert\S+weight"),
    ("nothing_else_moves", CountsInAParameter, "steps .* may not train but changed"),
    ("the_schedule_covers_all", DrawsAsItGoes, "another answer for step"),
    ("the_schedule_covers_all", NeverTheFirst, r"layer.0\S+ .* no step of 400 lets it"),
    ("the_head_trains_and_is_saved", ReplacesTheHead, "classifier.weight is no longer in the"),
    ("the_head_trains_and_is_saved", FreezesTheHead, "head's classifier.weight did not train"),
    ("the_head_trains_and_is_saved", LosesTheHead, "tensor classifier.weight is missing"),
    ("the_head_trains_and_is_saved", LoadsAnotherHead, "does not bring back the trained head's"),
    ("optimizer_state_is_bounded", Hoards, "more than 2 each"),
    ("optimizer_state_is_bounded", OneAtATime, "after step 2 .* drop the state of what no longer"),
    ("resume_is_bit_equal", HasAGenerator, r"scale differs after resuming at step 3 of 6"),
    (
        "an_early_resume_is_bit_equal",
        CountsOnItself,
        r"scale differs after resuming at step 1 of 6",
    ),
    ("an_early_resume_is_bit_equal", SavesLate, r"differs .* or run.state, from the first step on"),
    ("heavy_imports_are_lazy", Detached, r"test_testing.py:\d+: torch is imported at module level"),
    ("the_best_model_is_restored", GrowsAnAttribute, "tensors .* are back, but not its answers"),
    ("start_equals_the_base", Scale(start=1.1), "differ from the base's by .* starts_at_base"),
    ("initialisation_is_seeded", DrawsUnseeded, "scale starts from other values each time"),
    ("a_loaded_artifact_gives_equal_logits", LoadsOtherVectors, r"has another bert\S+scale"),
    ("a_loaded_artifact_gives_equal_logits", GrowsAnAttribute, "same tensors but answers"),
    ("a_loaded_artifact_gives_equal_logits", WritesAPickle, "file 'scale.pt' is a pickle"),
    ("disabled_is_the_base", ReplacesTheForward, "disabled differs from the base by"),
    ("merged_equals_the_forward", ForgetsTheBias, "merged answers differ by"),
    ("merged_equals_the_forward", LeavesTheVectors, r"not a plain one \(bert\S+scale\)"),
    ("a_deepcopy_is_independent", HoldsAClosure, "deepcopy"),
    ("shares_its_base", PreparesTheBase, r"scale: writes to bert\S+weight of the base while"),
    ("shares_its_base", RoundsACopy, r"dense.weight is the base's, but was copied"),
    ("detaches", PreparesTheBase, "cannot be taken off: .* scale does not train are no longer"),
    ("detaches", HooksInAsItGoes, "after detach of a run the base answers differently"),
    ("composes", StopsTheOthers, r"adapter\S+ \(\d+ in all\) may train but has the same value"),
]


@pytest.mark.parametrize(("check", "method", "message"), CATCHES)
def test_the_check_catches_it(check, method, message):
    with pytest.raises(AssertionError, match=message) as caught:
        getattr(checks, check)(Case(method))
    together = "scale + bottleneck + l2-sp" if check == "composes" else "scale"
    assert str(caught.value).startswith(f"{together} on bert: ")


def test_every_check_catches_something():
    caught = {check for check, _, _ in CATCHES} | {"refused_in_one_line"}
    assert caught == set(checks.__all__)


@pytest.mark.parametrize("method", [CountsOnItself, SavesLate, CountsInItsState])
def test_what_a_resume_in_the_middle_does_not_show(method):
    checks.resume_is_bit_equal(Case(method))


def test_what_is_kept_in_the_state_survives_every_resume():
    case = Case(CountsInItsState)
    checks.an_early_resume_is_bit_equal(case)
    checks.composes(case)
    # The state of the best model, which was restored at the end, is that of its step.
    assert case.run.attached.facts.states == {"scale": {"seen": torch.tensor(CHECKPOINT)}}


def test_a_refusal_must_be_one():
    with pytest.raises(AssertionError, match="declared unfit, but it was applied"):
        checks.refused_in_one_line(Case(Scale), "does not fit")


def test_what_is_declared_must_match():
    with pytest.raises(AssertionError, match="declared not mergeable"):
        checks.merged_equals_the_forward(Case(Scale, mergeable=False))
    with pytest.raises(AssertionError, match="it should merge, but was refused: bottleneck"):
        checks.merged_equals_the_forward(Case("bottleneck", mergeable=True))
    with pytest.raises(AssertionError, match=r"refused: prompt-tuning.*declare it in `unfit`"):
        checks.start_equals_the_base(Case("prompt-tuning", "vit"))
    checks.every_tensor_gets_a_gradient(Case(Detached, still=("*.scale",)))
    checks.optimizer_state_is_bounded(Case(Hoards, optimizer_state=3))


@dataclass(frozen=True, eq=False)
class Nameless(Method):
    @hookimpl
    def select_trainable(self, model):
        return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lorra", {}, "did you mean 'lora'"),
        ("lora", {"settings": {"rank": 4}}, "no setting named 'rank'"),
        (Scale, {"settings": {"start": 0.0}}, "'start' cannot be 0.0"),
        ("lora-plus", {"beside": ("lorra",)}, "did you mean 'lora'"),
        ("lora", {"family": "bret"}, "no family 'bret': bert, llama, t5, vit"),
        (Nameless, {}, "Nameless has no name: add the line name: ClassVar"),
        (Nameless(), {}, "Nameless has no name: add the line name: ClassVar"),
    ],
)
def test_a_wrong_declaration_is_said_at_once(method, options, message):
    with pytest.raises(FtplugError, match=message):
        Case(method, **options)


# Two processes


@dataclass(frozen=True, eq=False)
class DiffersByProcess(Scale):
    @hookimpl
    def on_gradients(self, model):
        model.classifier.weight.grad += os.getpid()


@dataclass(frozen=True, eq=False)
class FailsOnOne(Scale):
    @hookimpl
    def on_step(self):
        if torch.distributed.get_rank() == 1:
            raise MethodError("scale: not on this one")


@dataclass(frozen=True, eq=False)
class WaitsForEver(Scale):
    @hookimpl
    def on_step(self):
        time.sleep(600)


@dataclass(frozen=True, eq=False)
class StandsStillThere(Scale):
    @hookimpl
    def on_gradients(self, model):
        if torch.distributed.is_initialized():
            model.classifier.weight.grad = None


@pytest.mark.ddp
def test_a_state_is_resumed_in_both_processes():
    ddp.ranks_agree(Case(CountsInItsState))


@pytest.mark.ddp
def test_processes_that_disagree_fail_or_hang_are_caught(monkeypatch):
    for method, message in (
        (DiffersByProcess, "classifier.weight differs between two DDP processes"),
        (StandsStillThere, "classifier.weight may train but did not move"),
        (HasAGenerator, "scale differs on rank 0 after resuming under two-process DDP"),
        (FailsOnOne, "rank 1 failed: MethodError: scale: not on this one"),
    ):
        with pytest.raises(AssertionError, match=message):
            ddp.ranks_agree(Case(method))
    monkeypatch.setattr(ddp, "RUN_SECONDS", 3)
    with pytest.raises(AssertionError, match="rank 0 has not answered for 3 s"):
        ddp.ranks_agree(Case(WaitsForEver))
    assert ddp.processes().workers == []


def test_without_pytest_it_says_what_to_install(monkeypatch):
    import importlib
    import sys

    import ftplug.testing

    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "ftplug.testing.contract")
    with pytest.raises(FtplugError, match=r"needs pytest: pip install 'ftplug\[testing\]'"):
        importlib.import_module("ftplug.testing.contract")
    assert ftplug.testing.Case is Case
    with pytest.raises(AttributeError, match="nonsense"):
        ftplug.testing.nonsense  # noqa: B018
