"""Data without a name, a base from a folder: shown, found and sorted by what is known of them."""

import json
import shutil

import pytest
from ftplug_registry import push, search, show
from huggingface_hub import ModelCard
from transformers import BertForSequenceClassification

import ftplug
from ftplug import ArtifactError
from ftplug.artifacts.manifest import read_manifest


@pytest.fixture(scope="module")
def unnamed(base, tmp_path_factory):
    """Two artifacts on a folder's base, of data that nobody has named."""
    folder = tmp_path_factory.mktemp("unnamed")
    for name, accuracy in (("good", 0.75), ("better", 0.875)):
        model = BertForSequenceClassification.from_pretrained(base, id2label={0: "-", 1: "+"})
        training = {
            "data": {"train_rows": 8},
            "metrics": {"eval_accuracy": accuracy, "eval_loss": 1 - accuracy},
            "metrics_on_other_data": [{"data": {"rows": 5}, "metrics": {"f1": accuracy}}],
        }
        ftplug.save(ftplug.apply(model, "lora"), folder / name, training=training)
    return folder


def test_found_by_metric_weights_and_architecture(hub, unnamed, typed):
    for name in ("good", "better"):
        push(unnamed / name, f"alice/own-{name}", hub=hub)
    both = ["alice/own-better", "alice/own-good"]
    digest = read_manifest(unnamed / "good").base["fingerprint"]["bf16"]
    for base in (digest, "bert", "BertForSequenceClassification"):
        found = search("own-", base=base, metric="accuracy", sort="metric", hub=hub).results
        assert [one.repo_id for one in found] == both
    assert [one.repo_id for one in search("own-", metric="f1", sort="metric", hub=hub).results] == (
        both
    )
    assert found[0].base is None
    assert found[0].base_known_by == (digest, "bert", "BertForSequenceClassification")
    assert found[0].methods == ("lora",)
    for other in ("llama", "0" * 16, "org/base", "bert/bert"):
        assert search("own-", base=other, hub=hub).results == ()
    code, out, _ = typed("search", "own-", "--base", "bert", "--metric", "loss", "--sort", "metric")
    assert code == 0
    assert out.index(both[0]) < out.index(both[1])
    assert digest in out
    for name in ("f1", "eval_f1"):  # also as a Trainer calls it
        [first, second] = search("own-", metric=name, sort="metric", reverse=True, hub=hub).results
        assert [first.repo_id, second.repo_id] == both[::-1]
    pages = [search("own-", base="bert", limit=1, page=n, hub=hub) for n in (1, 2, 3)]
    assert [len(page.results) for page in pages] == [1, 1, 0]
    assert [page.more for page in pages] == [True, False, False]


def test_shown_with_what_is_known(unnamed, typed):
    code, out, _ = typed("show", unnamed / "good")
    digest = show(unnamed / "good")["base"]["fingerprint"]["bf16"]
    assert code == 0
    assert "Base\ta model without a Hub id\n" in out
    assert f"Base weights\t{digest}\n" in out
    assert "Base architecture\tbert\n" in out
    assert "Metrics\teval_accuracy 0.75" in out
    assert "Metrics elsewhere\tf1 0.75 on rows 5\n" in out


def test_the_author_names_both_when_pushing(client, hub, unnamed, typed, repo_id, tmp_path):
    folder = shutil.copytree(unnamed / "good", tmp_path / "a")
    code, _, err = typed(
        "push", folder, repo_id, "--dataset-name", "Our reviews", "--base-id", "org/own-base"
    )
    assert (code, err) == (0, "")
    card = ModelCard.load(repo_id)
    assert card.data.base_model == "org/own-base"
    assert {one.dataset_name for one in card.data.eval_results} == {
        "Our reviews", "unnamed data, 5 rows",
    }  # fmt: skip
    assert "| Data | Our reviews |" in card.text
    [found] = search(base="org/own-base", metric="accuracy", hub=hub).results
    assert found.repo_id == repo_id
    code, out, _ = typed("show", repo_id)
    assert "Base\torg/own-base (its author's word)\n" in out
    assert "Data set\tOur reviews\n" in out
    assert read_manifest(folder).author == {
        "dataset_names": ["Our reviews"], "finetuned_from": "org/own-base",
    }  # fmt: skip
    assert read_manifest(folder).base["id"] is None
    assert not push(folder, repo_id, hub=hub).changed


@pytest.mark.parametrize(
    "wrong", [("--dataset-name", "a\nb"), ("--base-id", "a/b/c"), ("--base-id", "/tmp/base")]
)
def test_names_that_are_none_are_refused_before_anything_is_sent(wrong, unnamed, typed, repo_id):
    code, out, err = typed("push", unnamed / "good", repo_id, *wrong)
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = typed("run", "--method", "lora", *wrong, "--", "train.py")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert wrong[0] in err


def test_a_base_whose_id_the_run_knows_has_no_other(hub, artifact, repo_id):
    path = artifact / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["base"]["id"] = "org/known"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="the base was loaded as org/known"):
        push(artifact, repo_id, hub=hub, author={"finetuned_from": "org/other"})
    assert push(artifact, repo_id, hub=hub, author={"finetuned_from": "org/known"}).changed
