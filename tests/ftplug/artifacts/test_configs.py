"""Configs of strangers: one door, whichever method or path they come by."""

import copy
import json
import sys
import types
import warnings

import pytest
import tiny
import torch
from runs import logits, same, shake, weights
from safetensors.torch import load_file, save_file

import ftplug
from ftplug import ArtifactError, Method, hookimpl
from ftplug.artifacts.digests import file_entry


@pytest.fixture
def base():
    return tiny.bert()


@pytest.fixture
def saved(base, tmp_path):
    """A sound artifact of full fine-tuning, and its answers."""
    model = shake(ftplug.apply(copy.deepcopy(base), "full"))
    return ftplug.save(model, tmp_path / "artifact"), logits(model)


def relist(folder, name):
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = file_entry(folder / name)
    path.write_text(json.dumps(manifest))


def edit(folder, name, **values):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))
    relist(folder, name)


def refuse(base, folder, message):
    before = weights(base)
    with pytest.raises(ArtifactError, match=message) as caught:
        ftplug.load(base, folder)
    assert "\n" not in str(caught.value)
    assert same(weights(base), before)
    assert not hasattr(base, "_ftplug")


@pytest.mark.parametrize("peft_type", ["LORA", None])
def test_full_follows_no_adapter_config_to_other_weights(base, saved, tmp_path, peft_type):
    """transformers loads the adapter's base instead of the folder that holds it."""
    folder, answers = saved
    base.save_pretrained(tmp_path / "elsewhere")
    elsewhere = str(tmp_path / "elsewhere")
    edit(
        folder, "adapter_config.json", peft_type=peft_type, base_model_name_or_path=elsewhere, r=4,
        target_modules=["query"],
    )  # fmt: skip
    refuse(copy.deepcopy(base), folder, "none of the manifest's methods wrote it")
    claim(folder, "adapter_config.json")
    loaded = ftplug.load(base, folder) if base_id(folder, elsewhere) else None
    assert torch.equal(logits(loaded), answers)


def claim(folder, name):
    """Let the manifest say that the method wrote a file."""
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["methods"][0]["files"].append(name)
    path.write_text(json.dumps(manifest))


def base_id(folder, name):
    """Let the manifest name a base."""
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["base"]["id"] = name
    path.write_text(json.dumps(manifest))
    return name


def test_full_asks_for_no_kernel(base, saved, monkeypatch):
    asked = []
    kernels = types.ModuleType("kernels")
    kernels.get_kernel = lambda *given, **options: asked.append(given)
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    folder, answers = saved
    name = "kernels-community/flash-attn2"
    edit(folder, "config.json", attn_implementation=name, _attn_implementation=name)
    assert torch.equal(logits(ftplug.load(base, folder)), answers)
    assert not asked


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**6},
        {"dtype": "bfloat16", "torch_dtype": "float16"},
        {"hidden_size": "x"},
        {"transformers_weights": "other.safetensors"},
        {"quantization_config": {"load_in_4bit": True}},
        {"id2label": 7, "model_type": "no-such-type"},
    ],
)
def test_full_reads_nothing_of_the_config_beside_its_weights(base, saved, values):
    folder, answers = saved
    edit(folder, "config.json", **values)
    assert torch.equal(logits(ftplug.load(base, folder)), answers)


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, "null"])
def test_a_config_that_is_none_is_refused(base, saved, content):
    folder, _ = saved
    (folder / "config.json").write_text(content)
    relist(folder, "config.json")
    refuse(base, folder, r"config\.json")


def test_full_names_missing_and_unknown_tensors(base, saved):
    folder, _ = saved
    for change in (lambda t: t.pop("classifier.weight"), lambda t: t.update(x=torch.ones(1))):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        relist(folder, "model.safetensors")
        refuse(base, folder, "tensor (classifier.weight is missing|x belongs to nothing)")


def test_full_keeps_values_that_its_config_would_round(tmp_path):
    model = tiny.bert()
    model.config.dtype = torch.bfloat16
    trained = shake(ftplug.apply(copy.deepcopy(model), "full"))
    folder = ftplug.save(trained, tmp_path / "artifact")
    assert torch.equal(logits(ftplug.load(model, folder)), logits(trained))


def test_full_loads_shards(base, tmp_path):
    trained = shake(ftplug.apply(copy.deepcopy(base), "full"))
    folder = ftplug.save(trained, tmp_path / "artifact")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["model.safetensors"]
    path.write_text(json.dumps(manifest))
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / name, {"format": "pt"})
        relist(folder, name)
    assert torch.equal(logits(ftplug.load(base, folder)), logits(trained))
    save_file(tensors, folder / "model-00003-of-00003.safetensors", {"format": "pt"})
    relist(folder, "model-00003-of-00003.safetensors")
    refuse(tiny.bert(), folder, "in another file of it, too")


def test_a_third_partys_method_reads_the_same(base, tmp_path, monkeypatch):
    """The configs that its hook finds are the model's own, and others without what chooses."""
    read, failing = {}, []

    class Reads(Method):
        name = "reads"

        @hookimpl
        def select_trainable(self, model):
            return [name for name, _ in model.named_parameters() if "layer.1" in name]

        @hookimpl
        def load_artifact(self, model, directory):
            for path in directory.glob("*config.json"):
                read[path.name] = json.loads(path.read_text())
            if failing:
                raise AssertionError("two\nlines")
            return {}

    model = shake(ftplug.apply(copy.deepcopy(base), Reads()))
    folder = ftplug.save(model, tmp_path / "artifact")
    monkeypatch.setattr("ftplug.artifacts.loading.methods_of", lambda manifest, folder: [Reads()])
    edit(folder, "config.json", model_type="bert", num_hidden_layers=10**6, auto_map={"x": "y"})
    edit(folder, "adapter_config.json", base_model_name_or_path="/etc", r=4, more=[{"dtype": 1}])
    claim(folder, "adapter_config.json")
    base_id(folder, "/etc")
    ftplug.load(copy.deepcopy(base), folder)
    assert read["config.json"]["num_hidden_layers"] == 2
    assert "auto_map" not in read["config.json"]
    assert read["adapter_config.json"] == {"r": 4, "more": [{}]}
    failing.append(True)
    refuse(base, folder, "not readable: two lines")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_position_embeddings": 10**9}, "'max_position_embeddings' is 1,000,000,000"),
        ({"layers": [1, {"deep": 10**30}]}, "'deep' is more than 10"),
    ],
)
def test_a_count_beyond_all_bounds_is_refused_before_anything_is_built(
    base, saved, tmp_path, values, message
):
    folder, _ = saved
    base.save_pretrained(tmp_path / "base")
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["config"] |= values
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=message):
        ftplug.load(tmp_path / "base", folder)


def test_a_config_has_what_its_class_knows_alone(base, saved, tmp_path):
    folder, answers = saved
    base.save_pretrained(tmp_path / "base")
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["config"] |= {
        "transformers_weights": "other.safetensors", "fusion_config": {"x": 1}, "to_dict": 7,
        "unheard_of": 1, "hidden_dropout_prob": 0.5,
    }  # fmt: skip
    path.write_text(json.dumps(manifest))
    loaded = ftplug.load(tmp_path / "base", folder)
    assert torch.equal(logits(loaded), answers)
    assert loaded.config.hidden_dropout_prob == 0.5
    assert not hasattr(loaded.config, "unheard_of")
    assert getattr(loaded.config, "transformers_weights", None) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 3}, "'r' is 3, but 4 in the manifest"),
        ({"lora_alpha": 16.5}, "'lora_alpha' is 16.5, but 16"),
        ({"use_dora": 1}, "'use_dora' is 1, but False"),
        ({"base_model_name_or_path": "evil/base"}, "'evil/base', but None in the manifest"),
        ({"revision": "x" * 900}, r"xxx\.\.\.', but None"),
        (None, "a JSON object is expected"),
    ],
)
def test_manifest_and_adapter_config_that_disagree_are_refused(base, tmp_path, values, message):
    from ftplug_registry import verify

    folder = ftplug.save(shake(ftplug.apply(copy.deepcopy(base), "lora", r=4)), tmp_path / "a")
    assert verify(folder, files_only=True).files
    if values is None:
        (folder / "adapter_config.json").write_text("[]")
        relist(folder, "adapter_config.json")
    else:
        edit(folder, "adapter_config.json", **values)
    refuse(base, folder, message)
    with pytest.raises(ArtifactError, match=message) as caught:
        verify(folder, files_only=True)
    assert len(str(caught.value)) <= 600


@pytest.mark.parametrize("method", ["lora", "pissa", "ia3", "prompt-tuning", "loha"])
def test_what_ftplug_writes_agrees(base, tmp_path, method):
    folder = ftplug.save(shake(ftplug.apply(copy.deepcopy(base), method)), tmp_path / "a")
    assert "adapter_config.json" in json.loads((folder / "ftplug.json").read_text())["files"]
    ftplug.load(base, folder)


def bart():
    import transformers

    config = transformers.BartConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=64,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config)


def folder_of(model, method, root):
    """An artifact on a base folder, and that folder."""
    model.save_pretrained(root / "base")
    return ftplug.save(shake(ftplug.apply(model, method)), root / "artifact"), root / "base"


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (tiny.t5, {"num_decoder_layers": 100_000}),
        (bart, {"decoder_layers": 100_000}),
        (bart, {"encoder_layers": 100_000}),
        (tiny.distilbert, {"n_layers": 100_000}),
        (tiny.gpt2, {"n_layer": 100_000}),
        (tiny.gpt2, {"n_positions": 131_072}),
    ],
)
def test_what_a_config_would_build_is_bounded_whatever_its_depth_is_called(tmp_path, make, values):
    import time

    folder, where = folder_of(make(), "lora", tmp_path)
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["config"] |= values
    path.write_text(json.dumps(manifest))
    start = time.monotonic()
    with pytest.raises(
        ArtifactError, match=r"its config(: it)? describes|its config has"
    ) as caught:
        ftplug.load(where, folder)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_a_nested_config_is_bounded(tmp_path):
    import transformers

    text = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        vocab_size=64,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4,
    )  # fmt: skip
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_id=5)
    model = transformers.LlavaForConditionalGeneration(config)
    folder, where = folder_of(model, "lora", tmp_path)
    assert ftplug.load(where, folder) is not None
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["config"]["text_config"] |= {"num_hidden_layers": 100_000}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="describes more than"):
        ftplug.load(where, folder)


def test_sizes_that_a_stranger_chose_warn_of_nothing(base, saved, tmp_path):
    """A warning on the screen would be a second line beside the refusal."""
    folder, _ = saved
    base.save_pretrained(tmp_path / "base")
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["config"] |= {"intermediate_size": 0}
    path.write_text(json.dumps(manifest))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(ArtifactError):
            ftplug.load(tmp_path / "base", folder)
    assert not [str(warning.message) for warning in shown]
