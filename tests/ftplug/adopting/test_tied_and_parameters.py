"""Layers that peft put on its own account: on a tied weight, or around a parameter."""

import warnings

import peft
import pytest
import tiny
import torch

import ftplug
from ftplug import ArtifactError
from ftplug.adopting.adopt import adopt

EXPERTS = ["mlp.experts.down_proj"]


def test_tokens_of_a_tied_embedding_are_adopted_and_answer(elsewhere, tmp_path):
    folder = elsewhere.saved("tied", "TRAINABLE_TOKENS", token_indices=[3, 4])
    batch = {"input_ids": torch.tensor([[3, 4, 5]])}
    done = elsewhere.equal_to_peft("tied", folder, tmp_path / "to", batch=batch)
    assert done.manifest.methods[0]["settings"]["target_modules"] == ["model.embed_tokens"]


@pytest.mark.filterwarnings("ignore")  # peft's
def test_what_cannot_answer_is_refused_where_the_base_answers(elsewhere, tmp_path):
    """Both named: peft puts a layer around a layer, and fails at the first forward."""
    both = ["embed_tokens", "lm_head"]
    folder = elsewhere.saved("tied", "TRAINABLE_TOKENS", token_indices=[3], target_modules=both)
    with pytest.raises(ArtifactError, match=r"method cannot answer \(TrainableTokensLayer wraps"):
        adopt(folder, str(elsewhere.root / "tied"), to=tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.filterwarnings("ignore")  # peft's, of experts
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": []},
        {"exclude_modules": ["k_proj"]},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": ".*q_proj"},
    ],
    ids=str,
)
def test_lora_on_parameters_is_adopted_on_these_alone(settings, elsewhere, tmp_path):
    folder = elsewhere.saved("moe", "LORA", r=4, target_parameters=EXPERTS, **settings)
    done = elsewhere.equal_to_peft("moe", folder, tmp_path / "to")
    if "target_modules" not in settings:
        assert done.manifest.methods[0]["settings"]["target_modules"] == ["none"]


def test_vblora_without_its_logits_is_refused_by_the_settings_name(elsewhere, tmp_path):
    settings = {"num_vectors": 16, "vector_length": 4, "save_only_topk_weights": True}
    folder = elsewhere.saved("bert", "VBLORA", **settings)
    with pytest.raises(ArtifactError, match="save_only_topk_weights=False where it was trained"):
        adopt(folder, str(elsewhere.root / "bert"), to=tmp_path / "to")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING"])
def test_vectors_that_no_decoder_reads_are_adopted(kind, elsewhere, tmp_path):
    hidden = {"encoder_hidden_size": 8} if kind == "P_TUNING" else {}
    folder = elsewhere.saved(
        "t5", kind, num_virtual_tokens=4, num_transformer_submodules=1, **hidden
    )
    elsewhere.equal_to_peft(
        "t5", folder, tmp_path / "to", batch=dict(tiny.inputs(elsewhere.base("t5")))
    )


def test_vectors_that_a_decoder_reads_are_refused_by_the_settings_name(elsewhere, tmp_path):
    folder = elsewhere.saved("t5", "MULTITASK_PROMPT_TUNING", num_virtual_tokens=4, num_tasks=2)
    with pytest.raises(ArtifactError, match=r"num_transformer_submodules=2 of peft's MULTITASK"):
        adopt(folder, str(elsewhere.root / "t5"), to=tmp_path / "to")


def test_a_prefix_of_another_size_is_refused_by_the_settings_name(elsewhere, tmp_path):
    settings = {"num_virtual_tokens": 4, "num_transformer_submodules": 1}
    folder = elsewhere.saved("t5", "PREFIX_TUNING", **settings)
    with pytest.raises(ArtifactError, match=r"num_transformer_submodules=1 of .*: ftplug has 2"):
        adopt(folder, str(elsewhere.root / "t5"), to=tmp_path / "to")


def test_a_setting_is_named_before_what_follows_from_it(elsewhere, tmp_path):
    """Of a tied weight: peft trains rows of the one name alone, so the two differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = elsewhere.saved("tied", "LORA", r=4, trainable_token_indices={"lm_head": [6]})
    with pytest.raises(ArtifactError, match=r"no setting for trainable_token_indices=\{'lm_head'"):
        adopt(folder, str(elsewhere.root / "tied"), to=tmp_path / "to")


@pytest.mark.filterwarnings("ignore")  # peft's, of experts
def test_an_empty_list_of_modules_beside_parameters_is_none(tmp_path):
    model = ftplug.apply(
        tiny.qwen3_moe(), "lora", r=4, target_modules=[], target_parameters=EXPERTS
    )
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".mlp.experts." in name for name in trained)
    ftplug.save(model, tmp_path / "to")
    again = ftplug.load(tiny.qwen3_moe(), tmp_path / "to")
    assert {n for n, p in again.named_parameters() if p.requires_grad} == trained
    plain = peft.PeftModel.from_pretrained(tiny.qwen3_moe(), tmp_path / "to")
    assert not [n for n, _ in plain.named_parameters() if "_proj.lora_" in n]
