"""Ways of saving that are not ours: each writes the artifact, or refuses; none drops anything."""

import copy
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from folders import encoder
from runs import shake

import ftplug
from ftplug.artifacts.manifest import MANIFEST
from ftplug.testing.compare import logits, weights

STRUCTURES = {
    "lora": {"r": 4},
    "ia3": {},
    "bottleneck": {},
    "prompt-tuning": {"num_virtual_tokens": 2},
    "prefix-tuning": {"num_virtual_tokens": 2},
    "reft": {},
}


@pytest.mark.parametrize("method", STRUCTURES)
def test_a_part_that_holds_something_of_the_method_refuses(method, tmp_path):
    model = ftplug.apply(tiny.bert("MaskedLM"), method, **STRUCTURES[method])
    for one in (model, copy.deepcopy(model)):
        with pytest.raises(ftplug.MethodError, match=f"this BertModel is a part .* {method}"):
            one.bert.save_pretrained(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
    model.save_pretrained(tmp_path / "a")
    loaded = ftplug.load(tiny.bert("MaskedLM"), tmp_path / "a")
    with pytest.raises(ftplug.MethodError, match="is a part of a model"):
        loaded.bert.save_pretrained(tmp_path / "encoder")


@pytest.mark.parametrize("method", ["full", "bitfit", "freeze", "layernorm", "lisa"])
def test_a_part_that_only_trained_saves_itself_as_it_is(method, tmp_path):
    settings = {"lisa": {"layers": 1}, "freeze": {"layers": 1}}.get(method, {})
    model = shake(ftplug.apply(tiny.bert("MaskedLM"), method, **settings))
    model.bert.save_pretrained(tmp_path / "encoder")
    again = type(model.bert).from_pretrained(tmp_path / "encoder", add_pooling_layer=False)
    expected = weights(model.bert)
    assert all(value.equal(expected[name]) for name, value in weights(again).items())


def test_a_merged_model_saves_in_every_way_again(tmp_path):
    model = shake(ftplug.apply(tiny.bert("MaskedLM"), "lora", r=4))
    expected = logits(model)
    merged = ftplug.merge(model)
    merged.save_pretrained(tmp_path / "whole")
    merged.bert.save_pretrained(tmp_path / "encoder")
    assert not (tmp_path / "whole" / MANIFEST).exists()
    again = type(merged).from_pretrained(tmp_path / "whole").eval()
    assert torch.allclose(logits(again), expected, atol=1e-5)


def test_an_attribute_of_the_models_own_stays():
    model = tiny.bert()
    model.save = model.classifier.save = "every epoch"
    ftplug.apply(model, "lora", r=4)
    assert model.save == "every epoch"
    ftplug.merge(model)
    assert model.save == model.classifier.save == "every epoch"


def test_a_tower_without_anything_of_the_method_saves_itself(tmp_path):
    model = ftplug.apply(tiny.t5(), "lora", r=4, target_modules=(r"decoder\..*\.q",))
    assert any("decoder" in n for n, p in model.named_parameters() if p.requires_grad)
    model.encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ftplug.MethodError, match="this T5Stack is a part"):
        model.decoder.save_pretrained(tmp_path / "decoder")


def test_the_refusal_can_be_copied_and_pickled():
    model = ftplug.apply(tiny.bert("MaskedLM"), "lora", r=4)
    refusal = pickle.loads(pickle.dumps(model.bert.save_pretrained))
    with pytest.raises(ftplug.MethodError, match="this BertModel is a part"):
        refusal("folder")


@pytest.mark.parametrize("method", [*STRUCTURES, "full", "bitfit"])
def test_a_state_dict_fits_a_model_with_the_method_and_no_other(method, tmp_path):
    settings = STRUCTURES.get(method, {})
    model = shake(ftplug.apply(tiny.bert(), method, **settings))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    again = ftplug.apply(tiny.bert(), method, **settings)
    assert not logits(again).equal(logits(model))
    again.load_state_dict(state)
    assert logits(again).equal(logits(model))
    if method in STRUCTURES:
        with pytest.raises(RuntimeError, match="Unexpected key"):
            tiny.bert().load_state_dict(state)


@pytest.fixture
def sentences(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = encoder(tmp_path / "encoder")
    return lambda: SentenceTransformer(str(folder), device="cpu")


def spoken(model):
    return model.eval().encode(["the good", "bad"], convert_to_tensor=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["full", "lora", "ia3", "bottleneck", "reft"])
@pytest.mark.parametrize(
    "way",
    [
        lambda model, folder: model.save(folder),
        lambda model, folder: model.save(path=folder),
        lambda model, folder: model.save_pretrained(folder),
        lambda model, folder: model.save_pretrained(folder, "a name", create_model_card=False),
    ],
    ids=["save", "save-path", "save_pretrained", "save_pretrained-more"],
)
def test_sentence_transformers_save_the_artifact(way, method, sentences, tmp_path):
    base = sentences()
    model = shake(ftplug.apply(sentences(), method, **STRUCTURES.get(method, {})), 0.3)
    expected = spoken(model)
    assert not torch.allclose(expected, spoken(base))
    way(model, str(tmp_path / "final"))
    assert (tmp_path / "final" / MANIFEST).is_file()
    assert spoken(ftplug.load(sentences(), tmp_path / "final")).equal(expected)


@pytest.mark.filterwarnings("ignore")
def test_what_sentence_transformers_pushes_is_the_artifact(sentences, monkeypatch):
    from huggingface_hub import HfApi

    model = shake(ftplug.apply(sentences(), "lora", r=4))
    pushed = []

    def upload(self, *, folder_path, **kwargs):
        pushed.extend(path.name for path in Path(folder_path).iterdir())
        return SimpleNamespace(commit_url="url")

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: SimpleNamespace(repo_id="o/n"))
    model.push_to_hub("o/n", exist_ok=True, replace_model_card=True)
    assert MANIFEST in pushed
    assert "modules.json" not in pushed


def with_modules(folder, *more, mode="cls", **options):
    """Return a model whose answer is made otherwise than a plain folder's, which is a mean."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    first = Transformer(str(folder))
    modules = [first, Pooling(32, pooling_mode=mode), *more]
    return SentenceTransformer(modules=modules, device="cpu", **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["full", "lora", "prompt-tuning"])
def test_a_plain_folder_gets_the_modules_it_was_trained_with(method, sentences, tmp_path, caplog):
    from sentence_transformers.models import Normalize

    prompts = {"query": "the good", "other": "bad"}
    model = with_modules(
        tmp_path / "encoder", Normalize(), prompts=prompts, default_prompt_name="query"
    )
    model.max_seq_length = 5
    model = shake(ftplug.apply(model, method, **STRUCTURES.get(method, {})), 0.3)
    expected = spoken(model)
    model.save(str(tmp_path / "a"))
    loaded = ftplug.load(sentences(), tmp_path / "a")
    assert spoken(loaded).equal(expected)
    assert [type(module).__name__ for module in loaded][1:] == ["Pooling", "Normalize"]
    assert prompts.items() <= loaded.prompts.items()
    assert loaded.max_seq_length == 5
    assert "what it was trained with" in caplog.text
    again = ftplug.load(with_modules(tmp_path / "encoder", Normalize()), tmp_path / "a")
    assert spoken(again).equal(expected)


@pytest.mark.filterwarnings("ignore")
def test_modules_with_weights_have_to_be_there(sentences, tmp_path):
    from sentence_transformers.models import Dense

    model = with_modules(tmp_path / "encoder", Dense(32, 4))
    model = shake(ftplug.apply(model, "lora", r=4), 0.3)
    model.save(str(tmp_path / "a"))
    base = sentences()
    before, modules = weights(base), list(base)
    with pytest.raises(ftplug.ArtifactError, match="with the modules Pooling, Dense") as said:
        ftplug.load(base, tmp_path / "a")
    assert "\n" not in str(said.value)
    assert list(base) == modules
    assert weights(base).keys() == before.keys()
    loaded = ftplug.load(with_modules(tmp_path / "encoder", Dense(32, 4)), tmp_path / "a")
    assert spoken(loaded).equal(spoken(model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "modules",
    [
        [{"name": "os.system", "config": {}}],
        [{"name": "Pooling", "config": None}],
        [{"name": "Pooling", "config": {"pooling_mode": "none"}}],
        ["Pooling"],
        [None],
        [{}],
    ],
)
def test_modules_that_a_stranger_made_up_are_one_line(modules, sentences, tmp_path):
    ftplug.apply(sentences(), "lora", r=4).save(str(tmp_path / "a"))
    path = tmp_path / "a" / MANIFEST
    manifest = json.loads(path.read_text())
    assert manifest["model"]["pipeline"]["modules"][0]["name"] == "Pooling"
    manifest["model"]["pipeline"]["modules"] = modules
    path.write_text(json.dumps(manifest))
    with pytest.raises(ftplug.ArtifactError, match="it was trained with the modules") as said:
        ftplug.load(sentences(), tmp_path / "a")
    assert "\n" not in str(said.value)
