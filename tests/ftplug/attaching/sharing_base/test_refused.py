"""What base and which artifact cannot share, each in one line, with the base as it was."""

import functools
from dataclasses import dataclass

import peft
import pytest
import tiny
import torch
import transformers
from runs import logits, same, shake, weights
from scale import Scale
from torch import nn

import ftplug
from ftplug import MethodError, hookimpl
from ftplug.errors import ArtifactError
from ftplug.testing import Case


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    model = shake(ftplug.apply(tiny.bert(), "lora", r=4), 0.3)
    return ftplug.save(model, tmp_path_factory.mktemp("lora"), probe=False)


def with_a_method(base):
    return ftplug.apply(base, "bitfit")


def with_an_adapter(base):
    return peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"]))


def compiled_in_place(base):
    base.bert.encoder.compile(backend="eager")
    return base


def compiled(base):
    return torch.compile(base, backend="eager")


def with_a_hook_of_accelerate(base):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(base.bert.pooler, AlignDevicesHook())
    return base


def offloaded(base):
    base.hf_device_map = {"bert.embeddings": 0, "bert.encoder": "cpu"}
    return base


def without_values(base):
    return base.to("meta")


def with_a_closure(base):
    original = base.bert.pooler.forward
    base.bert.pooler.forward = lambda *args, **kwargs: original(*args, **kwargs)
    return base


def with_a_partial_of_one(base):
    layer = base.bert.encoder.layer[0]

    def forward(scale, *args, module=layer.attention, **kwargs):
        return module(*args, **kwargs)

    layer.attention.forward = functools.partial(forward, 2)
    return base


def with_a_hook_that_holds_a_tensor(base):
    bias = base.classifier.bias
    base.bert.register_forward_hook(lambda module, args, output: bias.sum() and None)
    return base


def in_eight_bits(base):
    class Int8Params(nn.Parameter):
        pass

    layer = base.bert.pooler.dense
    layer.weight = Int8Params(layer.weight.to(torch.int8), requires_grad=False)
    return base


def quantized_by_another(base):
    base.hf_quantizer = object()
    return base


BASES = {
    with_a_method: "must be bare: BertForSequenceClassification already carries a method",
    with_an_adapter: "must be bare: .* already carries a peft adapter",
    compiled: r"OptimizedModule is compiled \(torch\.compile\)",
    compiled_in_place: r"bert\.encoder is compiled \(Module\.compile\)",
    with_a_hook_of_accelerate: r"bert\.pooler has a hook of accelerate",
    offloaded: r"this BertForSequenceClassification is offloaded \(device_map=\)",
    nn.DataParallel: "DataParallel is wrapped for several processes",
    without_values: r"is on the meta device",
    with_a_closure: r"forward of bert\.pooler is a function that holds a part of this base",
    with_a_partial_of_one: r"forward of bert\.encoder\.layer\.0\.attention is a function",
    with_a_hook_that_holds_a_tensor: r"forward_hooks of bert is a function that holds",
    in_eight_bits: r"bert\.pooler\.dense\.weight of this .* is of Int8Params: of quantized",
    quantized_by_another: "is quantized, and not to 4 bits by bitsandbytes",
}


@pytest.mark.parametrize("make", BASES, ids=lambda make: make.__name__)
def test_a_base_that_is_not_bare(make, artifact):
    base = make(tiny.bert())
    names = [name for name, _ in base.named_parameters()]
    with pytest.raises(MethodError, match=f"^share_base: .*({BASES[make]})") as said:
        ftplug.load(base, artifact, share_base=True)
    assert "\n" not in str(said.value)
    assert [name for name, _ in base.named_parameters()] == names


def test_a_base_that_is_divided_among_processes(artifact, monkeypatch):
    monkeypatch.setattr("ftplug.structure.shards.is_partitioned", lambda tensor: True)
    monkeypatch.setattr("ftplug.attaching.sharing_base.copied.is_sharded", lambda model: True)
    with pytest.raises(MethodError, match=r"^share_base: .* divided among processes \(FSDP, ZeRO"):
        ftplug.load(tiny.bert(), artifact, share_base=True)


def test_a_model_that_cannot_be_copied(artifact):
    base = tiny.bert()
    base.cache = (base.classifier.weight * 2, None)  # of a graph
    with pytest.raises(MethodError, match=r"^share_base: this Bert.* cannot be copied: Only"):
        ftplug.load(base, artifact, share_base=True)


def test_a_base_that_is_no_model_in_memory(artifact):
    with pytest.raises(MethodError, match=r"^share_base: 'org/base' is loaded anew each time"):
        ftplug.load("org/base", artifact, share_base=True)


def test_an_adapter_that_ftplug_did_not_make(tmp_path):
    peft.get_peft_model(tiny.bert(), peft.LoraConfig(target_modules=["query"])).save_pretrained(
        tmp_path
    )
    base = tiny.bert()
    with pytest.raises(MethodError, match="is an adapter that ftplug did not make"):
        ftplug.load(base, tmp_path, share_base=True)
    assert not any("lora" in name for name, _ in base.named_parameters())


def test_another_base_is_refused_as_without(artifact):
    base = shake(tiny.bert())
    with pytest.raises(ArtifactError, match="load that base, or force=True"):
        ftplug.load(base, artifact, share_base=True)
    ftplug.load(base, artifact, share_base=True, force=True)


@dataclass(frozen=True, eq=False)
class Writes(Scale):
    """Rounds the base's weights while it is put on, without torch's counting it."""

    @hookimpl
    def prepare_model(self, model):
        Scale.prepare_model(self, model)
        for name, parameter in model.named_parameters():
            if name.endswith("query.weight"):
                parameter.data.mul_(1.5)


def test_a_method_that_writes_to_the_base_while_it_is_put_on():
    case = Case(Writes)
    folder = ftplug.save(shake(case.prepared()), case.folder / "artifact", probe=False)
    base = case.base()
    before, plain = weights(base), logits(base)
    with (
        case.findable(),
        pytest.raises(ArtifactError, match=r"scale: writes to bert\.\S*query\.weight of the base"),
    ):
        ftplug.load(base, folder, share_base=True)
    assert same(weights(base), before)
    assert torch.equal(logits(base), plain)


def test_a_function_that_holds_no_part_of_the_base_is_let_be(artifact):
    base = tiny.bert()
    other, seen = nn.Linear(2, 2), []
    base.bert.register_forward_hook(lambda module, args, output: seen.append(other) or None)
    base.note = functools.partial(print, "x")
    model = ftplug.load(base, artifact, share_base=True)
    logits(model)
    assert seen


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory):
    pytest.importorskip("bitsandbytes", reason="pip install 'ftplug[qlora]'")
    folder = tmp_path_factory.mktemp("base")
    tiny.llama().save_pretrained(folder)

    def load():
        config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)
        return transformers.LlamaForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu"
        ).eval()

    return load


def test_four_bits_lie_in_one_memory_and_each_model_may_move(four_bits, tmp_path):
    trained = shake(ftplug.apply(four_bits(), "qlora", r=4), 0.3)
    folder = ftplug.save(trained, tmp_path, probe=False)
    base = four_bits()
    one, other = (ftplug.load(base, folder, share_base=True) for _ in range(2))
    weight = base.model.layers[0].self_attn.q_proj.weight
    for model in (one, other):
        layer = model.model.layers[0].self_attn.q_proj.base_layer
        assert layer.weight is not weight
        assert layer.weight.data_ptr() == weight.data_ptr()
        assert layer.weight.quant_state is not weight.quant_state
        assert layer.weight.quant_state.absmax.data_ptr() == weight.quant_state.absmax.data_ptr()
        assert layer.__dict__["support_avx512bf16_for_cpu"] is False
        assert torch.equal(logits(model), logits(trained))
    expected = logits(base)
    ftplug.merge(one)
    assert torch.equal(logits(other), logits(trained))
    assert torch.equal(logits(base), expected)


def test_a_base_of_inference_mode(artifact):
    with torch.inference_mode():
        base = tiny.bert()
        with pytest.raises(MethodError, match=r"^share_base: .* was made within torch\.inference"):
            ftplug.load(base, artifact, share_base=True)
