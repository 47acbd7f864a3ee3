"""Asking a model leaves it as it was; asked twice it says the same, to the last bit."""

import random

import numpy as np
import pytest
import tiny
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import ftplug
from ftplug.attaching.attachment import attachment_of
from ftplug.effect.answers import ask, ask_as, make_probe
from ftplug.effect.inputs import inputs_for
from ftplug.effect.sampling import sample
from ftplug.effect.tokens import PROMPTS
from ftplug.errors import NotProbed


@pytest.fixture(scope="module")
def tokenizer():
    """Return a tokenizer of whole words: those of the prompts, and numbers for the others."""
    words = dict.fromkeys(word for text in PROMPTS for word in text.split())
    known = {word: index for index, word in enumerate(["[UNK]", "<s>", "</s>", *words])}
    known |= {str(index): index for index in range(len(known), tiny.VOCAB)}
    inner = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )


def state(model):
    """Return everything about a model and the process that asking could change."""
    tensors = {n: t.clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    modules = [
        (name, id(module), type(module), module.training, sorted(vars(module)))
        for name, module in model.named_modules()
    ]
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in model.modules()
    ]
    plain = [
        {k: v for k, v in vars(m).items() if isinstance(v, bool | int | str | float)}
        for m in model.modules()
    ]
    needs = [p.requires_grad for p in model.parameters()]
    return tensors, (
        *(modules, hooks, plain, needs, random.getstate(), repr(np.random.get_state())),
        *(torch.get_rng_state().tolist(), model.config.to_dict()),
        repr(getattr(model, "generation_config", None)),
    )


def unchanged(before, now):
    assert before[1] == now[1]
    assert before[0].keys() == now[0].keys()
    assert all(before[0][name].equal(now[0][name]) for name in before[0])


def answers(raws):
    return [raw.answers | {"next": raw.next_token} for raw in raws]


def assert_equal(first, second):
    for a, b in zip(answers(first), answers(second), strict=True):
        assert a.keys() == b.keys()
        assert all(a[k] is b[k] is None or a[k].equal(b[k]) for k in a)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_asking_leaves_no_trace_and_is_the_same_twice(family, training, tokenizer):
    model = tiny.FAMILIES[family](dropout=0.5).train(training)
    before = state(model)
    inputs = inputs_for(model, None, tokenizer)
    unchanged(before, state(model))
    first = ask(model, inputs)
    unchanged(before, state(model))
    torch.manual_seed(5)
    assert_equal(ask(model, inputs), first)


def test_an_attention_that_a_short_text_exchanges_is_put_back():
    config = transformers.BigBirdConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, block_size=4, num_random_blocks=1, max_position_embeddings=128,
    )  # fmt: skip
    model = transformers.BigBirdModel(config)
    before = state(model)
    ask(model, inputs_for(model, None))
    unchanged(before, state(model))
    assert model.attention_type == "block_sparse"


def test_hooks_that_transformers_sets_at_a_first_question_do_not_stay():
    model = tiny.llama()
    before = state(model)

    class Curious(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask):
            given = {"input_ids": input_ids, "attention_mask": attention_mask}
            return self.inner(**given, output_hidden_states=True)

    ask(Curious(), inputs_for(model, None), continuations=False)
    unchanged(before, state(model))


def test_a_users_hooks_stay():
    model, seen = tiny.bert(), []
    model.bert.register_forward_hook(lambda *_: seen.append(1))
    before = state(model)
    ask(model, inputs_for(model, None))
    unchanged(before, state(model))
    assert seen


@pytest.mark.parametrize("method", ["lora", "prefix-tuning", "bottleneck", "reft"])
def test_training_is_the_same_with_and_without_the_questions(method):
    def trained(*, asked):
        torch.manual_seed(3)
        model = ftplug.apply(tiny.llama(dropout=0.1), method).train()
        optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        for step in range(4):
            if asked and step in (0, 2):
                ask(model, inputs_for(model, attachment_of(model)))
            model(**tiny.inputs(model, seed=step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return dict(model.named_parameters())

    with_questions, without = trained(asked=True), trained(asked=False)
    assert all(without[name].equal(value) for name, value in with_questions.items())


def test_random_numbers_of_a_forward_are_always_the_same_ones():
    class Noisy(transformers.BertModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.pooler_output = output.pooler_output + torch.randn(32) + np.random.rand()
            return output

    model = Noisy(tiny.bert().config)
    inputs = inputs_for(model, None)
    first = ask(model, inputs)
    torch.manual_seed(9)
    assert_equal(ask(model, inputs), first)


def test_a_text_is_gone_on_with_as_far_as_it_goes(tokenizer):
    model = tiny.llama()
    inputs = inputs_for(model, None, tokenizer)
    assert [each.text for each in inputs] == [None] * 8 + list(PROMPTS)
    raws = ask(model, inputs)
    assert all(raw.continuation is None for raw in raws[:8])
    for given, raw in zip(inputs[8:], raws[8:], strict=True):
        ids = given.stored["input_ids"]
        alone = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False)[0]
        written = tuple(alone[ids.shape[1] :].tolist())
        assert raw.continuation == written
        assert len(written) == 16 or written[-1] == model.config.eos_token_id
    model.generation_config.eos_token_id = written[1]
    last = ask(model, inputs)[-1].continuation
    assert last == written[: written.index(written[1]) + 1]


def test_continuations_are_spelled_in_the_probe(tokenizer):
    model = tiny.llama()
    inputs = inputs_for(model, None, tokenizer)
    base = ask(model, inputs)
    probe = make_probe(inputs, base, base, base, dtype="float32", tokenizer=tokenizer)
    assert [each.input for each in probe.continuations] == list(range(8, 16))
    for each in probe.continuations:
        assert each.trained == each.base
        spelled = tokenizer.decode(each.trained, skip_special_tokens=True)
        assert each.trained_text == each.base_text == spelled


def test_the_tokens_are_the_likeliest_of_base_and_trained():
    model = ftplug.apply(tiny.llama(), "lora")
    inputs = inputs_for(model, attachment_of(model))
    base = ask(model, inputs)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    trained = ask(model, inputs)
    probe = make_probe(inputs, base, trained, base, dtype="float32")
    for index, ids in enumerate(probe.token_ids):
        tops = [set(raws[index].next_token.topk(20).indices.tolist()) for raws in (base, trained)]
        assert set(ids.tolist()) == set.union(*tops)
        assert probe.trained[index]["log_probs"].equal(trained[index].next_token[ids])
        assert probe.base[index]["log_probs"].equal(base[index].next_token[ids])
    for now, then in zip(ask_as(model, probe), probe.trained, strict=True):
        assert all(now[kind].equal(then[kind]) for kind in then)
    with ftplug.disabled(model):
        for now, then in zip(ask_as(model, probe), probe.base, strict=True):
            assert all(now[kind].equal(then[kind]) for kind in then)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning"])
def test_virtual_tokens_leave_the_answers_their_places(family, method):
    model = ftplug.apply(tiny.FAMILIES[family](), method)
    inputs = inputs_for(model, attachment_of(model))
    with ftplug.disabled(model):
        base = ask(model, inputs)
    for raw, without in zip(ask(model, inputs), base, strict=True):
        assert {k: len(v) for k, v in raw.answers.items()} == {
            k: len(v) for k, v in without.answers.items()
        }
        assert not raw.answers["logits"].equal(without.answers["logits"])


def test_answers_that_are_no_numbers_are_no_probe_but_an_answer_of_a_loaded_model():
    model = tiny.bert()
    inputs = inputs_for(model, None)
    base = ask(model, inputs)
    probe = make_probe(inputs, base, base, base, dtype="float32")
    with torch.no_grad():
        model.classifier.weight.fill_(torch.inf)
    with pytest.raises(NotProbed, match="NaN or infinite"):
        ask(model, inputs)
    assert not ask_as(model, probe)[0]["logits"].isfinite().all()


def test_a_forward_that_fails_is_said_in_one_line():
    model = tiny.bert()
    inputs = inputs_for(model, None)
    del model.bert.encoder
    with pytest.raises(NotProbed, match="does not answer the probe's inputs") as refusal:
        ask(model, inputs)
    assert "\n" not in str(refusal.value)


def test_a_sample_is_the_same_everywhere_and_has_the_asked_columns():
    logits = torch.arange(10 * 5000.0).reshape(1, 10, 5000)
    found = sample(logits, torch.tensor([[17, 4000, 9999]]))
    assert found.tolist()[:2] == [9 * 5000 + 17, 9 * 5000 + 4000]
    assert len(found) == 64
    assert found.equal(sample(logits, torch.tensor([[17, 4000, 9999]])))
    rows = sample(torch.arange(90.0).reshape(1, 30, 3))
    assert rows.view(-1, 3).diff(dim=1).eq(1).all()
    assert rows[-1] == 89
    assert sample(torch.arange(5.0)).tolist() == [0, 1, 2, 3, 4]
