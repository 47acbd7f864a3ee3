"""Fetching: exactly what was pushed, verified first, or a clear refusal."""

import json
import shutil
import socket
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peft
import pygit2
import pytest
import torch
from ftplug_registry import Hub, pull, push
from huggingface_hub import constants
from runs import logits
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, pipeline

import ftplug
from ftplug import ArtifactError, FtplugError, RegistryError
from ftplug.artifacts.manifest import read_manifest


def test_by_branch_tag_and_sha(hub, saved, artifact, repo_id):
    first = push(artifact, repo_id, hub=hub, tag="v1")
    push(saved / "bottleneck", repo_id, hub=hub)
    by_tag, by_sha = pull(repo_id, "v1", hub=hub), pull(repo_id, first.sha, hub=hub)
    assert by_tag == by_sha
    assert read_manifest(by_tag).method_names == "lora"
    assert read_manifest(pull(repo_id, hub=hub)).method_names == "bottleneck"
    assert read_manifest(pull(repo_id, "main", hub=hub)).method_names == "bottleneck"


def test_an_empty_revision_is_not_main(hub, base, artifact, repo_id, tmp_path, typed):
    """A script whose variable is not set must not get, or write, another version than it names."""
    push(artifact, repo_id, hub=hub, tag="v1")
    for action in (
        lambda: pull(repo_id, "", hub=hub),
        lambda: ftplug.load(base, repo_id, revision=" "),
        lambda: push(artifact, repo_id, revision="", hub=hub),
    ):
        with pytest.raises(RegistryError, match=r"the revision is empty|is no name for a branch"):
            action()
    assert typed("push", artifact, repo_id, "--revision", "", "--dry-run")[0] == 1
    told = typed("adopt", repo_id, "--base", base, "--revision", "", "--to", tmp_path / "to")[2]
    assert "--revision: the text is empty" in told


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_load_by_repository_is_load_by_folder(method, hub, base, saved, repo_id):
    """A base id builds the right class with its head and labels."""
    push(saved / method, repo_id, hub=hub, tag="v1")
    model = ftplug.load(str(base), repo_id, revision="v1")
    assert isinstance(model, BertForSequenceClassification)
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert torch.equal(logits(model), logits(ftplug.load(base, saved / method)))


def test_what_was_loaded_is_ready_for_a_pipeline(hub, base, saved, repo_id):
    push(saved / "lora", repo_id, hub=hub)
    model = ftplug.load(base, repo_id)
    ask = pipeline("text-classification", model=model, tokenizer=str(pull(repo_id)), device="cpu")
    answer = ask("the good and the bad")
    assert answer[0]["label"] in {"bad", "good"}


def test_offline_after_the_first_pull(hub, base, artifact, repo_id, monkeypatch):
    push(artifact, repo_id, hub=hub, tag="v1")
    online = [pull(repo_id), pull(repo_id, "v1")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [pull(repo_id), pull(repo_id, "v1")] == online
    assert ftplug.load(base, repo_id)
    with pytest.raises(RegistryError, match="pull it once while online"):
        pull(repo_id, "v2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_hub_that_went_away_is_as_good_as_offline(server, client, artifact, repo_id, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # a port that nobody listens on
        gone = Hub(f"http://127.0.0.1:{closed.getsockname()[1]}", cache_dir=tmp_path / "cache")
        here = Hub(server.endpoint, server.token("alice"), tmp_path / "cache")
        push(artifact, repo_id, hub=here)
        assert pull(repo_id, hub=here) == pull(repo_id, hub=gone)
        with pytest.raises(RegistryError, match="cannot be reached") as refused:
            pull("alice/never-seen", hub=gone)
        assert "\n" not in str(refused.value)


def test_a_copy_of_its_own_is_complete_or_not_there(hub, artifact, saved, repo_id, tmp_path):
    push(artifact, repo_id, hub=hub)
    target = tmp_path / "deep" / "copy"
    assert pull(repo_id, to=target, hub=hub) == target
    names = {path.name for path in target.iterdir()}
    assert names == {*read_manifest(artifact).files, "ftplug.json", "README.md"}
    assert not any(path.is_symlink() for path in target.iterdir())
    push(saved / "bottleneck", repo_id, hub=hub)
    with pytest.raises(RegistryError, match="holds another artifact"):
        pull(repo_id, to=target, hub=hub)
    assert read_manifest(target).method_names == "lora"
    pull(repo_id, to=target, overwrite=True, hub=hub)
    names = {path.name for path in target.iterdir()}
    assert names == {*read_manifest(saved / "bottleneck").files, "ftplug.json", "README.md"}


def test_a_folder_with_something_else_is_left_alone(hub, artifact, repo_id, tmp_path):
    push(artifact, repo_id, hub=hub)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("1")
    with pytest.raises(RegistryError, match="not empty and no artifact"):
        pull(repo_id, to=tmp_path / "thesis", hub=hub)
    with pytest.raises(RegistryError, match="is a file"):
        pull(repo_id, to=tmp_path / "thesis/chapter.tex", hub=hub)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_only_what_manifest_and_card_name_is_fetched(client, hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    client.upload_file(path_or_fileobj=b"x", path_in_repo="evil.py", repo_id=repo_id)
    client.upload_file(path_or_fileobj=b"\x80\x04", path_in_repo="model.bin", repo_id=repo_id)
    names = {path.name for path in pull(repo_id, hub=hub).iterdir()}
    assert not names & {"evil.py", "model.bin"}


def replaced(client, repo_id, name, content):
    client.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo_id)


def test_another_size_is_refused_before_the_download(client, hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    replaced(client, repo_id, "adapter_model.safetensors", b"x" * 100)
    with pytest.raises(RegistryError, match="has 100 bytes, but the manifest says"):
        pull(repo_id, hub=hub)
    cached = Path(constants.HF_HUB_CACHE).rglob("adapter_model.safetensors")
    assert list(cached) == []


def test_other_content_of_the_same_size_is_refused(client, hub, artifact, base, repo_id, tmp_path):
    push(artifact, repo_id, hub=hub)
    size = read_manifest(artifact).files["adapter_model.safetensors"]["size"]
    replaced(client, repo_id, "adapter_model.safetensors", b"x" * size)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        pull(repo_id, hub=hub, to=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(ArtifactError, match="sha256 differs"):
        ftplug.load(base, repo_id)


def test_a_cache_that_somebody_altered_is_refused_and_force_cures_it(hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    weights = (pull(repo_id, hub=hub) / "adapter_model.safetensors").resolve()
    weights.write_bytes(b"x" * weights.stat().st_size)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        pull(repo_id, hub=hub)
    assert pull(repo_id, hub=hub, force=True)


def test_a_copy_is_made_sound_again_and_an_edited_card_stays(hub, artifact, repo_id, tmp_path):
    push(artifact, repo_id, hub=hub)
    target = pull(repo_id, to=tmp_path / "copy", hub=hub)
    (target / "README.md").write_text("mine")
    (target / "adapter_model.safetensors").write_bytes(b"x")
    pull(repo_id, to=target, hub=hub)
    read_manifest(target).verify_files(target)
    assert (target / "README.md").read_text() == "mine"
    (target / "adapter_config.json").unlink()
    (target / "adapter_config.json").mkdir()
    with pytest.raises(ArtifactError, match="is a folder: move it away"):
        pull(repo_id, to=target, hub=hub)
    assert read_manifest(target)


def test_a_link_stored_in_the_repository_is_refused(server, hub, artifact, repo_id, tmp_path):
    """Put there by git itself: the Hub's own API cannot make one."""
    push(artifact, repo_id, hub=hub)
    path = next(p for p in Path(server._root).rglob(f"{repo_id.split('/')[1]}*") if p.is_dir())
    repository = pygit2.Repository(str(path))
    head = repository.references["refs/heads/main"].peel(pygit2.Commit)
    index = pygit2.Index()
    index.read_tree(head.tree)
    blob = repository.create_blob(b"/etc/hostname")
    index.add(pygit2.IndexEntry("adapter_model.safetensors", blob, pygit2.enums.FileMode.LINK))
    tree = index.write_tree(repository)
    signature = pygit2.Signature("x", "x@example.org")
    repository.create_commit("refs/heads/main", signature, signature, "link", tree, [head.id])
    with pytest.raises((RegistryError, ArtifactError)) as refused:
        pull(repo_id, hub=hub, to=tmp_path / "copy")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "copy").exists()


def test_a_link_out_of_the_cache_is_refused(hub, artifact, repo_id, tmp_path):
    push(artifact, repo_id, hub=hub)
    weights = pull(repo_id, hub=hub) / "adapter_model.safetensors"
    outside = shutil.copy(weights, tmp_path / "outside")
    weights.unlink()
    weights.symlink_to(outside)
    with pytest.raises(RegistryError, match="link out of the cache"):
        pull(repo_id, hub=hub)
    assert pull(repo_id, hub=hub, force=True)
    assert (tmp_path / "outside").is_file()


def test_code_in_a_repository_is_never_run(client, hub, artifact, base, repo_id, tmp_path):
    code = f"open({str(tmp_path / 'owned')!r}, 'w')\n"
    manifest = json.loads((artifact / "ftplug.json").read_text())
    auto = {name: f"{repo_id}--evil.Evil" for name in ("AutoConfig", "AutoModel")}
    manifest["model"]["config"]["auto_map"] = auto
    (artifact / "ftplug.json").write_text(json.dumps(manifest))
    (artifact / "evil.py").write_text(code)
    client.create_repo(repo_id)
    client.upload_folder(repo_id=repo_id, folder_path=artifact)
    assert ftplug.load(base, repo_id)
    assert not (tmp_path / "owned").exists()


def test_what_is_no_artifact_says_so(client, hub, repo_id):
    client.create_repo(repo_id)
    with pytest.raises(RegistryError, match=r"neither ftplug\.json nor adapter_config\.json"):
        pull(repo_id, hub=hub)


def test_two_processes_worth_of_pulls_at_once(hub, artifact, repo_id, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    push(artifact, repo_id, hub=hub)
    with ThreadPoolExecutor(6) as pool:
        paths = set(pool.map(lambda _: pull(repo_id, hub=hub), range(6)))
    assert len(paths) == 1
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda n: pull(repo_id, to=tmp_path / f"c{n}", hub=hub), range(4)))
    for copy in copies:
        read_manifest(copy).verify_files(copy)  # raises where one is not whole


# Repositories that ftplug did not make.


@pytest.fixture
def plain(base, tmp_path):
    """An adapter as peft alone saves it."""
    model = BertForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(model, config)
    model.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain/README.md").unlink()
    return tmp_path / "plain"


def test_a_plain_peft_repository_loads_as_peft_does_and_says_so(
    client, hub, base, plain, repo_id, caplog
):
    client.create_repo(repo_id)
    client.upload_folder(repo_id=repo_id, folder_path=plain)
    ours = ftplug.load(base, repo_id)
    theirs = peft.PeftModel.from_pretrained(
        BertForSequenceClassification.from_pretrained(base), str(plain)
    )
    assert isinstance(ours, peft.PeftModel)
    assert torch.equal(logits(ours), logits(theirs))
    assert "has no ftplug.json" in caplog.text
    model = BertForSequenceClassification.from_pretrained(base)
    assert torch.equal(logits(ftplug.load(model, plain)), logits(theirs))


def test_pickled_weights_only_on_request(client, hub, base, plain, repo_id):
    theirs = peft.PeftModel.from_pretrained(
        BertForSequenceClassification.from_pretrained(base), str(plain)
    )
    tensors = peft.utils.load_peft_weights(str(plain), device="cpu")
    (plain / "adapter_model.safetensors").unlink()
    torch.save(dict(tensors), plain / "adapter_model.bin")
    client.create_repo(repo_id)
    client.upload_folder(repo_id=repo_id, folder_path=plain)
    with pytest.raises(RegistryError, match="--allow-pickle"):
        ftplug.load(base, repo_id)
    with pytest.raises(RegistryError, match="--allow-pickle"):
        ftplug.load(base, plain)
    loaded = ftplug.load(base, repo_id, allow_pickle=True)
    assert torch.equal(logits(loaded), logits(theirs))


class Payload:
    def __reduce__(self):
        return (Path.write_text, (Path("owned"), "owned"))


def test_a_pickle_that_runs_code_does_not(base, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (plain / "adapter_model.safetensors").unlink()
    torch.save({"x": Payload()}, plain / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="peft cannot load it"):
        ftplug.load(base, plain, allow_pickle=True)
    assert not Path("owned").exists()


PLAIN_CONFIGS = {
    "not readable as JSON": "{",
    "a JSON object is expected": "[]",
    "asks peft to import": '{"peft_type": "LORA", "megatron_config": {}, "megatron_core": "os"}',
    "no type 'NONESUCH': written by peft 9.9": '{"peft_type": "NONESUCH", "peft_version": "9.9"}',
    r"does not know later, sooner: written by peft \(unknown\)": (
        '{"peft_type": "LORA", "task_type": "SEQ_CLS", "sooner": 1, "later": {"a": 1}, "no": null}'
    ),
    "tells no model class": '{"peft_type": "LORA", "task_type": "TELEPATHY"}',
}


def test_a_plain_repository_of_another_peft_loads_where_it_asks_for_nothing_unknown(base, plain):
    wanted = logits(ftplug.load(base, plain))
    config = json.loads((plain / "adapter_config.json").read_text())
    config |= {"peft_version": "9.9", "later": None, "use_it": False, "pattern": {}, "more": 0}
    (plain / "adapter_config.json").write_text(json.dumps(config))
    assert torch.equal(logits(ftplug.load(base, plain)), wanted)


def test_plain_repositories_load_in_threads_and_in_inference_mode_as_alone(base, plain, tmp_path):
    broken = shutil.copytree(plain, tmp_path / "broken")
    tensors = load_file(broken / "adapter_model.safetensors")
    del tensors[max(name for name in tensors if "lora" in name)]
    save_file(tensors, broken / "adapter_model.safetensors", {"format": "pt"})
    filters = list(warnings.filters)
    wanted = logits(ftplug.load(base, plain))

    def loaded(folder):
        with torch.inference_mode():
            try:
                return ftplug.load(base, folder)
            except ArtifactError as error:
                return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(loaded, [plain, broken] * 8))
    assert all("missing adapter keys" in one for one in found[1::2])
    assert all(logits(one).equal(wanted) for one in found[::2])
    assert not any(p.is_inference() for one in found[::2] for p in one.parameters())
    assert list(warnings.filters) == filters


def test_a_plain_repository_that_fails_leaves_the_model_as_it_was(base, plain):
    model = BertForSequenceClassification.from_pretrained(base)
    before, names = logits(model), [name for name, _ in model.named_modules()]
    tensors = load_file(plain / "adapter_model.safetensors")
    misshapen = {n: t[:, :-1].contiguous() if "lora_A" in n else t for n, t in tensors.items()}
    save_file(misshapen, plain / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="peft cannot load it"):
        ftplug.load(model, plain)
    assert torch.equal(logits(model), before)
    assert [name for name, _ in model.named_modules()] == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    (plain / "adapter_model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ArtifactError, match="not readable as safetensors"):
        ftplug.load(model, plain)


CONFIGS = {
    "names none of them": {"num_labels": 10**9, "id2label": None, "label2id": None},
    None: {"num_labels": 10**9, "attn_implementation": "org/kernel", "quantization_config": {}},
}


@pytest.mark.parametrize("said", CONFIGS)
def test_a_config_chooses_neither_code_nor_memory(said, artifact, base):
    manifest = json.loads((artifact / "ftplug.json").read_text())
    manifest["model"]["config"] |= CONFIGS[said]
    (artifact / "ftplug.json").write_text(json.dumps(manifest))
    if said is None:  # what chooses code is left out, and the names count the labels
        assert ftplug.load(base, artifact).config._attn_implementation != "org/kernel"
    else:
        with pytest.raises(ArtifactError, match=said):
            ftplug.load(base, artifact)


@pytest.mark.parametrize("reason", PLAIN_CONFIGS)
def test_a_plain_repository_that_is_broken(reason, base, plain):
    text = PLAIN_CONFIGS[reason].replace('"megatron_config": {}', '"megatron_config": {"a": 1}')
    (plain / "adapter_config.json").write_text(text)
    with pytest.raises(FtplugError, match=reason) as refused:
        ftplug.load(base, plain)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["base_model_name_or_path", "revision", "task_type", "peft_type"])
def test_a_plain_repository_names_things_with_text(name, base, plain):
    path = plain / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: 1.5}))
    with pytest.raises(ArtifactError, match=rf"'{name}' is text, not 1\.5"):
        ftplug.load(base, plain)


@pytest.mark.parametrize("kind", ["renamed", "extra", "missing"])
def test_a_plain_repository_has_the_adapters_tensors_and_no_others(kind, base, plain):
    path = plain / "adapter_model.safetensors"
    tensors = load_file(path)
    name = max(name for name in tensors if "lora" in name)
    if kind == "extra":
        tensors["base_model.model.stolen"] = tensors[name].clone()
    elif kind == "renamed":
        tensors[f"{name}.x"] = tensors.pop(name)
    else:
        del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    model = BertForSequenceClassification.from_pretrained(base)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    expected = "belongs to nothing" if kind == "extra" else "Found missing adapter keys"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # else the tests' own settings would raise peft's
        with pytest.raises(ArtifactError, match=expected) as refused:
            ftplug.load(model, plain)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) <= 600
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], before[n]) for n in before)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert ftplug.load(model, plain, force=True)
    assert any("missing adapter keys" in str(w.message) for w in said) == (kind != "extra")


def test_names_that_are_neither_folder_nor_repository(base):
    for name in ("", "no-slash", "a/b/c", "../x", "~/x"):
        with pytest.raises(FtplugError):
            ftplug.load(base, name)
    with pytest.raises(RegistryError, match="is not a repository id"):
        pull("a/b/c")
    with pytest.raises(ArtifactError, match="no revision"):
        ftplug.load(base, base, revision="v1")
