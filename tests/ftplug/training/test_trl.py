"""TRL's preference trainers: the reference is right, exact, and no second model."""

import copy
import gc
import sys

import folders
import pytest
import tiny
import torch
from datasets import Dataset
from runs import shake, trainer, weights
from script_cells import METHODS
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.trainer import dpo_trainer

import ftplug
from ftplug import FTPlugCallback, MethodError
from ftplug.effect.answers import ask_as
from ftplug.effect.probe import FILE, Probe
from ftplug.training.trl import Reference

pytestmark = pytest.mark.filterwarnings("ignore")  # what others' code warns about is not ours
everywhere = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.language_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def pairs():
    words = folders.WORDS[4:]
    rows = [
        {
            "prompt": f"{a} {b}",
            "chosen": f" {b} {a} {words[n % 8]}",
            "rejected": f" {a} {words[-1 - n % 8]}",
        }
        for n, (a, b) in enumerate(zip(words * 2, words[1:] + words, strict=False))
    ]
    return Dataset.from_list(rows[:12])


def model_of(folder, **config):
    return AutoModelForCausalLM.from_pretrained(folder, **config)


def callback(method, **options):
    return FTPlugCallback(method, **METHODS[method], **options)


def settings(out, **options):
    defaults = {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
                "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no", "bf16": False,
                "report_to": "none", "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    return {"output_dir": str(out), **defaults, **options}


def dpo(model, out, pairs, *callbacks, ref_model=None, **options):
    return DPOTrainer(
        model,
        ref_model=ref_model,
        args=DPOConfig(**settings(out, **options)),
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(model.config._name_or_path),
        callbacks=list(callbacks),
    )


def trained(trainer):
    """Return what DPO logged: losses and rewards tell the reference's answers to the last bit."""
    trainer.train()
    names = ("loss", "rewards/chosen", "rewards/rejected", "grad_norm")
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [[log[name] for name in names] for log in logs]


@pytest.fixture
def never_loads(monkeypatch):
    def fail(path, **options):
        raise AssertionError(f"a second model was loaded from {path}")

    monkeypatch.setattr(dpo_trainer, "create_model_from_path", fail)


@everywhere
def test_the_reference_is_the_base_exactly(folder, pairs, tmp_path, method, never_loads):
    found = trained(dpo(model_of(folder), tmp_path, pairs, callback(method)))
    given = dpo(model_of(folder), tmp_path, pairs, callback(method), ref_model=model_of(folder))
    assert isinstance(given.ref_model, LlamaForCausalLM)  # one's own is kept
    assert trained(given) == found


def test_there_is_one_model_in_memory(folder, pairs, tmp_path):
    gc.collect()
    others = {id(o) for o in gc.get_objects() if isinstance(o, LlamaForCausalLM)}
    trainer = dpo(model_of(folder), tmp_path, pairs, callback("lora"))
    models = [o for o in gc.get_objects() if isinstance(o, LlamaForCausalLM)]
    assert [m for m in models if id(m) not in others] == [trainer.model]


@everywhere
def test_attach_and_precomputed_answers_compare_with_the_same(folder, pairs, tmp_path, method):
    found = trained(dpo(model_of(folder), tmp_path, pairs, callback(method)))
    attached = dpo(model_of(folder), tmp_path, pairs)
    assert isinstance(attached.ref_model, LlamaForCausalLM)
    ftplug.attach(attached, method, **METHODS[method])
    assert isinstance(attached.ref_model, Reference)
    assert trained(attached) == found
    options = {"precompute_ref_log_probs": True}
    assert trained(dpo(model_of(folder), tmp_path, pairs, callback(method), **options)) == found


def test_it_equals_what_trl_does_for_a_peft_model(folder, pairs, tmp_path):
    from peft import LoraConfig, get_peft_model

    ours = dpo(model_of(folder), tmp_path, pairs, FTPlugCallback("lora", r=4))
    theirs = get_peft_model(model_of(folder), LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM"))
    state = {f"base_model.model.{n}": v for n, v in ours.model.state_dict().items()}
    theirs.load_state_dict(state)
    found, expected = (torch.tensor(trained(d)) for d in (ours, dpo(theirs, tmp_path, pairs)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_detached_trainer_compares_with_the_base_under_the_next_method(folder, pairs, tmp_path):
    switched = dpo(model_of(folder), tmp_path / "a", pairs)
    ftplug.attach(switched, "full")
    switched.train()
    ftplug.detach(switched)
    ftplug.attach(switched, "lora", r=4)
    assert isinstance(switched.ref_model, Reference)
    found = trained(switched)
    assert found == trained(ftplug.attach(dpo(model_of(folder), tmp_path, pairs), "lora", r=4))
    given = dpo(model_of(folder), tmp_path / "b", pairs, callback("full"))
    given.train()
    assert trained(ftplug.attach(ftplug.detach(given), "lora", r=4)) == found
    ftplug.detach(given)
    with pytest.raises(MethodError, match=r"DPOTrainer: its reference was its own model, whose me"):
        given.train()


def sft(model, out, pairs, *callbacks):
    texts = pairs.map(lambda row: {"text": row["chosen"]}, remove_columns=pairs.column_names)
    return SFTTrainer(
        model,
        SFTConfig(**settings(out)),
        train_dataset=texts,
        processing_class=AutoTokenizer.from_pretrained(model.config._name_or_path),
        callbacks=list(callbacks),
    )


@everywhere
def test_after_sft_the_reference_is_what_sft_ended_with(
    folder, pairs, tmp_path, method, never_loads
):
    # Not copies: some TRLs leave a forward on a model that a copy would share with it.
    model, twin, as_sft_left_it = (model_of(folder) for _ in range(3))
    for one in (model, twin, as_sft_left_it):
        sft(one, tmp_path, pairs, callback(method)).train()
    found = trained(dpo(model, tmp_path, pairs, callback(method)))
    given = dpo(twin, tmp_path, pairs, callback(method), ref_model=as_sft_left_it)
    assert trained(given) == found
    assert not all(v.equal(weights(as_sft_left_it)[n]) for n, v in weights(model).items())


@everywhere
def test_after_sft_and_dpo_the_probe_compares_with_the_base(folder, pairs, tmp_path, method):
    """With TRL's own forward on the model, and its tokenizer's prompts: one chain, one base."""
    model = model_of(folder)
    sft(model, tmp_path, pairs, callback(method)).train()
    later = dpo(model, tmp_path, pairs, callback(method))
    trained(later)
    later.save_model(str(tmp_path / "a"))
    probe = Probe.read(tmp_path / "a" / FILE)
    assert sum(given.text is not None for given in probe.inputs) == 8
    assert len(probe.continuations) == 8
    loaded = ftplug.load(model_of(folder), tmp_path / "a")
    for expected, asked in ((probe.base, model_of(folder)), (probe.trained, loaded)):
        answers = ask_as(asked, probe)
        for one, other in zip(answers, expected, strict=True):
            assert all(one[kind].equal(other[kind]) for kind in other)
    assert probe.effect().distance > 1e-6


def test_a_copy_of_the_model_as_it_came_is_the_reference(folder, pairs, tmp_path):
    """TRL 0.29 makes one for KTO, before there is a Trainer."""
    model = shake(ftplug.apply(model_of(folder), "lora", r=4), 0.3)
    twin, *copies = (copy.deepcopy(model) for _ in range(3))
    attached = dpo(model, tmp_path, pairs, ref_model=copies[0])
    ftplug.attach(attached, "lora", r=4)
    assert isinstance(attached.ref_model, Reference)
    given = dpo(twin, tmp_path, pairs, FTPlugCallback("lora", r=4), ref_model=copies[1])
    assert trained(attached) == trained(given)


def test_a_subclass_with_arguments_of_its_own_makes_its_own_reference(folder, tmp_path):
    class Own(DPOTrainer):
        def __init__(self, model, ref_model, **options):
            self.ref_model, self.beta = ref_model, 0.1
            Trainer.__init__(self, model, **options)

    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    reference = model_of(folder)
    trainer = Own(model_of(folder), reference, args=args, callbacks=[FTPlugCallback("lora")])
    assert trainer.ref_model is reference


def test_an_artifact_to_continue_from_is_the_reference(folder, pairs, tmp_path, never_loads):
    model = shake(ftplug.apply(model_of(folder), "lora", r=4), 0.3)
    artifact = ftplug.save(model, tmp_path / "a")
    continued = dpo(
        model_of(folder), tmp_path, pairs, FTPlugCallback("lora", r=4, start_from=artifact)
    )
    again = dpo(copy.deepcopy(model), tmp_path, pairs, FTPlugCallback("lora", r=4), ref_model=model)
    assert trained(continued) == trained(again)


def test_the_reference_has_no_dropout_and_leaves_the_policys_mode(folder, pairs, tmp_path):
    dropping = {"attention_dropout": 0.5}
    trainer = dpo(
        model_of(folder, **dropping), tmp_path, pairs, FTPlugCallback("lora"), disable_dropout=False
    )
    trainer.model.train()
    batch = {"input_ids": torch.arange(4, 12)[None]}
    with torch.no_grad():
        answer = trainer.ref_model(**batch).logits
        assert torch.equal(answer, model_of(folder)(**batch).logits)
        assert not torch.equal(answer, trainer.model(**batch).logits)
    assert all(module.training for module in trainer.model.modules())


@pytest.mark.parametrize(
    ("cls", "config", "name"), [(GRPOTrainer, GRPOConfig, "kl"), (RLOOTrainer, RLOOConfig, "kl")]
)
def test_online_trainers_ask_their_own_model_too(
    folder, pairs, tmp_path, monkeypatch, cls, config, name
):
    def fail(path, **options):
        raise AssertionError(f"a second model was loaded from {path}")

    monkeypatch.setattr(sys.modules[cls.__module__], "create_model_from_path", fail)
    options = {"beta": 0.5, "num_generations": 2, "max_completion_length": 4,
               "gradient_accumulation_steps": 1}  # fmt: skip
    trainer = cls(
        model_of(folder),
        reward_funcs=lambda completions, **_: [float(len(set(text))) for text in completions],
        args=config(**settings(tmp_path, **options)),
        train_dataset=pairs.select_columns("prompt"),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[FTPlugCallback("lora", r=4)],
    )
    trainer.train()
    divergence = [log[name] for log in trainer.state.log_history if name in log]
    assert divergence[0] == 0  # the untrained policy is the base
    assert divergence[-1] != 0


# What cannot be right is refused


def test_what_would_compare_with_something_else_is_refused(folder, pairs, tmp_path):
    with pytest.raises(MethodError, match="sync_ref_model=True moves a second model"):
        dpo(model_of(folder), tmp_path, pairs, FTPlugCallback("lora"), sync_ref_model=True)
    model = ftplug.apply(model_of(folder), "lora")
    with pytest.raises(MethodError, match="cannot tell whether ref_model is yours"):
        ftplug.attach(dpo(model, tmp_path, pairs), "lora")


def test_full_fine_tuning_may_move_trls_own_reference_along(folder, pairs, tmp_path):
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1}
    bound = dpo(model_of(folder), tmp_path, pairs, FTPlugCallback("full"), **options)
    plain = dpo(model_of(folder), tmp_path, pairs, **options)
    assert trained(bound) == trained(plain)


def test_a_reference_that_trl_made_after_all_is_refused(folder, pairs, tmp_path, monkeypatch):
    model = ftplug.apply(model_of(folder), "lora")
    monkeypatch.setattr("ftplug.training.trl._LOAD", "renamed")
    trainer = dpo(model, tmp_path, pairs, FTPlugCallback("lora"))
    with pytest.raises(MethodError, match="in a way ftplug does not know: pass ref_model="):
        trainer.train()


def test_an_adapter_on_the_head_that_trl_bypasses_is_refused(folder, pairs, tmp_path):
    on_the_head = FTPlugCallback("lora", target_modules=["lm_head"])
    model = model_of(folder)
    untouched = str(model)
    with pytest.raises(MethodError, match=r"weight of lm_head alone.*lora_A.*never train"):
        sft(model, tmp_path, pairs, on_the_head)
    assert str(model) == untouched


def test_a_constructor_that_fails_leaves_nothing_to_the_next_trainer(
    folder, pairs, tmp_path, monkeypatch
):
    def fail(config):
        raise ValueError("no such repository")

    with monkeypatch.context() as patch:
        patch.setattr(dpo_trainer, "get_config_model_id", fail)  # asked just before it loads
        with pytest.raises(ValueError, match="no such repository"):
            dpo(model_of(folder), tmp_path, pairs, FTPlugCallback("lora"))
    assert isinstance(dpo(model_of(folder), tmp_path, pairs).ref_model, LlamaForCausalLM)


@pytest.mark.parametrize(
    ("method", "refused"), [("lora", True), ("bottleneck", True), ("full", False)]
)
def test_a_second_model_that_follows_must_have_the_same_parameters(method, refused, tmp_path):
    from trl import SyncRefModelCallback

    class Teacher(SyncRefModelCallback):
        """As SDPO's: moved after each step."""

        def on_step_end(self, args, state, control, **kwargs):
            self.sync_target_model(kwargs["model"], self.ref_model, 0.5)

    bound = trainer(tiny.llama(), tmp_path, max_steps=2, save_strategy="no", use_cpu=True)
    teacher = tiny.llama()
    bound.add_callback(Teacher(teacher, bound.accelerator))
    ftplug.attach(bound, method)
    before = [p.detach().clone() for p in teacher.parameters()]
    if refused:
        with pytest.raises(ftplug.MethodError, match="Teacher moves a second model along"):
            bound.train()
        assert bound.state.global_step == 0
    else:
        bound.train()
    moved = any(not a.equal(b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert moved is not refused
