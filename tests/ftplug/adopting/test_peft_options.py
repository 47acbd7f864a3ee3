"""What plain peft lets an adapter say: adopted and equal, or refused by its name."""

import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from ftplug import ArtifactError
from ftplug.adopting.adopt import adopt


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"target_modules": "all-linear"}], ids=str
)
def test_gpt2_says_how_its_weights_lie_and_the_layers_say_it_too(settings, elsewhere, tmp_path):
    folder = elsewhere.saved("gpt2", "LORA", r=4, **settings)
    assert '"fan_in_fan_out": true' in (folder / "adapter_config.json").read_text()
    elsewhere.equal_to_peft("gpt2", folder, tmp_path / "to")


@pytest.mark.filterwarnings("ignore:The following")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("LORA", {"target_modules": ["query", "nowhere"]}),
        ("LORA", {"target_modules": ["query"], "layers_to_transform": [1, 9]}),
        ("LORA", {"rank_pattern": {"nowhere": 3, "query": 2}, "alpha_pattern": {"nowhere": 3}}),
        ("IA3", {"target_modules": ["key", "wo"], "feedforward_modules": ["wo"]}),
    ],
    ids=str,
)
def test_what_peft_passes_over_is_passed_over(kind, settings, elsewhere, tmp_path):
    """Lists of names that fit several architectures are common."""
    folder = elsewhere.saved("bert", kind, **settings)
    done = elsewhere.equal_to_peft("bert", folder, tmp_path / "to")
    assert "nowhere" not in str(done.manifest.methods[0]["settings"])


@pytest.mark.parametrize("rows", [0, 3])
def test_embeddings_below_a_lora_layer_are_the_adapters(rows, elsewhere, tmp_path):
    """Peft saves them whole with LoRA on them, for tokens that may be new."""
    base = elsewhere.base("llama")
    base.resize_token_embeddings(base.config.vocab_size + rows, mean_resizing=False)
    with torch.no_grad():
        base.get_input_embeddings().weight[60:] += 0.5
    targets = ["embed_tokens", "q_proj", *(["lm_head"] if rows else [])]
    folder = elsewhere.saved("llama", "LORA", base=base, target_modules=targets)
    batch = {"input_ids": torch.tensor([[3, 61, 63 + rows]])}
    elsewhere.equal_to_peft("llama", folder, tmp_path / "to", rows=rows, batch=batch)


def test_peft_hands_no_token_types_to_a_question_answering_model(elsewhere, tmp_path):
    folder = elsewhere.saved("questions", "LORA", r=4)
    done = elsewhere.equal_to_peft("questions", folder, tmp_path / "to")
    assert done.compared.inputs == 8
    assert "token_type_ids" in done.remarks[-1]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    "modules", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]], ids=str
)
def test_one_tensor_that_peft_made_two_is_refused_by_name(modules, elsewhere, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = elsewhere.saved("tied", "LORA", r=4, modules_to_save=modules)
    with pytest.raises(ArtifactError, match=r"lm_head\.weight are one tensor in this base"):
        adopt(folder, str(elsewhere.root / "tied"), to=tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_modules_that_were_saved_as_they_were_cost_nothing(elsewhere, tmp_path):
    folder = elsewhere.saved("llama", "LORA", r=4, modules_to_save=["embed_tokens"])
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[name] = elsewhere.base("llama").model.embed_tokens.weight.detach()
    save_file(tensors, folder / "adapter_model.safetensors")
    done = elsewhere.equal_to_peft("llama", folder, tmp_path / "to")
    assert done.manifest.method_names == "lora"


def test_a_setting_beyond_the_methods_is_refused_with_a_way_out(elsewhere, tmp_path):
    folder = elsewhere.saved("bert", "LORA", r=4, lora_alpha=3.7)
    with pytest.raises(ArtifactError, match=r"lora_alpha.*3\.7.*use it by the library") as refused:
        adopt(folder, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert str(folder) in str(refused.value)


def test_where_the_task_has_no_class_the_base_has_one(elsewhere, tmp_path):
    """Whisper is no AutoModelForSeq2SeqLM, and its adapters say SEQ_2_SEQ_LM."""
    config = WhisperConfig(
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1), d_model=16, vocab_size=32,
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16), num_mel_bins=8,
        max_source_positions=10, max_target_positions=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    base = tmp_path / "whisper"
    WhisperForConditionalGeneration(config).save_pretrained(base)
    model = WhisperForConditionalGeneration.from_pretrained(base)
    given = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q_proj"])
    peft.get_peft_model(model, given).save_pretrained(tmp_path / "in")
    done = adopt(tmp_path / "in", str(base), to=tmp_path / "to")
    assert done.manifest.model["class"] == "WhisperForConditionalGeneration"
    with pytest.raises(ArtifactError, match="choose another --task"):
        adopt(tmp_path / "in", str(base), to=tmp_path / "no", task="text2text-generation")
