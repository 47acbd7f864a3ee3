"""Model classes of one's own: their head trains and is saved with every method."""

import copy

import pytest
import tiny
import torch
from runs import shake
from torch import nn
from transformers import AutoModel, BertConfig, BertPreTrainedModel, PreTrainedModel

import ftplug
from ftplug import structure
from ftplug.testing.compare import weights
from ftplug.training.binding import attach


class Around(PreTrainedModel):
    """A model around a transformers model, without base_model_prefix."""

    config_class = BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config)
        self.out = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        logits = self.out(self.encoder(input_ids, attention_mask)[0][:, 0])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Misnamed(BertPreTrainedModel):
    """A prefix (bert) that its encoder does not have."""

    def __init__(self, config):
        super().__init__(config)
        self.body, self.out = AutoModel.from_config(config), nn.Linear(config.hidden_size, 2)
        self.post_init()

    @property
    def encoder(self):
        return self.body

    forward = Around.forward


class TwoTowers(Around):
    """Two encoders and what compares them."""

    def __init__(self, config):
        super().__init__(config)
        self.other = AutoModel.from_config(config)
        self.out = nn.Sequential(nn.LayerNorm(2 * config.hidden_size), nn.Linear(64, 2))
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        both = [m(input_ids, attention_mask)[0][:, 0] for m in (self.encoder, self.other)]
        logits = self.out(torch.cat(both, -1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.query, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in "qv")

    def forward(self, x):
        return x + self.value(torch.tanh(self.query(x)))


class ByHand(PreTrainedModel):
    """Nothing of transformers inside: a stack of layers, a norm, and linear layers above."""

    config_class = BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.project = nn.Linear(config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.out = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        x = self.project(self.embed(input_ids))
        for layer in self.layers:
            x = layer(x)
        logits = self.out(self.norm(x)[:, 0])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


HEADS = {
    Around: {"out.weight", "out.bias"},
    Misnamed: {"out.weight", "out.bias"},
    TwoTowers: {"out.0.weight", "out.0.bias", "out.1.weight", "out.1.bias"},
    ByHand: {"out.weight", "out.bias"},
}


def built(cls, tmp_path, loaded):
    model = cls(BertConfig.from_dict(tiny.bert().config.to_dict()))
    if not loaded:
        return model.eval()
    model.save_pretrained(tmp_path / "first")
    return cls.from_pretrained(tmp_path / "first").eval()


@pytest.mark.parametrize("cls", HEADS)
def test_the_head_is_what_lies_above(cls, tmp_path):
    assert set(structure.task_head(built(cls, tmp_path, False))) == HEADS[cls]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lora", {"r": 4, "target_modules": ("query",)}),
        ("lora", {"r": 4, "target_modules": "all-linear"}),
        ("ia3", {"target_modules": ("value",), "feedforward_modules": ()}),
        ("bitfit", {}),
        ("freeze", {"layers": 1}),
    ],
)
@pytest.mark.parametrize("loaded", [False, True], ids=["config", "checkpoint"])
@pytest.mark.parametrize("cls", HEADS)
def test_the_head_trains_is_saved_and_comes_back(cls, loaded, method, settings, tmp_path):
    base = built(cls, tmp_path, loaded)
    model = ftplug.apply(copy.deepcopy(base), method, **settings)
    before = weights(model)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains >= HEADS[cls]
    shake(model)
    batch = {name: value for name, value in tiny.inputs(tiny.bert()).items()}
    answer = model.eval()(**batch)["logits"]
    ftplug.save(model, tmp_path / "a")
    again = ftplug.load(copy.deepcopy(base), tmp_path / "a").eval()
    assert torch.equal(again(**batch)["logits"], answer)
    changed = {name for name, value in weights(again).items() if not value.equal(before[name])}
    assert changed >= HEADS[cls]


@pytest.mark.parametrize("method", ["bottleneck", "reft"])
@pytest.mark.parametrize("cls", [Around, Misnamed])
def test_methods_on_layers_find_those_of_the_model_inside(cls, method, tmp_path):
    model = ftplug.apply(built(cls, tmp_path, True), method)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains > HEADS[cls]


def test_the_head_can_be_left_frozen(tmp_path):
    model = ftplug.apply(
        built(Around, tmp_path, True), "lora", target_modules=("query",), train_head=False
    )
    assert not HEADS[Around] & {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_class_of_transformers_keeps_its_own_projections_in_the_base():
    from transformers import CLIPConfig, CLIPModel

    small = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }  # fmt: skip
    vision = {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=small | {"vocab_size": 64}, vision_config=small | vision)
    assert structure.task_head(CLIPModel(config)) == []


def test_it_trains_in_a_trainer(tmp_path):
    from runs import trainer

    base = built(Around, tmp_path, True)
    rows = tiny.inputs(tiny.bert(), rows=16)
    bound = trainer(tiny.bert(), tmp_path / "run", use_cpu=True, max_steps=4, save_strategy="no")
    bound = type(bound)(
        base, bound.args, train_dataset=[{n: v[i] for n, v in rows.items()} for i in range(16)]
    )
    before = base.out.weight.detach().clone()
    attach(bound, "lora", target_modules=("query",)).train()
    assert not torch.equal(before, bound.model.out.weight)
