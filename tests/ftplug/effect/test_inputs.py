"""A probe's inputs: for every kind of model, nobody's data, and such that methods act on them."""

import itertools

import pytest
import tiny
import torch
import transformers

import ftplug
from ftplug.attaching.attachment import attachment_of
from ftplug.effect.answers import ask
from ftplug.effect.inputs import inputs_for, materialized
from ftplug.effect.pieces import Drawn, Input
from ftplug.errors import NotProbed, NotReplayable

TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def llava():
    text, vision = {"model_type": "llama"} | TEXT, {"model_type": "clip_vision_model"} | VIT
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=100)
    return transformers.LlavaForConditionalGeneration(config)


def qwen2_vl():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {"embed_dim": 32, "depth": 2, "num_heads": 4, "hidden_size": 32, "patch_size": 8}
    config = transformers.Qwen2VLConfig(
        text_config=TEXT | {"rope_parameters": rope},
        vision_config=vision | {"mlp_ratio": 2},
        image_token_id=100,
        video_token_id=101,
        vision_start_token_id=102,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def idefics3():
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama"} | TEXT,
        vision_config=VIT,
        image_token_id=100,
        scale_factor=2,
    )
    return transformers.Idefics3ForConditionalGeneration(config)


def clip():
    config = transformers.CLIPConfig(
        text_config=TEXT | {"projection_dim": 32},
        vision_config=VIT | {"projection_dim": 32},
        projection_dim=32,
    )
    return transformers.CLIPModel(config)


def whisper():
    config = transformers.WhisperConfig(
        vocab_size=128,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=16,
        max_source_positions=40,
        max_target_positions=40,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperForConditionalGeneration(config)


def wav2vec2():
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(32, 32),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        vocab_size=40,
        num_labels=3,
    )
    return transformers.Wav2Vec2ForSequenceClassification(config)


def layoutlm():
    text = {name: value for name, value in TEXT.items() if name != "num_key_value_heads"}
    return transformers.LayoutLMForTokenClassification(transformers.LayoutLMConfig(**text))


def choice():
    return tiny.bert("MultipleChoice")


MODELS = {
    **tiny.FAMILIES,
    "llava": llava,
    "qwen2-vl": qwen2_vl,
    "idefics3": idefics3,
    "clip": clip,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "layoutlm": layoutlm,
    "multiple-choice": choice,
}
READS = {
    "llava": {"input_ids", "pixel_values"},
    "qwen2-vl": {"input_ids", "pixel_values", "image_grid_thw"},
    "idefics3": {"input_ids", "pixel_values"},
    "clip": {"input_ids", "pixel_values"},
    "whisper": {"input_features", "decoder_input_ids"},
    "wav2vec2": {"input_values"},
    "layoutlm": {"input_ids", "bbox", "token_type_ids"},
    "vit": {"pixel_values"},
    "t5": {"input_ids", "decoder_input_ids"},
    "bert": {"input_ids", "attention_mask", "token_type_ids"},
}


def equal(first, second):
    """Whether two tuples of inputs are the same."""
    return len(first) == len(second) and all(
        a.drawn == b.drawn
        and a.text == b.text
        and a.stored.keys() == b.stored.keys()
        and all(a.stored[name].equal(b.stored[name]) for name in a.stored)
        for a, b in zip(first, second, strict=True)
    )


def modules_that_ran(model, inputs):
    """Return the modules of the model that hold tensors: those that run, and all."""
    owners = {n for n, m in model.named_modules() if list(m.parameters(recurse=False))}
    ran, hooks = set(), []
    for name in owners:
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: ran.add(name)))
    ask(model, inputs, continuations=False)
    for hook in hooks:
        hook.remove()
    return ran, owners


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_gets_eight_inputs_that_run_all_of_its_towers(name):
    model = MODELS[name]().eval()
    inputs = inputs_for(model, None)
    assert len(inputs) == 8
    assert READS.get(name, set()) <= {*inputs[0].stored, *inputs[0].drawn}
    ran, owners = modules_that_ran(model, inputs)
    # Read by others: the position embedding is a table, an expert may wait for its token.
    assert {n for n in owners - ran if "bias" not in n and "expert" not in n} <= {"shared"}
    distinct = {
        (*map(repr, each.stored.values()), *map(repr, each.drawn.values())) for each in inputs
    }
    assert len(distinct) == 8


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "qwen2-vl"])
def test_inputs_are_the_same_whatever_was_trained_on(name):
    before = inputs_for(MODELS[name]().eval(), None)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    torch.manual_seed(7)
    assert equal(inputs_for(model, None), before)


def test_ids_are_in_the_vocabulary_and_mean_nothing_to_the_config():
    model = tiny.llama(eos_token_id=9)
    ids = torch.cat([each.stored["input_ids"][0] for each in inputs_for(model, None)])
    assert not set(ids.tolist()) & {0, 1, 9}
    assert max(ids.tolist()) < tiny.VOCAB


def test_new_tokens_occur():
    model = tiny.llama()
    model.resize_token_embeddings(tiny.VOCAB + 3)
    ids = {int(i) for each in inputs_for(model, None) for i in each.stored["input_ids"][0]}
    assert {tiny.VOCAB, tiny.VOCAB + 1, tiny.VOCAB + 2} <= ids


def test_what_a_method_acts_on_stands_in_every_input_in_a_row():
    model = ftplug.apply(tiny.llama(), "alora", alora_invocation_tokens=(7, 5))
    for each in inputs_for(model, attachment_of(model)):
        ids = each.stored["input_ids"][0].tolist()
        assert (7, 5) in set(itertools.pairwise(ids))


def test_trainable_tokens_occur():
    chosen = tuple(range(10, 25))
    model = ftplug.apply(tiny.bert(), "trainable-tokens", token_indices=chosen)
    inputs = inputs_for(model, attachment_of(model))
    assert set(chosen) <= {int(i) for each in inputs for i in each.stored["input_ids"][0]}


@pytest.mark.parametrize(
    ("name", "settings"), [("poly", {"n_tasks": 3}), ("multitask-prompt-tuning", {"num_tasks": 3})]
)
def test_every_task_occurs_and_the_base_is_asked_the_same(name, settings):
    model = ftplug.apply(tiny.bert(), name, **settings)
    inputs = inputs_for(model, attachment_of(model))
    assert {int(each.stored["task_ids"]) for each in inputs} == {0, 1, 2}
    ask(model, inputs)
    with ftplug.disabled(model):
        ask(model, inputs)


def test_a_model_that_reads_nothing_known_is_not_probed():
    class Odd(transformers.BertModel):
        def forward(self, waves):
            return waves

    odd = Odd(tiny.bert().config)
    with pytest.raises(NotProbed, match="Odd: it reads neither token ids, pixels nor sound"):
        inputs_for(odd, None)


def test_a_model_that_fails_on_all_of_them_is_not_probed():
    model = tiny.bert()
    del model.bert.encoder
    with pytest.raises(NotProbed, match="takes none of the probe's inputs") as refusal:
        inputs_for(model, None)
    assert "\n" not in str(refusal.value)


def test_a_model_on_meta_is_not_probed():
    with pytest.raises(NotProbed, match="meta device"):
        inputs_for(tiny.bert().to("meta"), None)


def test_drawn_numbers_come_again_or_are_not_replayable():
    drawn = Drawn.of(3, (2, 5))
    assert drawn.values().equal(Drawn.of(3, (2, 5)).values())
    # What numpy's frozen stream has given since 2007.
    first = Drawn.of(0, (1,))
    assert float(first.values()) == pytest.approx(1.76405235)
    with pytest.raises(NotReplayable, match="drawn here with other values"):
        Drawn(4, (2, 5), drawn.sha256).values()


@pytest.mark.parametrize("token", [-1, tiny.VOCAB])
def test_a_token_of_another_vocabulary_never_reaches_the_model(token):
    given = Input({"input_ids": torch.tensor([[3, token]])}, {})
    with pytest.raises(NotReplayable, match="this model reads 64"):
        materialized(given, tiny.bert())
