"""What the author says: kept with the artifact, in its card, and never overwritten once edited."""

import copy
import json

import pytest
import tiny
from huggingface_hub import ModelCard
from runs import trainer
from transformers import Trainer

import ftplug
from ftplug import ArtifactError
from ftplug.artifacts.author import (
    author_from_card,
    checked_author,
    merged_author,
    named_by_author,
)
from ftplug.artifacts.card import card_files, is_generated
from ftplug.artifacts.manifest import read_manifest
from ftplug.artifacts.saving import annotate


@pytest.fixture(scope="module")
def base():
    return tiny.bert()


@pytest.fixture
def folder(base, tmp_path):
    return ftplug.save(ftplug.apply(copy.deepcopy(base), "lora"), tmp_path / "a")


def bound(base, out, cls=Trainer, **options):
    options = {"max_steps": 2, "save_strategy": "no"} | options
    return ftplug.attach(trainer(copy.deepcopy(base), out, cls=cls, **options), "lora")


def card(folder):
    return ModelCard.load(folder / "README.md")


# The facts


def test_one_string_stands_for_a_list_and_none_for_nothing():
    assert checked_author({"tags": "a", "language": ["en"], "notes": None}) == {
        "tags": ["a"],
        "language": ["en"],
    }


@pytest.mark.parametrize(
    ("said", "message"),
    [({"licence": "mit"}, "no field named 'licence'.*license"), ({"notes": 3}, "notes: Input")],
)
def test_a_wrong_field_is_named(said, message):
    with pytest.raises(ArtifactError, match=message):
        checked_author(said)


def test_the_later_word_counts_and_tags_add_up():
    earlier = checked_author({"notes": "a", "license": "mit", "tags": ["x"]})
    later = checked_author({"notes": "b", "license": "", "tags": ["y", "x"]})
    assert merged_author(earlier, later) == {"notes": "b", "tags": ["x", "y"]}


def test_what_scripts_tell_the_trainers_card(tmp_path):
    said = {
        "language": "en",
        "finetuned_from": str(tmp_path),
        "tasks": "text-classification",
        "dataset_tags": ["glue", "./data"],
        "dataset": "GLUE MNLI",
        "dataset_args": None,
        "unheard_of": "x",
        "model_name": 5,
    }
    assert author_from_card(said) == {
        "language": ["en"],
        "tasks": ["text-classification"],
        "datasets": ["glue"],
        "dataset_names": ["GLUE MNLI"],
    }


# On an artifact


def test_annotate_writes_manifest_and_card(base, folder):
    annotate(folder, notes="Only for tests.", license="mit", training={"metrics": {"eval_f1": 0.5}})
    manifest = read_manifest(folder)
    assert manifest.author == {"notes": "Only for tests.", "license": "mit"}
    assert "Only for tests." in card(folder).text
    assert "| f1 (validation) | 0.5 |" in card(folder).text
    assert card(folder).data.license == "mit"
    ftplug.load(copy.deepcopy(base), folder)
    assert annotate(folder, license="").author == {"notes": "Only for tests."}
    assert card(folder).data.license is None


def test_a_later_save_keeps_what_was_said(base, folder):
    annotate(folder, notes="Only for tests.", license="mit")
    model = ftplug.apply(copy.deepcopy(base), "freeze", layers=1)
    ftplug.save(model, folder, author={"license": "apache-2.0"})
    assert read_manifest(folder).author == {"notes": "Only for tests.", "license": "apache-2.0"}
    assert "Only for tests." in card(folder).text


def test_what_is_no_artifact_cannot_be_annotated(tmp_path):
    with pytest.raises(ArtifactError, match=r"no ftplug\.json"):
        annotate(tmp_path, notes="x")


# Whose card it is


def test_an_edited_card_is_never_overwritten(base, folder):
    path = folder / "README.md"
    edited = path.read_text().replace("## Use", "## How I use it")
    path.write_text(edited)
    assert not is_generated(edited)
    annotate(folder, notes="x")
    ftplug.save(ftplug.apply(copy.deepcopy(base), "full"), folder)
    assert path.read_text() == edited
    assert read_manifest(folder).author == {"notes": "x"}


def test_metadata_that_was_edited_on_the_hub_counts(folder):
    from huggingface_hub import metadata_save

    assert is_generated((folder / "README.md").read_text())
    metadata_save(folder / "README.md", {"license": "mit"})
    assert not is_generated((folder / "README.md").read_text())


def test_line_ends_do_not_make_it_another_card(folder):
    assert is_generated((folder / "README.md").read_text().replace("\n", "\r\n"))


def test_the_trainers_own_card_is_replaced(base, tmp_path):
    Trainer.create_model_card(trainer(copy.deepcopy(base), tmp_path), model_name="theirs")
    assert is_generated((tmp_path / "README.md").read_text())
    ftplug.save(ftplug.apply(copy.deepcopy(base), "lora"), tmp_path)
    assert card(tmp_path).data.library_name == "ftplug"


def test_the_curve_comes_and_goes_with_the_card(base, tmp_path):
    curve, readme = tmp_path / "training_curve.png", tmp_path / "README.md"
    run = bound(base, tmp_path)
    run.train()
    run.save_model()
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert not {"README.md", "training_curve.png"} & set(read_manifest(tmp_path).files)
    ftplug.save(ftplug.apply(copy.deepcopy(base), "freeze"), tmp_path)  # has no history
    assert not curve.exists()
    readme.write_text("# Mine, with ![](training_curve.png)")
    curve.write_bytes(b"mine")
    run.save_model()
    assert curve.read_bytes() == b"mine"
    readme.unlink()
    run.save_model()  # a picture without a card of ours is the user's
    assert curve.read_bytes() == b"mine"
    assert is_generated(readme.read_text())


def test_a_card_that_fails_does_not_cost_the_model(base, tmp_path, monkeypatch, caplog):
    def broken(manifest, *, repo_id=None):
        raise ValueError("no card today")

    monkeypatch.setattr("ftplug_registry.card.rendering.render", broken)
    folder = ftplug.save(ftplug.apply(copy.deepcopy(base), "lora"), tmp_path)
    ftplug.load(copy.deepcopy(base), folder)
    assert "no card today" in caplog.text
    assert "# lora on BertForSequenceClassification" in (folder / "README.md").read_text()
    with pytest.raises(ftplug.PluginError, match=r"ftplug_registry\.card\.rendering:render"):
        card_files(read_manifest(folder))


# Trainer.create_model_card


def own(tags):
    """Leave out what a base without an id is found by."""
    return [tag for tag in tags if not tag.startswith("ftplug-base:")]


def test_a_trainers_card_is_ours_with_what_the_script_says(base, tmp_path):
    run = bound(base, tmp_path)
    run.train()
    run.save_model()
    run.create_model_card("en", "mit", tags="mine", model_name="Mine", dataset_tags="glue")
    data = card(tmp_path).data
    assert (data.language, data.license, data.datasets) == (["en"], "mit", ["glue"])
    assert own(data.tags) == ["ftplug", "ftplug:lora", "mine"]
    assert "# Mine\n" in card(tmp_path).text
    run.save_model()
    run.create_model_card(tags=["more"])
    assert own(card(tmp_path).data.tags) == ["ftplug", "ftplug:lora", "mine", "more"]
    assert "# Mine\n" in card(tmp_path).text


def test_what_is_measured_after_saving_is_on_the_card(base, tmp_path):
    run = bound(base, tmp_path)
    run.train()
    run.save_model()
    assert "## Results\n\n|" not in card(tmp_path).text
    run.evaluate()
    run.create_model_card()
    assert "| loss (validation) | " in card(tmp_path).text


def test_metrics_of_other_weights_are_not_added(base, tmp_path):
    run = bound(base, tmp_path)
    run.train()
    run.save_model()
    run.args.max_steps = 4
    run.train()
    run.evaluate()
    run.create_model_card()
    assert read_manifest(tmp_path).training["steps"] == 2
    assert "metrics" not in read_manifest(tmp_path).training


def test_without_an_artifact_it_is_saved_first(base, tmp_path):
    run = bound(base, tmp_path)
    run.train()
    run.create_model_card(model_name="Mine")
    ftplug.load(copy.deepcopy(base), tmp_path)
    assert "# Mine\n" in card(tmp_path).text


def test_what_was_said_before_saving_elsewhere_is_kept(base, tmp_path):
    run = bound(base, tmp_path / "out")
    run.create_model_card(license="mit")
    run.train()
    run.save_model(tmp_path / "elsewhere")
    assert card(tmp_path / "elsewhere").data.license == "mit"


class LikeTRL(Trainer):
    """Has other parameters, and asks for a card at every checkpoint."""

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        raise AssertionError("replaced")

    def _save_checkpoint(self, model, trial):
        self.create_model_card(model_name="checkpointed")
        super()._save_checkpoint(model, trial)


def test_a_trainer_whose_card_has_other_parameters(base, tmp_path):
    run = bound(base, tmp_path, LikeTRL, save_strategy="steps", save_steps=1)
    run.train()
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-2"}
    run.create_model_card("Mine", "org/data", ["t"])
    author = json.loads((tmp_path / "ftplug.json").read_text())["author"]
    assert author == {"model_name": "Mine", "datasets": ["org/data"], "tags": ["t"]}
    assert card(tmp_path).data.datasets == ["org/data"]
    ftplug.load(copy.deepcopy(base), tmp_path)


# Names for data and base, from a command line


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dataset_name": ""}, "one line"),
        ({"dataset_name": " \n "}, "one line"),
        ({"dataset_name": "two\nlines"}, "one line"),
        ({"dataset_name": "esc\x1b[2J"}, "one line"),
        ({"dataset_name": "x" * 121}, "120 characters"),
        ({"dataset_name": "/home/me/data.csv"}, "path"),
        ({"dataset_name": "C:\\data"}, "path"),
        ({"base_id": ""}, "org/name"),
        ({"base_id": "a/b/c"}, "org/name"),
        ({"base_id": "../base"}, "org/name"),
        ({"base_id": "/home/me/base"}, "org/name"),
        ({"base_id": "org/name\n"}, "org/name"),
        ({"base_id": "org/" + "x" * 100}, "org/name"),
    ],
    ids=repr,
)
def test_what_is_no_name_is_refused_in_one_line(given, reason):
    with pytest.raises(ArtifactError, match=reason) as refused:
        named_by_author(**given)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 150


def test_names_go_where_an_author_would_say_them():
    named = named_by_author(dataset_name=" Our reviews, 2024 (Köln) ", base_id="org/base")
    assert named == {"dataset_names": ["Our reviews, 2024 (Köln)"], "finetuned_from": "org/base"}
    assert named_by_author(base_id="bert-base-uncased") == {"finetuned_from": "bert-base-uncased"}
    assert named_by_author() == {}
