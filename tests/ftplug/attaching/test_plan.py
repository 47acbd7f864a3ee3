"""The trainable plan: what may train, the head, what is saved, and that the host alone decides."""

from dataclasses import dataclass

import pytest
import tiny
import torch
from ftplug_plugins.lora import Lora
from torch import nn

import ftplug
from ftplug import Method, MethodError, hookimpl
from ftplug.attaching.attachment import attachment_of, require_attachment
from ftplug.base.inspecting import inspect_base
from ftplug.host import Host


@dataclass(frozen=True, eq=False)
class Biases(Method):
    """Train all biases."""

    name = "biases"
    kind = "selection"

    @hookimpl
    def select_trainable(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith("bias")]


@dataclass(frozen=True, eq=False)
class Naming(Method):
    """Select one name, whatever it is."""

    select: str = "nothing.here"
    name = "naming"
    kind = "selection"

    @hookimpl
    def select_trainable(self, model):
        return [self.select] if self.select else []


def training(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_union_of_methods_and_head_trains():
    model = ftplug.apply(tiny.bert(), Biases(), "lora")
    names = training(model)
    assert any(".lora_A." in name for name in names)
    assert "bert.pooler.dense.bias" in names
    assert "classifier.weight" in names
    assert "bert.pooler.dense.weight" not in names
    plan = attachment_of(model).plan
    assert names == set(plan.may_train)
    assert set(plan.by_method) == {"biases", "lora"}


def test_train_head_false_leaves_the_head_alone():
    names = training(ftplug.apply(tiny.bert(), Biases(), train_head=False))
    assert not any(name.startswith("classifier") for name in names)
    assert "bert.pooler.dense.bias" in names


def test_language_model_heads_are_part_of_the_base():
    assert not any("lm_head" in name for name in training(ftplug.apply(tiny.llama(), "lora")))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Naming(), "naming: selects 'nothing.here', which the model does not have"),
        (Naming(select=""), "naming: nothing would train in BertForSequenceClassification"),
    ],
)
def test_impossible_selections_are_refused(method, message):
    with pytest.raises(MethodError, match=message):
        ftplug.apply(tiny.bert(), method, train_head=False)


def test_a_tensor_that_cannot_train_is_refused():
    model = tiny.bert()
    model.counter = nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False)
    with pytest.raises(MethodError, match=r"counter is (quantized \()?torch\.int32"):
        ftplug.apply(model, "full")
    with pytest.raises(MethodError, match=r"counter is torch\.int32: it cannot train"):
        ftplug.apply(tiny_with_counter(), Naming(select="counter"))


def tiny_with_counter():
    model = tiny.bert()
    model.counter = nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False)
    return model


def test_saved_tensors_hold_buffers_and_what_no_checkpoint_has(tmp_path):
    tiny.bert("Model").save_pretrained(tmp_path / "base")
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    model.register_buffer("running", torch.zeros(3))
    model.register_buffer("scratch", torch.zeros(3), persistent=False)
    plan = require_attachment(ftplug.apply(model, Biases(), train_head=False)).plan
    assert "classifier.weight" in plan.saved  # fresh: the base cannot give it back
    assert "classifier.weight" not in plan.may_train
    assert "running" in plan.saved
    assert "scratch" not in plan.saved


def test_fresh_parameters_are_found_and_train(tmp_path):
    from transformers import BertForSequenceClassification, BertModel

    encoder = BertModel(tiny.bert("Model").config, add_pooling_layer=False)
    encoder.save_pretrained(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    assert inspect_base(model).fresh == (
        "bert.pooler.dense.weight", "bert.pooler.dense.bias",
        "classifier.weight", "classifier.bias",
    )  # fmt: skip
    assert "bert.pooler.dense.weight" in training(ftplug.apply(model, "lora"))


def test_resized_embeddings_are_fresh(tmp_path):
    from transformers import LlamaForCausalLM

    tiny.llama().save_pretrained(tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    assert inspect_base(model).fresh == ()
    model.resize_token_embeddings(tiny.VOCAB + 3, mean_resizing=False)
    assert inspect_base(model).fresh == ("model.embed_tokens.weight", "lm_head.weight")
    assert "model.embed_tokens.weight" in training(ftplug.apply(model, "lora"))


def test_the_users_generators_are_not_touched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ftplug.apply(tiny.bert(), "lora")
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_decides_the_initial_values():
    def lora_a(seed):
        model = ftplug.apply(tiny.bert(), "lora", seed=seed)
        return next(p for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(lora_a(1), lora_a(1))
    assert not torch.equal(lora_a(1), lora_a(2))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((), {}, "no method given"),
        ((3,), {}, "a method is a name or a Method instance"),
        (("lora", "lora"), {}, "'lora' is given twice"),
        (("lora", "full"), {"r": 4}, r"write METHOD.SETTING, e.g. lora\.r"),
        ((Biases(),), {"r": 4}, "biases is given as an instance"),
        (("lora",), {"full.x": 4}, "belongs to no method of this run"),
    ],
)
def test_wrong_calls_are_one_line(arguments, settings, message):
    with pytest.raises(MethodError, match=message):
        ftplug.apply(tiny.bert(), *arguments, **settings)


def test_settings_of_several_methods_are_dotted():
    model = ftplug.apply(tiny.bert(), "lora", Biases(), **{"lora.r": 2})
    assert attachment_of(model).host.methods[0].r == 2


def test_the_same_methods_are_adopted_and_others_refused():
    model = ftplug.apply(tiny.bert(), "lora", r=4)
    first = attachment_of(model)
    ftplug.apply(model, "lora", r=4)
    assert attachment_of(model) is first
    with pytest.raises(MethodError, match="already carries lora"):
        ftplug.apply(model, "lora", r=8)
    with pytest.raises(MethodError, match="already carries lora"):
        ftplug.apply(model, "full")


def test_a_setting_that_a_record_lacks_had_its_default():
    host, other = Host([Lora(r=4)]), Host([Lora(r=4, lora_dropout=0.1)])
    [entry] = host.spec()
    del entry["settings"]["lora_dropout"]
    assert host.same_methods([entry])
    assert not other.same_methods([entry])
    assert not host.same_methods([])
    assert not host.same_methods([entry, entry])


def test_a_strangers_peft_model_is_refused():
    import peft

    wrapped = peft.get_peft_model(tiny.bert(), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(MethodError, match="already carries a peft adapter"):
        ftplug.apply(wrapped, "lora")


def test_a_model_without_transformers_inside_is_refused():
    with pytest.raises(MethodError, match="Linear holds no transformers PreTrainedModel"):
        ftplug.apply(nn.Linear(2, 2), "full")


def test_a_refusal_leaves_the_model_as_it_was():
    model = tiny.bert()
    for methods, settings in (
        (("bottleneck", "freeze"), {"freeze.train": ["*.nosuch.*"]}),
        (("lora", Naming()), {}),
    ):
        before = str(model)
        with pytest.raises(MethodError):
            ftplug.apply(model, *methods, **settings)
        assert str(model) == before
    ftplug.apply(model, "bottleneck")
    assert sum(name.endswith("adapter.up.weight") for name, _ in model.named_parameters()) == 4


def test_a_part_that_carries_a_method_is_refused():
    model = tiny.bert()
    ftplug.apply(model.bert, "lora")
    with pytest.raises(MethodError, match="bert already carries a method"):
        ftplug.apply(model, "bottleneck")
    other = tiny.bert("TokenClassification")
    other.bert = ftplug.apply(tiny.bert(), "bottleneck").bert  # two heads on one trunk
    with pytest.raises(MethodError, match="already carries a method"):
        ftplug.apply(other, "bottleneck")


class Pair(nn.Module):
    """Two encoders and a head of their own, as for retrieval."""

    def __init__(self):
        super().__init__()
        self.asked, self.document = tiny.bert("Model"), tiny.bert("Model")
        self.score = nn.Linear(2, 1)


def test_in_a_wrapper_what_is_outside_of_all_models_is_head():
    names = training(ftplug.apply(Pair(), "lora"))
    assert {"score.weight", "score.bias"} <= names
    assert not any(name.startswith("document.") and ".lora_" not in name for name in names)


class WithValueHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = tiny.gpt2()
        self.value = nn.Linear(tiny.HIDDEN, 1)


def test_a_language_models_wrapper_has_a_head():
    names = training(ftplug.apply(WithValueHead(), "lora"))
    assert {"value.weight", "value.bias"} <= names
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("model", [None, 3, "bert"])
def test_something_that_is_no_model_is_refused(model):
    with pytest.raises(MethodError, match="a model is expected"):
        ftplug.apply(model, "lora")


def test_no_method_attached_is_said():
    with pytest.raises(MethodError, match="carries no ftplug method"), ftplug.disabled(tiny.bert()):
        pass


# Methods that select nothing, a schedule without effect, a selection of nothing of the model's own


@dataclass(frozen=True, eq=False)
class Pull(Method):
    """Select nothing: a regulariser."""

    name = "pull"
    kind = "regularizer"

    @hookimpl
    def on_gradients(self, model):
        """Do nothing."""


@dataclass(frozen=True, eq=False)
class Alternate(Biases):
    """Train all biases, in every other step."""

    name = "alternate"
    kind = "schedule"

    @hookimpl
    def schedule_trainable(self, model, step):
        return self.select_trainable(model) if step % 2 else []


def test_where_no_method_selects_everything_trains():
    model = tiny.bert()
    everything = {name for name, _ in model.named_parameters()}
    assert training(ftplug.apply(model, Pull())) == everything
    beside = ftplug.apply(tiny.bert(), Pull(), Biases())
    assert training(beside) == training(ftplug.apply(tiny.bert(), Biases()))
    without = training(ftplug.apply(tiny.bert(), Pull(), train_head=False))
    assert everything - without == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("methods", [(Alternate(), Biases()), (Biases(), Alternate())])
def test_a_schedule_whose_parameters_train_anyway_is_refused(methods):
    with pytest.raises(MethodError, match="alternate: biases trains the same parameters in every"):
        ftplug.apply(tiny.bert(), *methods)
    ftplug.apply(tiny.bert(), Alternate(), Naming("bert.pooler.dense.bias"))  # a part of them


@pytest.mark.parametrize("order", [("bottleneck", Biases()), (Biases(), "bottleneck")])
def test_a_selection_of_what_others_added_alone_is_refused(order):
    with pytest.raises(MethodError, match="biases: selects nothing of LlamaForCausalLM itself"):
        ftplug.apply(tiny.llama(), *order)
    ftplug.apply(tiny.bert(), *order)


def test_statistics_that_move_although_frozen_are_saved(tmp_path):
    """A frozen BatchNorm still counts; its buffers belong to the trained model."""
    model = tiny.bert()
    model.norm = torch.nn.BatchNorm1d(4)
    model = ftplug.apply(model, "lora")
    model.norm.train()(torch.randn(8, 4))
    assert {"norm.running_mean", "norm.running_var"} <= set(
        ftplug.attaching.attachment.require_attachment(model).plan.saved
    )
