"""A type that peft has and no method here is written for: offered from its config class."""

import copy
import json
import sys
from dataclasses import dataclass
from typing import Any

import peft
import pytest
import tiny
import torch
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_family import family, unlisted
from peft import mapping
from peft.tuners.loha import LoHaConfig, LoHaModel
from runs import logits, shake, trainer, weights

import ftplug
from ftplug import MethodError, discovery
from ftplug.testing import Case, checks


@dataclass
class NovelConfig(LoHaConfig):
    """Config of a method that a later peft may have.

    Args:
        scale (`float`):
            How far it goes. Ignored here.
    """

    scale: float = 0.5
    hook: Any = None
    later: int | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = peft.PeftType.NOVEL_TYPE


class NovelModel(LoHaModel):
    """Its layers are LoHa's."""


class NovelPromptConfig(peft.PromptTuningConfig):
    """Virtual tokens that are computed in a new way."""


@pytest.fixture
def novel(monkeypatch):
    """Let peft have a type NOVEL_TYPE."""
    member = str.__new__(peft.PeftType, "NOVEL_TYPE")
    member._name_ = member._value_ = "NOVEL_TYPE"
    monkeypatch.setattr(
        peft.PeftType, "_member_names_", [*peft.PeftType._member_names_, "NOVEL_TYPE"]
    )
    for known in (peft.PeftType._member_map_, peft.PeftType._value2member_map_):
        monkeypatch.setitem(known, "NOVEL_TYPE", member)
    type.__setattr__(peft.PeftType, "NOVEL_TYPE", member)
    monkeypatch.setitem(mapping.PEFT_TYPE_TO_CONFIG_MAPPING, member, NovelConfig)
    monkeypatch.setitem(mapping.PEFT_TYPE_TO_TUNER_MAPPING, member, NovelModel)
    monkeypatch.setitem(mapping.PEFT_TYPE_TO_PREFIX_MAPPING, member, "hada_")
    yield member
    type.__delattr__(peft.PeftType, "NOVEL_TYPE")


def test_it_is_named_beside_the_list_and_found_by_its_name(novel):
    title = f"peft {peft.__version__}"
    assert "novel-type" in discovery.further(discovery.entries())[title]
    assert "novel-type" not in ftplug.methods()
    entry = discovery.entry("novel-type")
    assert (entry.distribution, entry.load().name) == ("ftplug", "novel-type")


def test_its_settings_are_what_peft_declares(novel):
    cls = discovery.entry("novel-type").load()
    rows = {row.name: row for row in cls.describe()}
    assert (rows["scale"].type, rows["scale"].default) == ("float", 0.5)
    assert rows["scale"].help == "How far it goes."
    assert rows["r"].default == 8
    assert cls.summary().endswith("not tested with ftplug; not settable here: hook.")
    with pytest.raises(MethodError, match="novel-type: no setting named 'scales'; did you mean"):
        cls.configure({"scales": 1.0})


def test_it_trains_saves_and_loads(novel, tmp_path):
    base = tiny.bert()
    run = trainer(copy.deepcopy(base), tmp_path / "run", max_steps=3)
    ftplug.attach(run, "novel-type", r=4)
    before = weights(run.model)
    run.train()
    moved = {n for n, value in weights(run.model).items() if not torch.equal(value, before[n])}
    assert all(".hada_" in name or name.startswith("classifier.") for name in moved)
    assert any(".hada_w1_a." in name for name in moved)
    run.save_model(tmp_path / "artifact")
    manifest = json.loads((tmp_path / "artifact" / "ftplug.json").read_text())
    assert manifest["methods"][0]["name"] == "novel-type"
    assert manifest["methods"][0]["distribution"] == "ftplug"
    again = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(again), logits(run.model))
    with ftplug.disabled(again):
        assert torch.equal(logits(again), logits(base))


def test_a_setting_of_it_reaches_peft(novel):
    model = ftplug.apply(tiny.bert(), "novel-type", r=4, scale=0.25)
    assert (model.peft_config["default"].r, model.peft_config["default"].scale) == (4, 0.25)


def test_virtual_tokens_that_nobody_knows_are_refused(novel, monkeypatch):
    monkeypatch.setitem(mapping.PEFT_TYPE_TO_CONFIG_MAPPING, novel, NovelPromptConfig)
    with pytest.raises(MethodError, match="novel-type: it trains virtual tokens, and what peft"):
        ftplug.apply(tiny.bert(), "novel-type", num_virtual_tokens=4)


def test_a_type_without_layers_is_refused(novel, monkeypatch):
    monkeypatch.delitem(mapping.PEFT_TYPE_TO_TUNER_MAPPING, novel)
    with pytest.raises(MethodError, match="novel-type: peft declares no kind of layer"):
        ftplug.apply(tiny.bert(), "novel-type")


# Random projections, a basis of all layers, indices in plain dictionaries, buffers left out.
KEEPS = {
    "fourierft": {"n_frequency": 20},
    "frod": {},
    "osf": {},
    "shira": {"r": 4},
    "unilora": {},
    "vera": {"r": 8},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", KEEPS)
def test_types_that_are_known_load_equal_from_their_config_class_alone(
    method, monkeypatch, tmp_path
):
    kind = family.types()[method]["type"]
    recorded = {k: v for k, v in versions.recorded().items() if k != kind}
    monkeypatch.setattr(versions, "recorded", lambda: recorded)
    entries = {n: e for n, e in discovery.entries().items() if n != method}
    monkeypatch.setattr(discovery, "entries", lambda: dict(entries))
    base = tiny.bert()
    model = shake(ftplug.apply(copy.deepcopy(base), method, **KEEPS[method]))
    assert issubclass(discovery.entry(method).load(), unlisted.Declared)
    ftplug.save(model, tmp_path)
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_it_resumes_bit_equal(novel):
    checks.resume_is_bit_equal(Case("novel-type", "bert"))


@pytest.mark.filterwarnings("ignore:Bone will be removed:UserWarning")  # peft 0.18's own
def test_what_this_peft_has_beyond_the_list_saves_and_loads(tmp_path):
    for name in unlisted.names():
        base = tiny.bert()
        model = shake(ftplug.apply(copy.deepcopy(base), name))
        ftplug.save(model, tmp_path / name)
        again = ftplug.load(copy.deepcopy(base), tmp_path / name)
        assert torch.equal(logits(again), logits(model)), name


def test_peft_is_asked_for_its_names_where_its_list_cannot_be_read(monkeypatch):
    monkeypatch.setattr(versions, "_listed_in_source", frozenset)
    monkeypatch.setitem(sys.modules, "peft.mapping", None)
    monkeypatch.setattr(versions, "configs", lambda: {"LORA": 1, "STRANGE_TYPE": 2})
    assert list(unlisted.names()) == ["strange-type"]
