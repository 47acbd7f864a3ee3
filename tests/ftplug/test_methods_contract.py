"""What every method promises, on every method found: disabled, deepcopy, save and load, bounds."""

import copy

import pytest
import tiny
import torch
from runs import METHODS, logits, same, shake, weights

import ftplug
from ftplug.attachment import require_attachment

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


@pytest.mark.parametrize(("method", "family"), sorted(UNFIT))
def test_what_does_not_fit_says_so(method, family):
    with pytest.raises(ftplug.MethodError, match=method) as caught:
        ftplug.apply(FAMILIES[family](), method, **METHODS[method])
    assert "\n" not in str(caught.value)


@cases
def test_every_trainable_tensor_moves_and_no_other(method, family):
    _, model = prepared(method, family)
    before = weights(model)
    model.train()
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        model(**tiny.inputs(model, seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = weights(model)
    # A key's bias shifts all scores of a row alike: softmax leaves it without a gradient.
    still = [n for n in names if n in after and torch.equal(before[n], after[n])]
    assert [n for n in still if not n.endswith("key.bias")] == []
    tied = {"lm_head.weight", "shared.weight", "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight"} if method == "full" else set()  # fmt: skip
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved - set(names) - tied == set()


@cases
def test_disabled_is_the_base_exactly(method, family):
    base, model = prepared(method, family)
    shake(model)
    trained = logits(model)
    requires = [p.requires_grad for p in model.parameters()]
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))
    assert torch.equal(logits(model), trained)
    assert not torch.allclose(trained, logits(base))
    assert [p.requires_grad for p in model.parameters()] == requires


@cases
def test_a_deepcopy_is_independent(method, family):
    _, model = prepared(method, family)
    twin, before = copy.deepcopy(model), logits(model)
    shake(twin)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(logits(twin), before)
    shake(model)
    assert torch.equal(logits(model), logits(twin))  # the same shake: equal again


@cases
def test_saved_and_loaded_gives_equal_logits(method, family, tmp_path):
    base, model = prepared(method, family)
    shake(model)
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(loaded), logits(model))
    again = ftplug.save(loaded, tmp_path / "again")
    for file in (tmp_path / "artifact").iterdir():
        if file.suffix == ".safetensors":
            assert (again / file.name).read_bytes() == file.read_bytes()


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


@pytest.mark.parametrize("method", ["full", "freeze", "lora"])
def test_merged_equals_the_forward(method):
    base, model = prepared(method, "bert")
    shake(model)
    expected = logits(model)
    plain = ftplug.merge(model)
    assert torch.allclose(logits(plain), expected, atol=1e-5)
    assert weights(plain).keys() == weights(base).keys()


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning", "bottleneck"])
def test_what_cannot_be_merged_says_so_and_stays(method):
    _, model = prepared(method, "bert")
    before = weights(model)
    with pytest.raises(ftplug.MethodError, match=f"{method}: what it adds cannot be folded"):
        ftplug.merge(model)
    assert same(weights(model), before)
