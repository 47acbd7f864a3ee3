"""LoRA through peft: its parameters, its targets, its refusals."""

import copy

import peft
import pytest
import tiny
import torch
from runs import StopAt, logits, same, shake, trainer, weights
from transformers import set_seed

import ftplug
from ftplug import MethodError


def adapted(model):
    return {n.partition(".lora_")[0] for n, _ in model.named_parameters() if ".lora_" in n}


@pytest.mark.parametrize("make", [tiny.bert, tiny.roberta, tiny.gpt2, tiny.llama, tiny.t5])
def test_parameters_and_values_equal_pefts(make):
    ours = ftplug.apply(make(), "lora", r=4)
    base = make()
    set_seed(42)
    transposed = make is tiny.gpt2
    config = peft.LoraConfig(r=4, lora_alpha=16, fan_in_fan_out=transposed)
    theirs = peft.get_peft_model(base, config).base_model.model
    found = {n: p for n, p in theirs.named_parameters() if ".lora_" in n}
    mine = {n: p for n, p in ours.named_parameters() if ".lora_" in n}
    assert mine.keys() == found.keys()
    assert all(torch.equal(p, found[n]) for n, p in mine.items())
    assert torch.equal(logits(ours), logits(make()))  # B is zero


@pytest.mark.parametrize(
    ("make", "names"), [(tiny.distilbert, {"q_lin", "v_lin"}), (tiny.vit, {"q_proj", "v_proj"})]
)
def test_query_and_value_are_found_where_peft_has_no_default(make, names):
    targets = adapted(ftplug.apply(make(), "lora"))
    assert {name.rpartition(".")[2] for name in targets} == names
    assert len(targets) == 2 * tiny.LAYERS


def test_targets_by_end_and_all_linear():
    assert len(adapted(ftplug.apply(tiny.bert(), "lora", target_modules=["key"]))) == 2
    everything = adapted(ftplug.apply(tiny.bert(), "lora", target_modules=["all-linear"]))
    assert len(everything) == 6 * tiny.LAYERS + 1  # and the pooler; the head trains as a whole
    assert not any("classifier" in name for name in everything)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_rslora": True}, {"bias": "all"},
                                      {"bias": "lora_only"}, {"lora_dropout": 0.1}])  # fmt: skip
def test_variants_save_load_and_switch_off(settings, tmp_path):
    base = tiny.bert()
    model = shake(ftplug.apply(tiny.bert(), "lora", **settings))
    ftplug.save(model, tmp_path)
    assert torch.equal(logits(ftplug.load(tiny.bert(), tmp_path)), logits(model))
    again = peft.PeftModel.from_pretrained(tiny.bert(), tmp_path).eval()
    assert torch.equal(logits(again, tiny.inputs(base)), logits(model))
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))


def test_a_half_precision_base_gets_float32_adapters():
    model = ftplug.apply(tiny.bert().to(torch.bfloat16), "lora")
    dtypes = {n: p.dtype for n, p in model.named_parameters()}
    assert {d for n, d in dtypes.items() if ".lora_" in n} == {torch.float32}
    assert {d for n, d in dtypes.items() if ".lora_" not in n} == {torch.bfloat16}


def test_targets_that_are_not_there_are_one_line():
    with pytest.raises(MethodError, match=r"lora: .*nothing_here") as caught:
        ftplug.apply(tiny.bert(), "lora", target_modules=["nothing_here"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", [("bottleneck", "lora"), ("lora", "bottleneck")])
def test_all_linear_beside_bottleneck(order, tmp_path):
    model = shake(ftplug.apply(tiny.bert(), *order, **{"lora.target_modules": ["all-linear"]}))
    assert not any(".adapter." in name for name in adapted(model))
    ftplug.save(model, tmp_path)
    assert torch.equal(logits(ftplug.load(tiny.bert(), tmp_path)), logits(model))


STARTS = [
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": "mica"},
    {"init_lora_weights": "orthogonal"},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_4"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "pissa", "use_rslora": True, "lora_dropout": 0.1},
    {"init_lora_weights": "olora", "rank_pattern": {"query": 2}, "alpha_pattern": {"value": 8}},
    {"rank_pattern": {"0.attention.self.query": 2}, "alpha_pattern": {"value": 3}},
    {"layers_to_transform": [1]},
    {"lora_bias": True},
    {"target_parameters": ["self.query.weight"], "target_modules": ["value"]},
    {"use_bdlora": {"target_modules_bd_a": ["query"], "target_modules_bd_b": ["value"],
                    "nblocks": 2}},
]  # fmt: skip


def label(settings):
    return "-".join(str(value) for pair in settings.items() for value in pair)[:40]


def steps(model):
    """Return five losses of AdamW, dropout under a seed."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    found = []
    for step in range(5):
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        loss = model(**tiny.inputs(inner, seed=step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    model.eval()
    return found


@pytest.mark.parametrize("settings", STARTS, ids=label)
def test_variants_train_as_in_peft_and_leave_the_base(settings, tmp_path):
    base = tiny.bert(dropout=0.1)
    model = ftplug.apply(copy.deepcopy(base), "lora", r=4, lora_alpha=8, **settings)
    if settings.get("init_lora_weights") == "orthogonal":
        assert torch.allclose(logits(model), logits(base), atol=1e-6)
    else:
        assert torch.equal(logits(model), logits(base))
    block = settings.get("use_bdlora")
    config = peft.LoraConfig(
        **{"target_modules": ["query", "value"], "lora_alpha": 8} | settings
        | ({"use_bdlora": peft.tuners.lora.config.BdLoraConfig(**block)} if block else {}),
        r=4, task_type="SEQ_CLS",
    )  # fmt: skip
    set_seed(42)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    assert steps(model) == pytest.approx(steps(theirs), abs=1e-6)

    trained = logits(model)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))
    ftplug.save(model, tmp_path)
    assert not (tmp_path / "ftplug.safetensors").exists()
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), tmp_path)), trained)
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert torch.allclose(logits(plain, tiny.inputs(base)), trained, atol=1e-6)
    merged = ftplug.merge(copy.deepcopy(model))
    assert torch.allclose(logits(merged), trained, atol=1e-6)
    twin = shake(copy.deepcopy(model))
    assert torch.equal(logits(model), trained)
    assert not torch.allclose(logits(twin), trained)


def test_pissa_in_peft_format_doubles_the_rank(tmp_path):
    model = ftplug.apply(tiny.gpt2(), "lora", r=3, init_lora_weights="pissa")
    ftplug.save(shake(model), tmp_path)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (6, 32, True)
    merged, trained = ftplug.merge(copy.deepcopy(model)), logits(model)
    assert torch.allclose(logits(merged), trained, atol=1e-6)


def test_pissa_without_a_common_scale_is_saved_in_our_format(tmp_path):
    settings = {"init_lora_weights": "pissa", "use_rslora": True, "rank_pattern": {"query": 2}}
    model = shake(ftplug.apply(tiny.bert(), "lora", **settings))
    ftplug.save(model, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert torch.equal(logits(ftplug.load(tiny.bert(), tmp_path)), logits(model))


@pytest.mark.parametrize("start", ["eva", "corda", "lora_ga", "loftq", "nonsense"])
def test_starts_that_cannot_be_had_say_why(start):
    with pytest.raises(MethodError, match=rf"lora: init_lora_weights={start}: it "):
        ftplug.apply(tiny.bert(), "lora", init_lora_weights=start)


def test_what_does_not_combine_is_refused_before_the_model_changes():
    with pytest.raises(MethodError, match="do not combine"):
        ftplug.apply(tiny.bert(), "lora", init_lora_weights="pissa", use_dora=True)
    model = tiny.gpt2()
    before = weights(model)
    with pytest.raises(MethodError, match="olora does not fit the Conv1D"):
        ftplug.apply(model, "lora", init_lora_weights="olora")
    assert same(weights(model), before)
    with pytest.raises(MethodError, match="need a decoder-only language model"):
        ftplug.apply(tiny.bert(), "lora", alora_invocation_tokens=[5, 6])


def invoked(model, at):
    """Return a prompt whose rows hold the invocation 5, 6; the last row has none."""
    ids = tiny.inputs(model)["input_ids"].masked_fill(tiny.inputs(model)["input_ids"] == 5, 7)
    ids[:-1, at : at + 2] = torch.tensor([5, 6])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def alora(base):
    return shake(ftplug.apply(copy.deepcopy(base), "lora", alora_invocation_tokens=[5, 6]), 0.5)


def test_alora_works_from_the_invocation_on(tmp_path):
    base = tiny.llama()
    model, batch = alora(base), invoked(base, 3)
    found, expected = logits(model, batch), logits(base, batch)
    assert torch.equal(found[:, :3], expected[:, :3])
    assert torch.equal(found[-1], expected[-1])
    assert not torch.allclose(found[0, 3:], expected[0, 3:])
    ftplug.save(model, tmp_path)
    assert torch.equal(logits(ftplug.load(tiny.llama(), tmp_path), batch), found)
    theirs = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path).eval()
    assert torch.allclose(logits(theirs, batch), found, atol=1e-6)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    tokens = model.generate(**batch, **options)
    assert torch.equal(tokens, theirs.generate(**batch, **options))
    assert torch.equal(tokens, model.generate(**batch, **options, use_cache=False))
    with pytest.raises(MethodError, match="aLoRA does not support"):
        ftplug.merge(model)


def test_alora_under_activation_checkpointing_has_the_same_gradients():
    base = tiny.llama()
    plain, saving = alora(base).train(), alora(base).train()
    saving.activation_checkpointing_enable()
    for model in (plain, saving):
        batch = invoked(base, 3)
        model(**batch, labels=batch["input_ids"]).loss.backward()
    gradients = [[p.grad for p in m.parameters() if p.requires_grad] for m in (plain, saving)]
    for first, second in zip(*gradients, strict=True):
        assert torch.allclose(first, second, atol=1e-7)
        assert first.abs().sum() > 0


def test_a_resumed_pissa_run_equals_an_uninterrupted_one(tmp_path):
    def run(name, *callbacks, resume=False):
        bound = trainer(tiny.bert(dropout=0.1), tmp_path / name, callbacks=list(callbacks),
                        max_steps=8, save_strategy="no")  # fmt: skip
        ftplug.attach(bound, "lora", r=4, init_lora_weights="pissa_niter_2")
        bound.train(resume_from_checkpoint=resume)
        return weights(bound.model)

    straight = run("straight")
    run("halves", StopAt(3))
    assert same(run("halves", resume=True), straight)
