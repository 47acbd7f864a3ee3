"""What the host promises of every method beside the contract (tests/plugins/test_contract.py)."""

import copy
import shutil

import pytest
import tiny
import torch
from runs import METHODS, logits, shake

import ftplug
from ftplug.attaching.attachment import require_attachment

FAMILIES = {
    "bert": lambda: tiny.bert(),
    "bert-token": lambda: tiny.bert("TokenClassification"),
    "llama": lambda: tiny.llama(),
    "t5": lambda: tiny.t5(),
    "vit": lambda: tiny.vit(),
}
UNFIT = {("prefix-tuning", "vit"), ("prompt-tuning", "vit")}

cases = pytest.mark.parametrize(
    ("method", "family"),
    [(m, f) for m in METHODS for f in FAMILIES if (m, f) not in UNFIT],
)


def prepared(method, family):
    base = FAMILIES[family]()
    return base, ftplug.apply(copy.deepcopy(base), method, **METHODS[method])


@cases
def test_a_cast_base_still_loads(method, family, tmp_path):
    base, model = prepared(method, family)
    ftplug.save(shake(model), tmp_path / "artifact")
    for dtype in (torch.bfloat16, torch.float16):
        loaded = ftplug.load(copy.deepcopy(base).to(dtype), tmp_path / "artifact")
        assert require_attachment(loaded).base.fingerprint is not None
    other = FAMILIES[family]()
    shake(other)
    with pytest.raises(ftplug.ArtifactError, match="this base is"):
        ftplug.load(other, tmp_path / "artifact")


@pytest.mark.parametrize("method", METHODS)
def test_disabled_reads_a_checkpoint_again_instead_of_keeping_a_copy(method, tmp_path):
    from transformers import BertForSequenceClassification

    tiny.bert("Model").save_pretrained(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base").eval()
    expected = logits(model)
    ftplug.apply(model, method, **METHODS[method])
    kept = require_attachment(model).original_values.kept
    assert set(kept) <= {"classifier.weight", "classifier.bias"}
    shake(model)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("named", ["somebody/a-model", None])
def test_disabled_keeps_the_values_of_a_base_that_is_not_on_this_machine(named, tmp_path):
    from transformers import BertForSequenceClassification

    tiny.bert("Model").save_pretrained(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base").eval()
    shutil.rmtree(tmp_path / "base")
    model.config._name_or_path = named or model.config._name_or_path
    expected = logits(model)
    ftplug.apply(model, "full")
    shake(model)
    assert not torch.equal(logits(model), expected)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), expected)


def test_disabled_refuses_a_base_that_was_changed_before_it_was_attached(tmp_path):
    from transformers import BertForSequenceClassification

    tiny.bert("Model").save_pretrained(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    shake(model)
    ftplug.apply(model, "full")
    with pytest.raises(ftplug.MethodError, match="changed before"), ftplug.disabled(model):
        pass


@pytest.mark.parametrize("method", METHODS)
def test_disabled_nests(method):
    base, model = prepared(method, "bert")
    shake(model)
    trained = logits(model)
    with ftplug.disabled(model):
        with ftplug.disabled(model):
            assert torch.equal(logits(model), logits(base))
        assert torch.equal(logits(model), logits(base))
    assert torch.equal(logits(model), trained)


def test_disabled_is_the_base_within_autocast_too():
    base, model = prepared("full", "bert")
    shake(model)
    with torch.autocast("cpu", torch.bfloat16):  # which keeps casts of the weights that it met
        expected, trained = model_logits(base), model_logits(model)
        with ftplug.disabled(model):
            assert torch.equal(model_logits(model), expected)
        assert torch.equal(model_logits(model), trained)
    assert not torch.equal(trained, expected)


def model_logits(model):
    return model(**tiny.inputs(model)).logits.detach()


def test_disabled_draws_nothing_from_the_users_generator(tmp_path):
    from transformers import BertForSequenceClassification

    tiny.bert("Model").save_pretrained(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    ftplug.apply(model, "full")
    state = torch.get_rng_state()
    with ftplug.disabled(model):
        pass
    assert torch.equal(torch.get_rng_state(), state)


def test_merging_into_tied_weights_is_refused():
    model = tiny.gpt2()
    with pytest.warns(UserWarning, match="ensure_weight_tying"):  # peft's own
        ftplug.apply(model, "lora", target_modules=["lm_head"])
    shake(model)
    before = logits(model)
    with pytest.raises(ftplug.MethodError, match="shares its weight with another layer"):
        ftplug.merge(model)
    assert torch.equal(logits(model), before)
