"""Models that read more or other than text: what fits, what is refused, and what they are for."""

import copy
import json

import peft
import pytest
import torch
import transformers
from runs import shake

import ftplug
from ftplug import structure

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
SPEECH = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 3,
}  # fmt: skip


def seeded(length=6, rows=2):
    return torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(1))


def whisper():
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**SPEECH, num_mel_bins=8, max_source_positions=20)
    features = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))
    model = transformers.WhisperForConditionalGeneration(config).eval()
    return model, {"input_features": features, "labels": seeded()}


def speech2text():
    torch.manual_seed(0)
    config = transformers.Speech2TextConfig(
        **SPEECH, input_feat_per_channel=8, conv_channels=16, max_source_positions=80
    )
    features = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(1))
    model = transformers.Speech2TextForConditionalGeneration(config).eval()
    return model, {"input_features": features, "labels": seeded()}


def audio():
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        **SIZES, patch_size=4, frequency_stride=4, time_stride=4, max_length=16, num_mel_bins=8
    )
    values = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(1))
    return transformers.ASTForAudioClassification(config).eval(), {"input_values": values}


def reader():
    torch.manual_seed(0)
    vision = transformers.ViTConfig(**SIZES, image_size=16, patch_size=8)
    text = transformers.BertConfig(
        **SIZES, vocab_size=64, is_decoder=True, add_cross_attention=True
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model = transformers.VisionEncoderDecoderModel(config).eval()
    return model, {"pixel_values": pixels, "labels": seeded()}


MODELS = {
    whisper: "automatic-speech-recognition",
    speech2text: "automatic-speech-recognition",
    audio: "audio-classification",
    reader: "image-to-text",
}


def answers(model, batch, **more):
    with torch.no_grad():
        return model.eval()(**batch, **more).logits


@pytest.mark.parametrize("make", MODELS)
def test_the_task_is_that_of_what_it_reads(make):
    assert structure.task_of(make()[0]) == MODELS[make]


def test_a_text_model_keeps_its_task():
    import tiny

    tasks = [structure.task_of(model) for model in (tiny.bert(), tiny.llama(), tiny.t5())]
    assert tasks == ["text-classification", "text-generation", "text2text-generation"]


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize("make", MODELS)
def test_plain_peft_gives_the_trained_answers(make, method, tmp_path):
    base, batch = make()
    model = shake(ftplug.apply(copy.deepcopy(base), method), 0.3)
    ftplug.save(model, tmp_path / "a")
    expected = answers(model, batch)
    assert not torch.allclose(expected, answers(base, batch))
    if (tmp_path / "a/adapter_config.json").exists():
        plain = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "a")
        assert torch.allclose(answers(plain, batch), expected, atol=1e-5)
    assert answers(ftplug.load(base, tmp_path / "a"), batch).equal(expected)
    assert json.loads((tmp_path / "a/ftplug.json").read_text())["model"]["task"] == MODELS[make]


@pytest.mark.parametrize("make", [whisper, speech2text, reader])
def test_a_prefix_does_not_hang_on_whether_a_cache_is_asked_for(make):
    model, batch = make()
    before = answers(model, batch)
    shake(ftplug.apply(model, "prefix-tuning", num_virtual_tokens=3), 0.3)
    cached = answers(model, batch, use_cache=True)
    assert torch.allclose(answers(model, batch, use_cache=False), cached, atol=1e-6)
    assert not torch.allclose(cached, before)
    model.train()(**batch, use_cache=False).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def layout():
    return transformers.LayoutLMForTokenClassification(
        transformers.LayoutLMConfig(**SIZES, vocab_size=64, max_2d_position_embeddings=32)
    )


def ernie():
    config = transformers.ErnieConfig(**SIZES, vocab_size=64, use_task_id=True)
    return transformers.ErnieForSequenceClassification(config)


def markup():
    sizes = SIZES | {"xpath_unit_hidden_size": 8, "max_depth": 4}
    return transformers.MarkupLMForSequenceClassification(
        transformers.MarkupLMConfig(**sizes, vocab_size=64)
    )


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning"])
@pytest.mark.parametrize(
    ("make", "what"), [(layout, "bbox"), (ernie, "task_type_ids"), (markup, "xpath_tags_seq")]
)
def test_what_is_read_of_each_token_besides_is_refused(make, what, method):
    with pytest.raises(ftplug.MethodError, match=f"it reads {what} of each token"):
        ftplug.apply(make(), method)


@pytest.mark.parametrize("name", ["load_adapter", "add_adapter", "set_adapter"])
def test_transformers_own_adapters_are_refused_beside_a_method(name):
    model, _ = whisper()
    ftplug.apply(model, "lora")
    with pytest.raises(ftplug.MethodError, match=f"{name}: the model carries lora by ftplug"):
        getattr(model, name)("b")
    ftplug.merge(model)
    assert name not in vars(model)
