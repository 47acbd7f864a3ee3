"""A probe's inputs: for every kind of model, nobody's data, and such that methods act on them."""

import itertools
from dataclasses import replace

import pytest
import tiny
import torch
import transformers

import ftplug
from ftplug.attaching.attachment import attachment_of
from ftplug.effect import inputs as module
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

PATCHES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "patch_embed_hidden_size": 48,
    "patch_size": 8,
}


def llava():
    text, vision = {"model_type": "llama"} | TEXT, {"model_type": "clip_vision_model"} | VIT
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=100)
    return transformers.LlavaForConditionalGeneration(config)


def llava_next():
    """An image of 32 by 32 is cut into two rows of three tiles, and read whole too."""
    text, vision = {"model_type": "llama"} | TEXT, {"model_type": "clip_vision_model"} | VIT
    config = transformers.LlavaNextConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=100,
        image_grid_pinpoints=[[64, 96]],
        vision_feature_layer=-1,
    )
    return transformers.LlavaNextForConditionalGeneration(config)


def deepseek_vl():
    config = transformers.DeepseekVLConfig(
        text_config={"model_type": "llama"} | TEXT,
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False} | VIT,
        image_token_id=100,
    )
    return transformers.DeepseekVLForConditionalGeneration(config)


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


def kosmos():
    """An image is read as four vectors, in the places that a mask names."""
    text = {"embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 4, "vocab_size": 128}
    vision, few = {"model_type": "kosmos_2_vision_model"} | VIT, {"latent_query_num": 4}
    config = transformers.Kosmos2Config(text_config=text, vision_config=vision, **few)
    return transformers.Kosmos2ForConditionalGeneration(config)


def kosmos_2_5():
    """It reads patches, each with its row and column."""
    text = {"embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 4, "vocab_size": 128}
    config = transformers.Kosmos2_5Config(
        text_config=text, vision_config=PATCHES, latent_query_num=4
    )
    return transformers.Kosmos2_5ForConditionalGeneration(config)


def pix2struct():
    text = {"vocab_size": 128, "hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}
    text |= {"num_heads": 4, "is_decoder": True}
    vision = PATCHES | {"d_ff": 48, "d_kv": 8}
    config = transformers.Pix2StructConfig(text_config=text, vision_config=vision)
    return transformers.Pix2StructForConditionalGeneration(config)


def phi4():
    """An image whole and in one tile, with a mask of its patches; a sound with its length."""
    vision = VIT | {"crop_size": 32, "image_token_id": 100}
    channels = {"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32}
    audio = channels | {"nemo_conv_channels": 32, "num_blocks": 2, "hidden_size": 32}
    audio |= {"intermediate_size": 48, "num_attention_heads": 4, "audio_token_id": 101}
    config = transformers.Phi4MultimodalConfig(**TEXT, vision_config=vision, audio_config=audio)
    return transformers.Phi4MultimodalForCausalLM(config)


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
    "llava-next": llava_next,
    "deepseek-vl": deepseek_vl,
    "qwen2-vl": qwen2_vl,
    "idefics3": idefics3,
    "kosmos-2": kosmos,
    "kosmos-2.5": kosmos_2_5,
    "pix2struct": pix2struct,
    "phi-4": phi4,
    "clip": clip,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "layoutlm": layoutlm,
    "multiple-choice": choice,
}
READS = {
    "llava": {"input_ids", "pixel_values"},
    "llava-next": {"input_ids", "pixel_values", "image_sizes"},
    "deepseek-vl": {"input_ids", "pixel_values"},
    "qwen2-vl": {"input_ids", "pixel_values", "image_grid_thw"},
    "idefics3": {"input_ids", "pixel_values"},
    "kosmos-2": {"input_ids", "pixel_values", "image_embeds_position_mask"},
    "kosmos-2.5": {"input_ids", "flattened_patches", "image_embeds_position_mask"},
    "pix2struct": {"flattened_patches", "decoder_input_ids"},
    "phi-4": {"image_pixel_values", "audio_input_features"},
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
    # Read by others: the position embedding is a table, torch's own attention takes the weights of
    # its projection, an expert may wait for its token. Phi-4 has a projection of its own for sound
    # beside which there is no image.
    apart = ("bias", "expert", "proj_for_speech", "attention.out_proj")
    assert {n for n in owners - ran if not any(each in n for each in apart)} <= {"shared"}
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


class Around(torch.nn.Module):
    """A class of somebody's own around an encoder, as tutorials have it."""

    def __init__(self):
        super().__init__()
        self.encoder = tiny.bert("")
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return {"logits": self.head(found.last_hidden_state[:, 0])}


class Alone(Around):
    def forward(self, input_ids):
        return super().forward(input_ids)


class All(Around):
    def forward(self, input_ids, **given):
        return {"logits": self.head(self.encoder(input_ids, **given).last_hidden_state[:, 0])}


@pytest.mark.parametrize(
    ("own", "taken"),
    [
        (Around, {"input_ids", "attention_mask"}),
        (Alone, {"input_ids"}),
        (All, {"input_ids", "attention_mask", "token_type_ids"}),
    ],
)
def test_a_model_around_another_is_asked_by_what_it_takes(own, taken):
    model = ftplug.apply(own(), "lora")
    found = inputs_for(model, attachment_of(model))
    assert {frozenset(one.stored) for one in found} == {frozenset(taken)}
    assert all("logits" in model(**materialized(one, model)) for one in found)


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


def test_the_likeliest_input_says_why_there_is_none():
    """Not the last of many that were never the model's."""
    model = llava()

    def broken(*_, **given):
        raise RuntimeError("broken with pixels" if "pixel_values" in given else "broken")

    model.forward = broken
    with pytest.raises(NotProbed, match="broken with pixels"):
        inputs_for(model, None)


def test_without_time_for_images_text_is_what_there_is(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", -1.0)
    found = inputs_for(llava(), None)
    assert "input_ids" in found[0].stored
    assert not found[0].drawn
    with pytest.raises(NotProbed, match="no input was found in"):
        inputs_for(tiny.vit(), None)


def test_a_model_on_meta_is_not_probed():
    with pytest.raises(NotProbed, match="meta device"):
        inputs_for(tiny.bert().to("meta"), None)


def test_a_wave_beside_which_a_length_may_stand_ends_no_trials():
    class Hears(transformers.Wav2Vec2Model):
        def forward(self, input_values, audio_embed_sizes=None, attention_mask=None):
            return super().forward(input_values, attention_mask)

    inputs = inputs_for(Hears(wav2vec2().config).eval(), None)
    assert {*inputs[0].drawn} == {"input_values"}
    assert "audio_embed_sizes" not in inputs[0].stored


def test_patches_have_their_rows_and_columns():
    drawn = Drawn.of(3, (1, 6, 5), columns=3)
    patches, plain = drawn.values(), Drawn.of(3, (1, 6, 5)).values()
    assert patches[0, :, :2].tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    assert patches[..., 2:].equal(plain[..., 2:])
    with pytest.raises(NotReplayable, match="frozen generator differs"):
        Drawn(3, (1, 6, 5), drawn.sha256).values()  # as a reader that knows of no columns


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


@pytest.mark.parametrize(
    "grid", [[1, 10_000, 10_000], [10**9, 2, 2], [1, 1, -(2**40)], [0, 2**40, 1], [1, 91, 91]]
)
def test_sizes_beyond_what_the_input_has_are_not_replayable(grid):
    model = qwen2_vl().eval()
    given = inputs_for(model, None)[0]
    assert materialized(given, model)
    told = replace(given, stored=given.stored | {"image_grid_thw": torch.tensor([grid])})
    with pytest.raises(NotReplayable, match="image_grid_thw tells of") as refused:
        materialized(told, model)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["position_ids", "attention_mask", "audio_embed_sizes"])
def test_nor_are_places_lengths_and_masks_beyond_it(name):
    model = tiny.llama().eval()
    given = inputs_for(model, None)[0]
    told = replace(given, stored=given.stored | {name: torch.full((1, 10), 2**40)})
    with pytest.raises(NotReplayable, match=f"{name} tells of"):
        materialized(told, model)
