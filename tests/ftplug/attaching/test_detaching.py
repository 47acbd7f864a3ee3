"""ftplug.detach on a model: the base is there again, to the last bit, or it says why not."""

import copy
import gc
import pickle
import weakref

import peft
import pytest
import tiny
import torch
from runs import METHODS, same, shake, weights
from torch import nn
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

import ftplug
from ftplug import Method, MethodError, hookimpl
from ftplug.attaching.attachment import attachment_of
from ftplug.attaching.original_values import OriginalValues
from ftplug.inplace import is_wrapped
from ftplug.testing import checks
from ftplug.testing.case import Case
from ftplug.testing.compare import logits

TYPES = {"bitfit": {}, "layernorm": {}, "reft": {}, "pissa": {"r": 4}} | METHODS


def picture(model):
    return [
        (name, type(module), sorted(vars(module)), module.training, len(module._forward_hooks))
        for name, module in model.named_modules()
    ]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def trains(model):
    return [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]


def is_same_state(first, second):
    return list(first) == list(second) and all(first[n].equal(second[n]) for n in first)


def as_it_was(model, do):
    """Do something to a model and detach it: it is what it was, in every respect."""
    shown, values, answers, train = picture(model), state(model), logits(model), trains(model)
    objects = {name: id(value) for name, value in model.named_parameters()}
    do(model)
    assert ftplug.detach(model) is model
    assert attachment_of(model) is None
    assert picture(model) == shown
    assert is_same_state(state(model), values)
    assert logits(model).equal(answers)
    assert trains(model) == train
    assert {name: id(value) for name, value in model.named_parameters()} == objects
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())


def trained(*methods, **settings):
    def do(model):
        ftplug.apply(model, *methods, **settings)
        losses(model)
        assert not logits(model).equal(logits(tiny.bert()))

    return do


def losses(model, steps=3):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    found = []
    model.train()
    for _ in range(steps):
        loss = model(**tiny.inputs(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    model.eval()
    return found


@pytest.mark.parametrize("method", TYPES)
def test_a_trained_model_is_the_base_again(method):
    as_it_was(tiny.bert(), trained(method, **TYPES[method]))


def test_so_is_one_with_several_methods_and_frozen_parts_of_its_own():
    model = tiny.bert().train()
    model.bert.embeddings.requires_grad_(False)
    model.bert.pooler.register_forward_hook(lambda *_: None)
    settings = {"lora.r": 4}

    def do(model):
        ftplug.apply(model, "lora", "bitfit", "l2-sp", **settings)
        losses(model)

    as_it_was(model, do)


def test_before_it_trained_and_after_a_load(tmp_path):
    as_it_was(tiny.bert(), lambda model: ftplug.apply(model, "lora", r=4))
    ftplug.save(shake(ftplug.apply(tiny.bert(), "lora", "bitfit")), tmp_path / "artifact")
    as_it_was(tiny.bert().train(), lambda model: ftplug.load(model, tmp_path / "artifact"))


def test_a_detached_model_is_copied_pickled_and_saved_as_a_plain_one(tmp_path):
    model = tiny.bert()
    model.save_pretrained(tmp_path / "plain")
    ftplug.detach(shake(ftplug.apply(model, "lora", "bottleneck", "full")))
    model.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert same(weights(pickle.loads(pickle.dumps(model))), weights(model))
    assert same(weights(copy.deepcopy(model)), weights(model))
    model.add_adapter  # noqa: B018 - transformers' own, no refusal of ours
    assert not any(name in vars(model) for name in ("save_pretrained", "load_state_dict"))


def test_another_method_trains_as_on_a_fresh_base():
    model = tiny.bert()
    ftplug.apply(model, "bottleneck")
    losses(model)
    ftplug.apply(ftplug.detach(model), "lora", r=4)
    expected = losses(ftplug.apply(tiny.bert(), "lora", r=4))
    assert losses(model) == expected


def test_a_copy_is_detached_by_itself():
    model = ftplug.apply(tiny.bert(), "full")
    shake(model)
    answers, twin = logits(model), copy.deepcopy(model)
    as_given = weights(tiny.bert())
    assert same(weights(ftplug.detach(twin)), as_given)
    assert logits(model).equal(answers)
    losses(twin)  # what it learns now reaches no value that the other one remembers
    assert same(weights(ftplug.detach(model)), as_given)


def test_who_kept_the_trained_tensors_has_them_still():
    model = shake(ftplug.apply(tiny.bert(), "full"))
    kept, expected = model.state_dict(), state(model)
    ftplug.detach(model)
    assert is_same_state(kept, expected)


def test_what_others_did_meanwhile_stays():
    model = ftplug.apply(tiny.bert(), "lora", "prompt-tuning")
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append("called"))
    model.note = "mine"
    model.double()
    ftplug.detach(model)
    logits(model)
    assert seen == ["called"]
    assert model.note == "mine"
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    handle.remove()
    assert logits(model).equal(logits(tiny.bert().double()))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    tiny.bert().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def loaded(folder, **options):
    """Return a model whose head is fresh: of the checkpoint's labels there are others."""
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=5, ignore_mismatched_sizes=True, **options
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["full", "bitfit", "lora", "layernorm"])
def test_what_a_checkpoint_holds_is_read_again_and_a_fresh_head_kept(folder, method, dtype):
    model = loaded(folder, dtype=dtype)
    generator = torch.get_rng_state()

    def do(model):
        shake(ftplug.apply(model, method))
        attached = attachment_of(model)
        assert set(attached.base.fresh) == {"classifier.weight", "classifier.bias"}
        assert bool(attached.original_values.elsewhere) == (method != "lora")

    as_it_was(model, do)
    assert torch.get_rng_state().equal(generator)
    ftplug.apply(model, "full")  # the marks of what was read are there, too
    assert set(attachment_of(model).base.fresh) == {"classifier.weight", "classifier.bias"}


def refused(model, match, **options):
    """Return nothing: the model carries its methods as before."""
    before, answers, shown = weights(model), logits(model), picture(model)
    with pytest.raises(MethodError, match=match) as said:
        ftplug.detach(model, **options)
    assert "\n" not in str(said.value)
    assert same(before, weights(model))
    assert logits(model).equal(answers)
    assert picture(model) == shown


def test_values_that_the_checkpoint_does_not_give_exactly_are_refused(folder):
    model = loaded(folder)
    model.bfloat16().float()  # ftplug.disabled takes it for the same base
    shake(ftplug.apply(model, "full"))
    with ftplug.disabled(model):
        pass
    refused(model, r"began as other values than .* in float32 .*load the base again")


def test_a_checkpoint_that_is_gone_or_another_is_refused(folder):
    model = shake(ftplug.apply(loaded(folder), "full"))
    (folder / "model.safetensors").rename(folder / "elsewhere")
    refused(model, "cannot read the base again")
    shake(tiny.bert()).save_pretrained(folder)
    refused(model, "its weights were changed before")
    (folder / "elsewhere").rename(folder / "model.safetensors")
    ftplug.detach(model)


def test_a_merged_model_a_plain_one_and_another_time_are_refused():
    model = ftplug.merge(shake(ftplug.apply(tiny.bert(), "lora")))
    refused(model, "was merged: its own weights hold what was learned")
    ftplug.detach(ftplug.apply(model, "lora"))  # the merged model is the base of that
    refused(model, "carries no ftplug method")
    refused(tiny.bert(), "carries no ftplug method")
    for other in (None, "model", tiny.bert):
        with pytest.raises(MethodError, match="give it a model or a Trainer"):
            ftplug.detach(other)


def test_a_wrapped_or_compiled_model_is_refused():
    model = ftplug.apply(tiny.bert(), "lora")
    with pytest.raises(MethodError, match=r"the BertForSequenceC\w+ inside of this DataParallel"):
        ftplug.detach(nn.DataParallel(model))
    with pytest.raises(MethodError, match="inside of this OptimizedModule"):
        ftplug.detach(torch.compile(model, backend="eager"))
    model.compile(backend="eager")
    with pytest.raises(MethodError, match="compiled"):
        ftplug.detach(model)


def test_a_part_that_another_model_trains_too_is_refused():
    first, second = tiny.bert(), tiny.bert("TokenClassification")
    second.bert = first.bert
    ftplug.apply(first, "bitfit")
    ftplug.apply(second, "bitfit")
    refused(shake(first), r"bert\S* is shared with a BertForTokenClassification")


def exchange(model):
    model.bert.pooler.dense = nn.Linear(32, 32)


def own_forward(model):
    wrapped = next(module for module in model.modules() if is_wrapped(module))
    wrapped.forward = wrapped.forward


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (exchange, r"bert\.pooler\.dense was replaced since lora \+ bottleneck"),
        (own_forward, r"bert\.encoder\S* runs another forward since"),
    ],
)
def test_what_somebody_changed_where_a_method_had_is_refused(change, match):
    settings = {"lora.target_modules": ("pooler.dense",), "bottleneck.placement": "parallel"}
    model = ftplug.apply(tiny.bert(), "lora", "bottleneck", **settings)
    change(model)
    refused(model, match)


class Writing(Method):
    """Writes over a frozen weight: no hook says what it was."""

    name = "writing"
    kind = "selection"

    @hookimpl
    def select_trainable(self, model):
        return ["classifier.weight"]

    @hookimpl
    def finish_model(self, model):
        model.bert.pooler.dense.weight.data.mul_(2)


class Exchanging(Method):
    """Replaces a weight by another parameter, moves one out of its module, and hooks in."""

    name = "exchanging"

    @hookimpl
    def prepare_model(self, model):
        pooler = model.bert.pooler
        model.bert.pooler = nn.Sequential(pooler.dense, nn.Tanh())
        model.bert.pooler[0].weight = nn.Parameter(2 * pooler.dense.weight.detach())
        model.bert.pooler[0].register_forward_hook(lambda *_: None)
        model.bert.embeddings.register_buffer("position_ids", torch.zeros(1, 8, dtype=torch.long))
        model.config.method_of_a_stranger = {"r": 4}
        model.classifier.extra = nn.Parameter(torch.ones(3))
        model.classifier.__class__ = type("Other", (nn.Linear,), {})

    @hookimpl
    def select_trainable(self, model):
        return ["classifier.extra"]


def test_what_a_strangers_method_writes_over_is_refused():
    refused(ftplug.apply(tiny.bert(), Writing()), "that writing does not train are no longer")


@pytest.mark.filterwarnings("ignore")
def test_what_a_strangers_method_exchanges_is_given_back(folder):
    for model in (tiny.bert(), loaded(folder)):
        shown, values, answers = picture(model), state(model), logits(model)
        settings = sorted(vars(model.config))
        pooler = model.bert.pooler
        ftplug.apply(model, Exchanging())
        shake(model)
        twin = copy.deepcopy(model)
        for one in (model, twin):
            ftplug.detach(one)
            assert picture(one) == shown
            assert is_same_state(state(one), values)
            assert logits(one).equal(answers)
            assert sorted(vars(one.config)) == settings
        assert pooler.dense.weight is not twin.bert.pooler.dense.weight


def test_a_weight_that_left_the_model_is_kept_where_no_checkpoint_has_it(folder):
    kept = {name: known.value is not None for name, known in lost(tiny.bert()).items()}
    assert kept == {"bert.pooler.dense.weight": True}
    kept = {name: known.value is not None for name, known in lost(loaded(folder)).items()}
    assert kept == {"bert.pooler.dense.weight": False}


def lost(model):
    return vars(ftplug.apply(model, Exchanging()))["_ftplug_undo"].lost


def test_the_check_of_the_kit_finds_what_is_left(tmp_path):
    with pytest.raises(AssertionError, match=r"cannot be taken off.*are no longer"):
        checks.detaches(Case(Writing, "bert"))


def test_values_for_disabled_are_read_once_and_are_the_same(folder):
    model = shake(ftplug.apply(loaded(folder), "full"))
    with ftplug.disabled(model):
        expected = weights(model)
    again = pytest.MonkeyPatch()
    again.setattr(OriginalValues, "_base_again", None)
    ftplug.detach(model)
    again.undo()
    assert same(weights(model), expected)


def test_memory_of_the_base_is_not_held_on_to():
    """FSDP puts shards in the place of parameters, and the whole ones must go."""
    model = ftplug.apply(tiny.bert(), "lora", "bottleneck", "prompt-tuning")
    gone = [weakref.ref(parameter) for parameter in model.parameters()]
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone()))
    del module, parameter
    gc.collect()
    assert sum(reference() is not None for reference in gone) == 0


def test_tied_weights_stay_tied():
    model = tiny.llama(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    as_it_was_llama = weights(model)
    shake(ftplug.apply(model, "full"))
    ftplug.detach(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert same(weights(model), as_it_was_llama)


@pytest.mark.filterwarnings("ignore")
def test_qlora_gives_the_full_weights_back(tmp_path):
    pytest.importorskip("bitsandbytes", reason="pip install 'ftplug[qlora]'")
    tiny.bert().save_pretrained(tmp_path)
    for model in (tiny.bert(), BertForSequenceClassification.from_pretrained(tmp_path)):
        shown, values, answers = picture(model), state(model), logits(model)
        shake(ftplug.apply(model, "qlora"))
        kept = [known.value for known in vars(model)["_ftplug_undo"].lost.values()]
        assert kept
        assert all((value is None) == bool(model.config._name_or_path) for value in kept)
        ftplug.detach(model)
        assert picture(model) == shown
        assert is_same_state(state(model), values)
        assert logits(model).equal(answers)
        ftplug.apply(model, "full")


def test_what_carries_no_method_itself_says_where_there_is_one():
    model = ftplug.apply(tiny.bert(), "lora")
    with pytest.raises(MethodError, match=r"BertModel is a part of a BertFor.* that carries lora"):
        ftplug.detach(model.bert)
    with pytest.raises(MethodError, match="0 of this Sequential carries lora: give detach that"):
        ftplug.detach(nn.Sequential(model))
    adapted = peft.get_peft_model(tiny.bert(), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(MethodError, match=r"carries an adapter that peft put there.*unload"):
        ftplug.detach(adapted)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_within_disabled_nothing_is_taken_for_trained(method, tmp_path):
    model = shake(ftplug.apply(tiny.bert(), method))
    answers, twin = logits(model), copy.deepcopy(model)
    doing = {
        "detach": lambda: ftplug.detach(model),
        "merge": lambda: ftplug.merge(model),
        "save": lambda: ftplug.save(model, tmp_path / "artifact"),
    }
    for name, do in doing.items():
        with ftplug.disabled(model), ftplug.disabled(model):
            with pytest.raises(MethodError, match=f"^{name}: this BertFor.* is disabled"):
                do()
            ftplug.save(twin, tmp_path / name, probe=False)  # another model's is no matter
        assert logits(model).equal(answers)
    assert not (tmp_path / "artifact").exists()
    assert logits(ftplug.load(tiny.bert(), ftplug.save(model, tmp_path / "a"))).equal(answers)
    ftplug.detach(model)
