"""QLoRA: the quantized base of transformers, trained as peft does, and merged without a loss."""

import copy
import json

import pytest
import tiny
import torch
import transformers
from ftplug_plugins.lora import Lora
from ftplug_plugins.qlora import Qlora
from halves import straight_and_resumed
from runs import logits, losses, rows, same, shake, trainer, weights

import ftplug
from ftplug import MethodError
from ftplug.attaching.attachment import require_attachment
from ftplug.base.quantization import keep_unpacked

pytest.importorskip("bitsandbytes", reason="pip install 'ftplug[qlora]'")

BITS = pytest.mark.parametrize("bits", [4, 8])
FAMILIES = pytest.mark.parametrize("make", [tiny.bert, tiny.llama, tiny.t5, tiny.vit])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.llama().save_pretrained(folder)
    return folder


def from_checkpoint(folder, **options):
    return transformers.LlamaForCausalLM.from_pretrained(folder, **options).eval()


def quantized_by_transformers(folder, bits):
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = transformers.BitsAndBytesConfig(**(four if bits == 4 else {"load_in_8bit": True}))
    return from_checkpoint(folder, quantization_config=config, device_map="cpu")


@BITS
def test_starts_as_the_model_that_transformers_quantizes(checkpoint, bits):
    theirs = quantized_by_transformers(checkpoint, bits)
    keep_unpacked(theirs)
    ours = ftplug.apply(from_checkpoint(checkpoint), "qlora", bits=bits)
    assert torch.equal(logits(ours), logits(theirs))
    assert not torch.equal(logits(ours), logits(from_checkpoint(checkpoint)))


@BITS
def test_trains_as_peft_does_on_the_model_that_transformers_quantizes(checkpoint, tmp_path, bits):
    import peft

    ours = trainer(from_checkpoint(checkpoint), tmp_path, save_strategy="no")
    ftplug.attach(ours, "qlora", r=4, bits=bits).train()
    base = quantized_by_transformers(checkpoint, bits)
    transformers.set_seed(42)
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(base, config)
    theirs = trainer(wrapped, tmp_path, save_strategy="no", label_names=["labels"])
    theirs.train_dataset = rows(base)
    theirs.train()
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-5)
    assert losses(ours)[-1] < losses(ours)[0] - 1e-3


@FAMILIES
def test_all_linear_layers_but_the_head_are_quantized_and_the_weights_small(make):
    base = make()
    model = ftplug.apply(copy.deepcopy(base), "qlora", r=4)
    small = {n for n, p in model.named_parameters() if p.dtype == torch.uint8}
    assert all(n.endswith(".base_layer.weight") for n in small)
    plain = {n.replace(".base_layer.weight", ".weight") for n in small}
    linear = {f"{n}.weight" for n, m in base.named_modules() if type(m) is torch.nn.Linear}
    kept = {n for n in linear - plain if ".wo." not in n}  # T5 computes in the dtype of wo
    assert kept <= {"classifier.weight", "lm_head.weight", "bert.pooler.dense.weight"}
    sizes = dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        if name in small:
            full = sizes[name.replace(".base_layer.weight", ".weight")]
            assert parameter.numel() * 2 == full.numel()
    shake(model)
    assert not torch.allclose(logits(model), logits(base), atol=1e-3)


@FAMILIES
@BITS
def test_disabled_saved_loaded_and_copied(make, bits, tmp_path):
    base = make()
    model = ftplug.apply(copy.deepcopy(base), "qlora", r=4, bits=bits)
    quantized = logits(model)
    shake(model)
    trained = logits(model)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), quantized)
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(loaded), trained)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(shake(twin)), logits(shake(copy.deepcopy(model))))
    assert torch.equal(logits(model), trained)


def test_files_hold_the_adapter_alone_and_the_base_is_verified(tmp_path):
    model = ftplug.apply(tiny.bert(), "qlora", r=4)
    attached = require_attachment(model)
    small = {n for n, p in model.named_parameters() if not p.is_floating_point()}
    assert small
    assert not small & {*attached.plan.saved, *attached.plan.added}
    assert (
        attached.base.fingerprint
        == require_attachment(ftplug.apply(tiny.bert(), "lora")).base.fingerprint
    )
    folder = ftplug.save(model, tmp_path / "artifact")
    assert json.loads((folder / "ftplug.json").read_text())["methods"][0]["name"] == "qlora"
    other = shake(tiny.bert())
    with pytest.raises(ftplug.ArtifactError, match="this base is"):
        ftplug.load(other, folder)


def test_peft_reads_the_artifact_on_the_full_precision_base(tmp_path):
    import peft

    base = tiny.llama()
    model = shake(ftplug.apply(copy.deepcopy(base), "qlora", r=4))
    lora = ftplug.apply(copy.deepcopy(base), "lora", r=4, target_modules=["all-linear"])
    lora.load_state_dict(
        {n: p for n, p in model.state_dict().items() if ".lora_" in n}, strict=False
    )
    ftplug.save(model, tmp_path / "artifact")
    read = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(read), logits(lora))


@FAMILIES
def test_merged_in_full_precision_it_answers_as_trained(make):
    base = make()
    model = shake(ftplug.apply(copy.deepcopy(base), "qlora", r=4))
    expected = logits(model)
    plain = ftplug.merge(model)
    assert torch.allclose(logits(plain), expected, atol=1e-5)
    assert weights(plain).keys() == weights(base).keys()
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    assert all("bitsandbytes" not in type(m).__module__ for m in plain.modules())


def test_merging_eight_bits_differs_by_the_rounding_of_activations_alone():
    model = shake(ftplug.apply(tiny.llama(), "qlora", r=4, bits=8))
    expected = logits(model)
    assert torch.allclose(logits(ftplug.merge(model)), expected, atol=0.01)


def test_a_merge_that_is_refused_leaves_the_quantized_model(monkeypatch):
    from ftplug_plugins.peft_bridge import files as peft_files

    def refuse(*arguments):
        raise MethodError("lora: cannot be merged")

    model = shake(ftplug.apply(tiny.llama(), "qlora", r=4))
    before, expected = weights(model), logits(model)
    monkeypatch.setattr(peft_files, "merge", refuse)
    with pytest.raises(MethodError, match="cannot be merged"):
        ftplug.merge(model)
    assert same(weights(model), before)
    assert torch.equal(logits(model), expected)


@BITS
def test_a_model_quantized_by_transformers_trains_after_apply_and_merges(
    checkpoint, tmp_path, bits
):
    model = quantized_by_transformers(checkpoint, bits)
    with pytest.raises(ValueError, match="purely quantized"):
        trainer(model, tmp_path)
    ftplug.apply(model, "qlora", r=4, bits=bits)
    bound = ftplug.attach(trainer(model, tmp_path, save_strategy="no"), "qlora", r=4, bits=bits)
    bound.train()
    direct = trainer(from_checkpoint(checkpoint), tmp_path, save_strategy="no")
    ftplug.attach(direct, "qlora", r=4, bits=bits).train()
    assert losses(bound) == losses(direct)
    expected = logits(model)
    ftplug.merge(model).save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(model), expected, atol=1e-5 if bits == 4 else 0.01)
    assert torch.equal(logits(from_checkpoint(tmp_path / "merged")), logits(model))


@BITS
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_an_artifact_of_the_full_base_loads_on_a_quantized_one(checkpoint, tmp_path, bits, method):
    """As peft loads it."""
    import peft

    ftplug.save(shake(ftplug.apply(from_checkpoint(checkpoint), method)), tmp_path)
    theirs = quantized_by_transformers(checkpoint, bits)
    keep_unpacked(theirs)
    ours = ftplug.load(quantized_by_transformers(checkpoint, bits), tmp_path)
    assert torch.equal(logits(ours), logits(peft.PeftModel.from_pretrained(theirs, tmp_path)))


@BITS
def test_resumed_equals_uninterrupted(tmp_path, bits):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, Qlora(r=4, bits=bits)
    )
    assert same(weights(straight.model), weights(resumed.model))
    size = (tmp_path / "b" / "checkpoint-20" / "ftplug_state.safetensors").stat().st_size
    trained = resumed.ftplug.attached.plan.trained_count(resumed.model)
    assert size <= 1.02 * 4 * trained + 16 * 1024


def test_dora_and_lora_plus_work_on_four_bits(tmp_path):
    from ftplug_plugins.lora_plus import LoraPlus

    bound = trainer(tiny.llama(), tmp_path, save_strategy="no", max_steps=3)
    ftplug.attach(bound, Qlora(r=4, use_dora=True), LoraPlus()).train()
    expected = logits(bound.model)
    assert torch.allclose(logits(ftplug.merge(bound.model)), expected, atol=1e-5)


def test_what_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(MethodError, match=r"GPT2LMHeadModel has no torch\.nn\.Linear"):
        ftplug.apply(tiny.gpt2(), "qlora")
    with pytest.raises(MethodError, match="qlora: quantizes the base: name it before"):
        ftplug.apply(tiny.bert(), "bottleneck", "qlora")
    with pytest.raises(MethodError, match="qlora: quantizes the base: name it before"):
        ftplug.apply(tiny.bert(), Lora(), "qlora")
    with pytest.raises(MethodError, match=r"full: .* is quantized .*: use qlora or lora"):
        ftplug.apply(tiny.bert(), "qlora", "full")
    with pytest.raises(MethodError, match="bits"):
        Qlora(bits=2)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(MethodError, match=r"pip install 'ftplug\[qlora\]'"):
        ftplug.apply(tiny.bert(), "qlora")
