"""A card edited on the Hub: its prose stays, what is generated is renewed, or a refusal."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commits import file, payload
from ftplug_registry import push
from ftplug_registry.pushing import card_on_hub
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import disable_progress_bars, get_session
from transformers import BertForSequenceClassification

import ftplug
from ftplug import RegistryError
from ftplug.artifacts import card
from ftplug.artifacts.card import is_generated
from ftplug.artifacts.digests import file_entry

WARNING = "# DEPRECATED, known to fail on Spanish. Use ann/y."
FLAG = "--overwrite-card"
MINE = "---\nlicense: mit\n---\n"


def run(base, folder, accuracy, method="lora", author=None, **settings):
    """Save an artifact as a run of its own would."""
    model = BertForSequenceClassification.from_pretrained(base, id2label={0: "bad", 1: "good"})
    model.config._name_or_path = "org/tiny-bert"
    ftplug.apply(model, method, **settings)
    training = {
        "data": {"dataset": "org/reviews", "train_rows": 8},
        "metrics": {"eval_accuracy": accuracy},
        "steps": round(100 * accuracy),
    }
    return ftplug.save(model, folder, training=training, author=author)


@pytest.fixture
def first(base, tmp_path):
    return run(base, tmp_path / "first", 0.25)


@pytest.fixture
def second(base, tmp_path):
    """A later run: other metrics, settings and size."""
    return run(base, tmp_path / "second", 0.75, r=2)


def on_hub(client, repo_id):
    path = client.hf_hub_download(repo_id, "README.md", force_download=True)
    return Path(path).read_bytes().decode()


def edit(client, repo_id, change, name="README.md"):
    """Edit the card as the Hub's web editor does: a commit of the card alone."""
    text = change(on_hub(client, repo_id))
    raw = text if isinstance(text, bytes) else text.encode()
    client.upload_file(path_or_fileobj=raw, path_in_repo=name, repo_id=repo_id)
    return text


def deprecate(text):
    at = text.index("\n# ")
    return f"{text[:at]}\n{WARNING}\n{text[at:]}"


def test_a_later_run_renews_tables_and_metadata_and_keeps_the_prose(
    client, hub, first, second, repo_id, caplog
):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, deprecate)
    caplog.clear()
    done = push(second, repo_id, hub=hub)
    text = on_hub(client, repo_id)
    assert WARNING in text
    assert "| accuracy (validation) | 0.75 |" in text
    assert "0.25" not in text
    assert "`r=2`" in text
    assert "| Steps | 75 |" in text
    [result] = ModelCard(text).data.eval_results
    assert result.metric_value == 0.75
    assert text.replace(f"{WARNING}\n\n", "") == generated(second, repo_id)
    assert caplog.text.count("\n") == 1
    assert FLAG in caplog.text
    assert done.card in caplog.text
    assert done.files["README.md"] == len(text.encode())


def generated(folder, repo_id):
    from ftplug.artifacts.manifest import read_manifest

    return card.card_files(read_manifest(folder), repo_id=repo_id)["README.md"].decode()


def test_each_further_push_keeps_it_from_wherever_it_comes(
    client, hub, base, first, second, repo_id, tmp_path
):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, deprecate)
    push(shutil.copytree(first, tmp_path / "again"), repo_id, hub=hub, message="hotfix")
    assert WARNING in on_hub(client, repo_id)
    push(second, repo_id, hub=hub)
    edit(client, repo_id, lambda text: text.replace("## Use", "Mind the gap.\n\n## Use"))
    push(run(base, tmp_path / "third", 0.5, "bottleneck", author={"notes": "N."}), repo_id, hub=hub)
    text = on_hub(client, repo_id)
    assert WARNING in text
    assert "Mind the gap.\n\n## Use" in text
    assert "| accuracy (validation) | 0.5 |" in text
    assert "## Intended use and limits\n\nN.\n" in text
    assert ModelCard(text).data.tags == ["ftplug", "ftplug:bottleneck"]
    assert text.count("| Metric |") == 1


def test_the_same_artifact_again_changes_nothing(client, hub, first, repo_id):
    push(first, repo_id, hub=hub)
    edited = edit(client, repo_id, deprecate)
    done = push(first, repo_id, hub=hub)
    assert not done.changed
    assert on_hub(client, repo_id) == edited


def test_overwrite_card_replaces_it(client, hub, first, second, repo_id):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, deprecate)
    assert push(second, repo_id, hub=hub, overwrite_card=True).card is None
    assert on_hub(client, repo_id) == generated(second, repo_id)
    assert is_generated(on_hub(client, repo_id))


def test_an_unedited_card_is_written_anew_without_a_word(
    client, hub, first, second, repo_id, caplog
):
    push(first, repo_id, hub=hub)
    push(second, repo_id, hub=hub)
    edit(client, repo_id, lambda text: text.replace("\n", "\r\n"))  # by git, or an editor
    push(first, repo_id, hub=hub)
    assert on_hub(client, repo_id) == generated(first, repo_id)
    assert caplog.text == ""


def test_metadata_of_the_author_stay_and_those_of_the_run_are_renewed(
    client, hub, first, second, repo_id
):
    push(first, repo_id, hub=hub)
    edit(
        client,
        repo_id,
        lambda text: text.replace("- ftplug\n", "- ftplug\n- medical\n", 1).replace(
            "---\n\n#", "extra: {a: [1, 2]}  # mine\nlicense: mit\ndate: 2024-01-01\n---\n\n#", 1
        ),
    )
    push(second, repo_id, hub=hub)
    text = on_hub(client, repo_id)
    data = ModelCard(text).data
    assert "extra: {a: [1, 2]}  # mine\n" in text
    assert (data.license, str(data.date)) == ("mit", "2024-01-01")
    assert data.tags == ["ftplug", "medical", "ftplug:lora"]
    assert data.eval_results[0].metric_value == 0.75


CONFLICTS = {
    "table of results is not as ftplug wrote it": lambda t: t.replace("0.25", "0.99"),
    "table of facts is not as ftplug wrote it": lambda t: t.replace("| Model class |", "| Kind |"),
    "table of the training is not as": lambda t: t.replace("| Steps | 25 |\n", ""),
    "table of results is there twice": lambda t: t + "\n" + table_of(t),
    "nothing in it is as ftplug wrote it": lambda t: "---\nlicense: mit\n---\n# Mine\n\nProse.\n",
    "another base_model than": lambda t: t.replace("base_model: org/tiny-bert", "base_model: me/x"),
    "is no UTF-8": lambda t: t.encode("utf-16"),
}


def table_of(text):
    return text[text.index("| Metric |") :].split("\n\n")[0] + "\n"


def commit(client, repo_id, raw):
    """Write a card without the client's look at its metadata."""
    answer = get_session().post(
        f"{client.endpoint}/api/models/{repo_id}/commit/main",
        content=payload(("file", file("README.md", raw))),
        headers={"Authorization": f"Bearer {client.token}"},
    )
    answer.raise_for_status()


@pytest.mark.parametrize("reason", CONFLICTS)
def test_what_cannot_be_merged_is_refused_and_the_flag_named(
    reason, client, hub, base, first, second, repo_id, tmp_path
):
    push(first, repo_id, hub=hub)
    changed = CONFLICTS[reason](on_hub(client, repo_id))
    raw = changed if isinstance(changed, bytes) else changed.encode()
    commit(client, repo_id, raw)
    before = client.model_info(repo_id).sha
    later = second
    if "base_model" in reason:  # three values meet
        later = run(base, tmp_path / "other", 0.5)
        for path in (config := later / "adapter_config.json", later / "ftplug.json"):
            path.write_text(path.read_text().replace("org/tiny-bert", "org/other"))
        manifest = json.loads(path.read_text())
        manifest["files"][config.name] = file_entry(config)
        path.write_text(json.dumps(manifest))
        card_file = later / "README.md"
        card_file.unlink()
    with pytest.raises(RegistryError, match=reason) as refused:
        push(later, repo_id, hub=hub)
    assert FLAG in str(refused.value)
    assert "\n" not in str(refused.value)
    assert client.model_info(repo_id).sha == before
    push(later, repo_id, hub=hub, overwrite_card=True)
    assert is_generated(on_hub(client, repo_id))


def test_the_command_says_it_and_takes_the_flag(client, hub, first, second, repo_id, typed, caplog):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, lambda text: f"{MINE}# Mine\n")
    line = ("push", second, repo_id)
    code, out, err = typed(*line)
    assert code == 1
    assert (err.count("\n"), FLAG in err) == (1, True)
    code, out, _ = typed(*line, FLAG, "--json")
    assert (code, json.loads(out)["card"]) == (0, None)
    edit(client, repo_id, deprecate)
    code, out, _ = typed(*line)
    assert (code, WARNING in on_hub(client, repo_id)) == (0, True)
    assert "edited by hand" in caplog.text


# Whose card it is


def test_a_card_of_an_earlier_version_is_found_in_the_history(
    client, hub, first, second, repo_id, monkeypatch
):
    """Its tables were others, so that this version would not write them so again."""
    render = card.card_files

    def earlier(manifest, **options):
        files = render(manifest, **options)
        text = files["README.md"].decode().partition("\n<!-- Written")[0]
        text = text.replace("| Model class |", "| Class of the model |")
        return files | {"README.md": card._sealed(text)}

    monkeypatch.setattr("ftplug_registry.contents.card_files", earlier)
    push(first, repo_id, hub=hub)
    monkeypatch.undo()
    edit(client, repo_id, deprecate)
    push(second, repo_id, hub=hub)
    text = on_hub(client, repo_id)
    assert WARNING in text
    assert "Class of the model" not in text
    assert "| accuracy (validation) | 0.75 |" in text


def test_a_card_without_its_seal_is_known_by_its_artifact(
    client, hub, first, second, repo_id, monkeypatch
):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, lambda text: text.partition("\n<!-- Written")[0])
    monkeypatch.setattr(card_on_hub, "_COMMITS", 0)  # as after a squash
    push(second, repo_id, hub=hub)
    text = on_hub(client, repo_id)
    assert "| accuracy (validation) | 0.75 |" in text
    assert "0.25" not in text


def test_a_card_of_another_library_is_refused(client, hub, first, repo_id):
    client.create_repo(repo_id)
    text = "---\ntags: [x]\n---\n# A model of mine\n"
    client.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo_id)
    with pytest.raises(RegistryError, match=FLAG):
        push(first, repo_id, hub=hub)
    assert on_hub(client, repo_id) == text


def test_the_metadata_that_the_hubs_form_writes_are_kept(client, hub, first, repo_id):
    client.create_repo(repo_id)
    text = b"---\nlicense: cc-by-4.0\n---\n"
    client.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=repo_id)
    push(first, repo_id, hub=hub)
    found = ModelCard(on_hub(client, repo_id))
    assert (found.data.license, found.data.library_name) == ("cc-by-4.0", "ftplug")
    assert "| accuracy (validation) | 0.25 |" in found.text


TRAINERS = """---
tags:
- generated_from_trainer
---

<!-- This model card has been generated automatically according to the information the Trainer had
access to. You should probably proofread and complete it, then remove this comment. -->

# x

## Model description

{}

## Intended uses & limitations

More information needed
"""


def test_a_trainers_card_gives_way_while_nobody_has_filled_it_in(
    client, hub, first, repo_id, caplog
):
    client.create_repo(repo_id)
    edited = TRAINERS.format("It tells good from bad.")
    for text in (edited, TRAINERS.format("More information needed")):
        client.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo_id)
        if text == edited:
            with pytest.raises(RegistryError, match=FLAG):
                push(first, repo_id, hub=hub)
    push(first, repo_id, hub=hub)
    assert on_hub(client, repo_id) == generated(first, repo_id)
    assert "a Trainer had generated is replaced" in caplog.text


def test_the_authors_own_card_is_published_again_and_again(client, hub, first, second, repo_id):
    """Edited in the folder: what lies on the Hub is what the push before wrote."""
    for text in (f"{MINE}# Mine\n", f"{MINE}# Mine, better\n"):
        (first / "README.md").write_text(text)
        assert push(first, repo_id, hub=hub).card is None
        assert on_hub(client, repo_id) == text
    with pytest.raises(RegistryError, match=FLAG):  # a later run has no card of its own
        push(second, repo_id, hub=hub)
    assert on_hub(client, repo_id) == text


def test_prose_in_the_folders_card_outlives_the_next_run(client, hub, first, second, repo_id):
    (first / "README.md").write_text(deprecate((first / "README.md").read_text()))
    push(first, repo_id, hub=hub)
    push(second, repo_id, hub=hub)
    assert WARNING in on_hub(client, repo_id)
    assert "| accuracy (validation) | 0.75 |" in on_hub(client, repo_id)


def test_edited_here_and_there_is_refused_until_both_are_one(client, hub, first, repo_id):
    (first / "README.md").write_text(f"{MINE}# Mine\n")
    push(first, repo_id, hub=hub)
    there = edit(client, repo_id, lambda text: f"{text}\nMore.\n")
    (first / "README.md").write_text(f"{MINE}# Mine, better\n")
    with pytest.raises(RegistryError, match=f"by hand as well.*{FLAG}"):
        push(first, repo_id, hub=hub)
    assert on_hub(client, repo_id) == there
    (first / "README.md").write_text(there)
    push(first, repo_id, hub=hub)
    (first / "README.md").write_text(f"{MINE}# Mine, better\n\nMore.\n")
    push(first, repo_id, hub=hub)
    assert on_hub(client, repo_id) == f"{MINE}# Mine, better\n\nMore.\n"


# Odd cards, and others at work


def test_line_ends_of_another_editor_stay(client, hub, first, second, repo_id):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, lambda text: deprecate(text).replace("\n", "\r\n"))
    push(second, repo_id, hub=hub)
    text = on_hub(client, repo_id)
    assert f"{WARNING}\r\n" in text
    assert "| accuracy (validation) | 0.75 |\r\n" in text
    assert text.count("\n") == text.count("\r\n")


def test_an_editor_that_aligns_tables_is_no_conflict(client, hub, first, second, repo_id):
    push(first, repo_id, hub=hub)
    edit(
        client,
        repo_id,
        lambda t: t.replace("| --- |", "| :------ |").replace("| Steps |", "|Steps  |"),
    )
    push(second, repo_id, hub=hub)
    assert "| Steps | 75 |" in on_hub(client, repo_id)


def test_metadata_that_were_taken_out_come_back(client, hub, first, second, repo_id):
    push(first, repo_id, hub=hub)
    body = on_hub(client, repo_id).split("---\n", 2)[2]
    commit(client, repo_id, f"{body}\nMine.\n".encode())
    push(second, repo_id, hub=hub)
    found = ModelCard(on_hub(client, repo_id))
    assert found.data.library_name == "ftplug"
    assert found.text.rstrip().endswith("Mine.")


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["word ", "x\n\n", "| a | b |\n", "# h\n", "```\n", "\n", "---\n"]
)
def test_a_card_of_a_megabyte(piece, client, hub, first, second, repo_id):
    push(first, repo_id, hub=hub)
    long = piece * (2**20 // len(piece))
    edit(client, repo_id, lambda text: text + "\n" + long)
    push(second, repo_id, hub=hub)
    text = on_hub(client, repo_id)
    assert text.endswith(long)
    assert "| accuracy (validation) | 0.75 |" in text


def test_an_edit_that_comes_between_look_and_commit_is_not_lost(
    client, hub, first, second, repo_id, monkeypatch
):
    push(first, repo_id, hub=hub)
    create, seen = HfApi.create_commit, []

    def overtaken(self, *args, **options):
        seen.append(options["parent_commit"])
        if len(seen) == 1:
            monkeypatch.setattr(HfApi, "create_commit", create)
            edit(client, repo_id, deprecate)
            monkeypatch.setattr(HfApi, "create_commit", overtaken)
        return create(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_commit", overtaken)
    push(second, repo_id, hub=hub)
    assert len(set(seen)) == len(seen) == 2
    assert WARNING in on_hub(client, repo_id)
    assert "| accuracy (validation) | 0.75 |" in on_hub(client, repo_id)


def test_two_pushes_at_once_keep_what_was_written(client, hub, first, second, repo_id):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, deprecate)
    disable_progress_bars()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda folder: push(folder, repo_id, hub=hub), (first, second) * 3))
    assert all(one.card for one in done)
    text = on_hub(client, repo_id)
    assert WARNING in text
    assert text.count("| Metric |") == 1
    path = client.hf_hub_download(repo_id, "ftplug.json", force_download=True)
    manifest = json.loads(Path(path).read_text())
    accuracy = manifest["training"]["metrics"]["eval_accuracy"]
    assert f"| accuracy (validation) | {accuracy} |" in text


def test_the_history_is_looked_through_no_further_than_needed(
    client, hub, first, second, repo_id, monkeypatch
):
    push(first, repo_id, hub=hub)
    edit(client, repo_id, deprecate)

    def refuse(*arguments):
        raise AssertionError("looked")

    monkeypatch.setattr(card_on_hub._Repository, "_sealed", refuse)
    push(second, repo_id, hub=hub)
