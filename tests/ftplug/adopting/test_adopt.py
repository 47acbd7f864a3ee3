"""``ftplug adopt`` on adapters of peft: heads, whole modules, tokens, older files."""

import json
import shutil
import warnings

import folders as saved_folders
import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import ftplug
from ftplug import ArtifactError
from ftplug.adopting.adopt import Source, adopt
from ftplug.artifacts.manifest import read_manifest
from ftplug.artifacts.saving import annotate

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def answers(model, **batch):
    batch = batch or {n: v for n, v in tiny.inputs(model).items() if n != "labels"}
    with torch.no_grad():
        return model.eval()(**batch).logits


def peft_answers(base, folder):
    with warnings.catch_warnings():  # of AdaLoRA's pattern, which names no modules
        warnings.filterwarnings("ignore", "The following rank_pattern keys")
        return answers(peft.PeftModel.from_pretrained(base, folder), **tokens(base))


def tokens(base):
    return {n: v for n, v in tiny.inputs(base).items() if n != "labels"}


def test_an_adapter_becomes_a_pinned_artifact(elsewhere, lora, tmp_path):
    done = adopt(lora, str(elsewhere.root / "bert"), to=tmp_path / "to")
    manifest = read_manifest(tmp_path / "to")
    manifest.verify_files(tmp_path / "to")
    assert [(m["name"], m["settings"]["r"]) for m in manifest.methods] == [("lora", 4)]
    assert manifest.fingerprint is not None
    assert manifest.effect["probe"]
    assert manifest.train_head
    assert done.compared.difference == 0.0
    assert done.compared.inputs == 8
    assert peft_answers(elsewhere.base("bert"), tmp_path / "to").equal(
        peft_answers(elsewhere.base("bert"), lora)
    )
    loaded = ftplug.load(str(elsewhere.root / "bert"), tmp_path / "to")
    assert answers(loaded).equal(peft_answers(elsewhere.base("bert"), lora))
    assert "org/bert" in done.remarks[0]


def test_what_is_saved_of_it_again_is_adopted_no_more(elsewhere, lora, tmp_path):
    adopt(lora, str(elsewhere.root / "bert"), to=tmp_path / "to")
    with pytest.raises(ArtifactError, match="is an artifact of ftplug already"):
        adopt(tmp_path / "to", str(elsewhere.root / "bert"), to=tmp_path / "again")


def test_the_card_keeps_the_authors_words_and_says_where_it_is_from(elsewhere, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "in")
    (tmp_path / "in" / "README.md").write_text(
        "---\nlicense: mit\nlanguage: de\ndatasets: [org/data]\ntags: [peft, reviews]\n---\n"
        "# Reviews\nFor hotel reviews alone.\x1b[31m\n## Bias\n[More Information Needed]\n"
    )
    source = Source("org/reviews", "0" * 40)
    adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to", source=source)
    card = (tmp_path / "to" / "README.md").read_text()
    assert "**Adopted, trained elsewhere:**" in card
    assert "[`org/reviews`](https://huggingface.co/org/reviews)" in card
    assert "## Its author's own words\n\n### Reviews\nFor hotel reviews alone." in card
    assert "license: mit" in card
    assert "- reviews" in card
    assert "\x1b" not in card
    assert "Information Needed" not in card
    manifest = annotate(tmp_path / "to", language="en")
    assert manifest.author["datasets"] == ["org/data"]
    assert manifest.training["adopted"]["repository"] == "org/reviews"
    assert set(manifest.training["adopted"]["sha256"]) == {CONFIG, WEIGHTS, "README.md"}
    assert str(tmp_path) not in (tmp_path / "to" / "ftplug.json").read_text()


def test_a_head_of_other_size_than_the_bases_is_the_adapters(elsewhere, tmp_path):
    base = elsewhere.base("encoder", num_labels=5)
    folder = elsewhere.saved("encoder", "LORA", base=base, r=2)
    done = adopt(folder, str(elsewhere.root / "encoder"), to=tmp_path / "to")
    assert len(done.manifest.model["labels"]) == 5
    loaded = ftplug.load(str(elsewhere.root / "encoder"), tmp_path / "to")
    assert answers(loaded).equal(peft_answers(elsewhere.base("encoder", num_labels=5), folder))


def test_modules_that_were_saved_whole_train_as_they_are(elsewhere, tmp_path):
    folder = elsewhere.saved("llama", "LORA", r=2, modules_to_save=["lm_head", "norm"])
    done = adopt(folder, str(elsewhere.root / "llama"), to=tmp_path / "to")
    assert done.manifest.method_names == "lora + freeze"
    trained = set(done.manifest.methods[1]["settings"]["train"])
    assert {"lm_head.weight", "model.norm.weight"} <= trained
    loaded = ftplug.load(str(elsewhere.root / "llama"), tmp_path / "to")
    assert answers(loaded).equal(peft_answers(elsewhere.base("llama"), folder))


def test_added_tokens_come_with_their_embeddings(elsewhere, tmp_path):
    base = elsewhere.base("llama")
    base.resize_token_embeddings(base.config.vocab_size + 3)
    folder = elsewhere.saved(
        "llama", "LORA", base=base, r=2, modules_to_save=["embed_tokens", "lm_head"]
    )
    done = adopt(folder, str(elsewhere.root / "llama"), to=tmp_path / "to")
    loaded = ftplug.load(str(elsewhere.root / "llama"), tmp_path / "to")
    twin = elsewhere.base("llama")
    twin.resize_token_embeddings(twin.config.vocab_size + 3)
    ids = {"input_ids": torch.tensor([[5, twin.config.vocab_size - 1, 7]])}
    theirs = peft.PeftModel.from_pretrained(twin, folder)
    assert answers(loaded, **ids).equal(answers(theirs, **ids))
    assert done.compared.difference == 0.0


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*layer\.1\.attention\.self\.(query|key)"},
        {"target_modules": ["query", "dense"], "exclude_modules": ["pooler.dense"]},
        {"target_modules": ["query"], "layers_to_transform": [1]},
        {"target_modules": "all-linear"},
        {"use_rslora": True, "use_dora": True, "bias": "lora_only"},
        {"bias": "all", "rank_pattern": {"query": 6}, "alpha_pattern": {"query": 3}},
        {"lora_bias": True},
        {"init_lora_weights": "gaussian"},
        {"task_type": None},
    ],
    ids=str,
)
def test_loras_settings(settings, elsewhere, tmp_path):
    folder = elsewhere.saved("bert", "LORA", **{"r": 4} | settings)
    done = adopt(folder, str(elsewhere.root / "bert"), to=tmp_path / "to")
    loaded = ftplug.load(str(elsewhere.root / "bert"), tmp_path / "to")
    theirs = peft_answers(elsewhere.base("bert"), folder)
    assert torch.allclose(answers(loaded), theirs, rtol=0, atol=1e-6)
    assert done.compared.difference <= 1e-6


def test_ranks_that_adalora_pruned_are_zeros(elsewhere, tmp_path):
    settings = {"init_r": 4, "target_r": 2, "total_step": 20, "tinit": 1, "tfinal": 2}
    model = elsewhere.peft("bert", "ADALORA", **settings)
    ends = [n for n, _ in model.named_parameters() if ".lora_E." in n]
    short = [n.removeprefix("base_model.model.") for n in ends]
    kept = {n: [i % 3 != number % 2 for i in range(4)] for number, n in enumerate(short)}
    model.peft_config["default"].rank_pattern = kept
    model.save_pretrained(tmp_path / "in")
    stored = load_file(tmp_path / "in" / WEIGHTS)
    assert {t.shape[0] for n, t in stored.items() if n.endswith("lora_E")} < {1, 2, 3}
    adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    loaded = ftplug.load(str(elsewhere.root / "bert"), tmp_path / "to")
    theirs = peft_answers(elsewhere.base("bert"), tmp_path / "in")
    assert torch.allclose(answers(loaded), theirs, rtol=0, atol=1e-6)


def test_keys_of_older_versions_are_read_as_peft_reads_them(elsewhere, tmp_path):
    """Before 0.9 DoRA's magnitudes were parameters of the layer."""
    folder = elsewhere.saved("bert", "LORA", r=4, use_dora=True)
    old = elsewhere.edited(
        folder, tmp_path / "old", peft_version=None, lora_bias=None, use_bdlora=None
    )
    tensors = load_file(folder / WEIGHTS)
    renamed = {n.replace("magnitude_vector.weight", "magnitude_vector"): t
               for n, t in tensors.items()}  # fmt: skip
    save_file(renamed, old / WEIGHTS)
    done = adopt(old, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert done.title == "a LORA adapter of peft"
    loaded = ftplug.load(str(elsewhere.root / "bert"), tmp_path / "to")
    assert torch.allclose(answers(loaded), peft_answers(elsewhere.base("bert"), folder), atol=1e-6)


def test_a_pickle_is_read_where_it_is_accepted_and_nothing_else_is_there(elsewhere, tmp_path):
    folder = elsewhere.saved("bert", "LORA", r=4)
    expected = peft_answers(elsewhere.base("bert"), folder)
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    base = str(elsewhere.root / "bert")
    with pytest.raises(ArtifactError, match=r"adapter_model\.bin: a pickle: .*--allow-pickle"):
        adopt(folder, base, to=tmp_path / "to")
    adopt(folder, base, to=tmp_path / "to", allow_pickle=True)
    assert answers(ftplug.load(base, tmp_path / "to")).equal(expected)
    assert not list((tmp_path / "to").glob("*.bin"))


def test_the_class_of_the_model_is_the_task_asked_for(elsewhere, tmp_path):
    folder = elsewhere.saved("decoder", "LORA", r=2, task_type=None)
    done = adopt(folder, str(elsewhere.root / "decoder"), to=tmp_path / "to")
    assert done.manifest.model["class"] == "LlamaModel"
    with pytest.raises(ArtifactError, match="choose another --task"):
        adopt(folder, str(elsewhere.root / "bert"), to=tmp_path / "no", task="text2text-generation")


def test_a_tokenizer_beside_it_comes_along(elsewhere, lora, tmp_path):
    encoder = saved_folders.encoder(tmp_path / "encoder")
    shutil.copytree(lora, tmp_path / "in")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(encoder / name, tmp_path / "in")
    done = adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert "tokenizer.json" in done.manifest.files
    assert str(tmp_path) not in (tmp_path / "to" / "tokenizer_config.json").read_text()


def test_a_tokenizers_config_opens_nothing_elsewhere(elsewhere, lora, tmp_path):
    encoder = saved_folders.encoder(tmp_path / "encoder")
    (tmp_path / "secret").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsecret\n")
    shutil.copytree(lora, tmp_path / "in")
    shutil.copy(encoder / "tokenizer.json", tmp_path / "in")
    config = json.loads((encoder / "tokenizer_config.json").read_text())
    said = {"vocab_file": str(tmp_path / "secret"), "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config | said))
    done = adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    kept = (tmp_path / "to" / "tokenizer_config.json").read_text()
    assert "auto_map" not in kept
    assert '_file"' not in kept
    assert not any("secret" in (tmp_path / "to" / n).read_text("utf-8", "replace")
                   for n in done.manifest.files)  # fmt: skip


@pytest.mark.parametrize("name", ["PreTrainedModel", "T5ForConditionalGeneration", "Trainer", "x"])
def test_a_class_that_does_not_go_with_the_base_is_passed_over(name, elsewhere, lora, tmp_path):
    mapping = {"base_model_class": name, "parent_library": "os"}
    folder = elsewhere.edited(lora, tmp_path / "in", task_type=None, auto_mapping=mapping)
    done = adopt(folder, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert done.manifest.model["class"] == "BertForSequenceClassification"


def test_the_plain_classes_of_the_bases_are_as_saved(elsewhere):
    """What the tests above rely on: the base's head has two labels, and no adapter changed it."""
    for kind, auto in (
        ("bert", AutoModelForSequenceClassification),
        ("llama", AutoModelForCausalLM),
    ):
        model = auto.from_pretrained(elsewhere.root / kind)
        assert not any("lora" in name for name, _ in model.named_parameters())


def test_a_head_whose_values_are_those_of_a_new_one_is_still_its_own(elsewhere, tmp_path):
    """Biases start at zero, and an adapter may hold them so."""
    base = elsewhere.base("encoder")
    folder = elsewhere.saved("encoder", "LORA", base=base, r=2)
    tensors = load_file(folder / WEIGHTS)
    tensors["base_model.model.classifier.bias"].zero_()
    save_file(tensors, folder / WEIGHTS)
    done = adopt(folder, str(elsewhere.root / "encoder"), to=tmp_path / "to")
    assert done.manifest.train_head
    loaded = ftplug.load(str(elsewhere.root / "encoder"), tmp_path / "to")
    assert answers(loaded).equal(peft_answers(elsewhere.base("encoder"), folder))
