"""``Trainer(push_to_hub=True)``: artifact and card, in every strategy, and no pickle."""

import json
import logging
from pathlib import Path

import pytest
import tiny
import torch
from ftplug_registry import pull
from ftplug_registry.bom.document import BOM
from huggingface_hub import ModelCard, hf_hub_download
from runs import StopAt, logits, trainer

import ftplug

BINDINGS = ["callback", "attach"]


def bound(out, repo_id, client, method="lora", how="attach", **options):
    """Return a Trainer that pushes to the embedded Hub, with a method attached."""
    defaults = {
        "push_to_hub": True,
        "hub_model_id": repo_id,
        "hub_token": client.token,
        "max_steps": 4,
        "save_steps": 2,
        "hub_always_push": True,
    }
    callbacks = [ftplug.FTPlugCallback(method)] if how == "callback" else None
    made = trainer(tiny.bert(), out, callbacks=callbacks, **(defaults | options))
    return made if callbacks else ftplug.attach(made, method)


def files(client, repo_id, revision=None):
    return set(client.list_repo_files(repo_id, revision=revision)) - {".gitattributes"}


@pytest.mark.parametrize("how", BINDINGS)
def test_what_a_run_publishes_is_an_artifact_and_its_card(how, client, hub, repo_id, tmp_path):
    trained = bound(tmp_path / "out", repo_id, client, how=how)
    trained.train()
    (tmp_path / "out/training_args.bin").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "out/diary.txt").write_text("what else lies in an output folder")
    info = trained.push_to_hub(license="mit", tags=["reviews"], dataset_tags="org/reviews")
    assert info.oid == client.model_info(repo_id).sha
    listed = json.loads((tmp_path / "out/ftplug.json").read_text())["files"]
    names = files(client, repo_id)
    assert names - {"training_curve.png", BOM} == {*listed, "ftplug.json", "README.md"}
    card = ModelCard.load(repo_id)
    assert card.data.license == "mit"
    assert {"ftplug", "ftplug:lora", "reviews"} <= set(card.data.tags)
    assert card.data.datasets == ["org/reviews"]
    assert f'"{repo_id}")' in card.content
    again = ftplug.load(tiny.bert(), pull(repo_id, hub=hub))
    assert torch.equal(logits(again), logits(trained.model))


STRATEGIES = {"end": 0, "every_save": 2, "checkpoint": 4, "all_checkpoints": 4}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_uploads_during_training_follow_the_strategy(strategy, client, repo_id, tmp_path):
    trained = bound(tmp_path / "out", repo_id, client, hub_strategy=strategy)
    trained.train()
    titles = [c.title for c in client.list_repo_commits(repo_id) if c.title.startswith("Training")]
    assert len(titles) == STRATEGIES[strategy]
    names = files(client, repo_id)
    pickles = {name for name in names if name.endswith((".bin", ".pt", ".pth"))}
    if strategy in ("end", "every_save"):
        assert not pickles
    else:  # the user's explicit wish: the optimizer's state
        folder = "last-checkpoint" if strategy == "checkpoint" else "checkpoint-4"
        assert {name.split("/")[0] for name in pickles} >= {folder}
        assert not {name for name in pickles if "/" not in name}
    left = [path.name for path in (tmp_path / "out").glob("_ftplug*")]
    assert left == []


def test_every_upload_is_a_whole_artifact_of_its_moment(client, hub, repo_id, tmp_path):
    trained = bound(tmp_path / "out", repo_id, client)
    trained.train()
    shas = {c.title: c.commit_id for c in client.list_repo_commits(repo_id)}
    steps = {}
    for title, sha in shas.items():
        if title.startswith("Training in progress"):
            path = pull(repo_id, sha, hub=hub)
            manifest = json.loads((path / "ftplug.json").read_text())
            steps[title] = manifest["training"]["steps"]
            assert ftplug.load(tiny.bert(), path)
    assert steps == {"Training in progress, step 2": 2, "Training in progress, step 4": 4}


def test_a_script_that_ends_with_create_model_card_keeps_our_card(client, repo_id, tmp_path):
    trained = bound(tmp_path / "out", repo_id, client, push_to_hub=False)
    trained.train()
    trained.save_model()
    trained.create_model_card(model_name="mine", license="mit", tags="reviews")
    text = (tmp_path / "out/README.md").read_text()
    assert "ftplug:lora" in text
    assert "license: mit" in text
    assert "generated_from_trainer" not in text


def test_a_failing_upload_is_said_and_training_goes_on(client, repo_id, tmp_path, caplog):
    trained = bound(tmp_path / "out", repo_id, client)
    client.delete_repo(repo_id)
    client.create_repo(repo_id)
    trained.args.hub_token = "hf_" + "wrong" * 8
    with caplog.at_level(logging.WARNING, logger="ftplug"):
        trained.train()
    assert trained.state.global_step == 4
    assert caplog.text.count("was not uploaded, training goes on: push to") == 2
    assert "wrongwrong" not in caplog.text


def test_the_token_is_in_no_file(client, repo_id, tmp_path, server):
    trained = bound(tmp_path / "out", repo_id, client)
    trained.add_callback(StopAt(2))
    trained.train()
    trained.push_to_hub()
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name != "training_args.bin":
            assert server.token("alice").encode() not in path.read_bytes(), path
    for name in files(client, repo_id):
        content = Path(hf_hub_download(repo_id, name)).read_bytes()
        assert server.token("alice").encode() not in content


def test_not_blocking_returns_a_future(client, repo_id, tmp_path):
    trained = bound(tmp_path / "out", repo_id, client, push_to_hub=False)
    trained.train()
    future = trained.push_to_hub(blocking=False, private=True)
    assert future.result().oid == client.model_info(repo_id).sha
    assert client.model_info(repo_id).private
