"""The commands, as a person types them: tables, JSON, exit codes, and no token anywhere."""

import json
import subprocess
import sys

import hub as hubs
import pytest
from ftplug_registry import push, search, show, verify
from runs import shake
from transformers import BertForSequenceClassification

import ftplug


def test_push_prints_what_is_sent_and_where_it_is(typed, server, artifact, repo_id, tmp_path):
    (tmp_path / "notes.md").write_text("For reviews.\n")
    notes = tmp_path / "notes.md"
    code, out, err = typed("push", artifact, repo_id, "--tag", "v1", "--notes", notes)
    assert (code, err) == (0, "")
    assert "adapter_model.safetensors" in out
    assert f"published {server.endpoint}/{repo_id} at " in out
    assert "tagged v1" in out
    code, out, _ = typed("push", artifact, repo_id, "--json")
    assert json.loads(out)["changed"] is False
    code, out, _ = typed("push", artifact, "alice/other", "--dry-run")
    assert "nothing was sent" in out
    assert typed("pull", "alice/other")[0] == 1


def test_pull_prints_the_folder(typed, artifact, repo_id, tmp_path):
    typed("push", artifact, repo_id)
    code, out, _ = typed("pull", repo_id, "--to", tmp_path / "copy")
    assert code == 0
    assert out.splitlines()[-1] == str(tmp_path / "copy")
    assert "files verified" in out
    code, out, _ = typed("pull", repo_id, "--json")
    assert json.loads(out)["verified"] is True


def test_a_refusal_is_one_line_and_exit_code_1(typed, artifact, repo_id):
    (artifact / "diary.txt").write_text("private")
    code, out, err = typed("push", artifact, repo_id)
    assert (code, out) == (1, "")
    assert err.startswith("ftplug: ")
    assert err.count("\n") == 1
    for wrong in (
        ("pull", "a/b/c"),
        ("show", "alice/none"),
        ("verify", "nowhere"),
        ("search", "--sort", "x"),
    ):
        code, out, err = typed(*wrong)
        assert (code, out, err.count("\n")) == (1, "", 1), wrong


@pytest.fixture(scope="module")
def zoo(server, base, saved, tmp_path_factory):
    """Three published artifacts with metrics."""
    from ftplug_registry import Hub

    home = tmp_path_factory.mktemp("zoo")
    ids = {}
    with hubs.client(server, "alice", home=home):
        for number, accuracy in enumerate([0.7, 0.9, 0.8]):
            model = BertForSequenceClassification.from_pretrained(base)
            model.config._name_or_path = f"org/base-{number % 2}"
            method = ["lora", "bottleneck", "lora"][number]
            shake(ftplug.apply(model, method))
            training = {
                "data": {"dataset": "org/reviews"},
                "metrics": {"eval_accuracy": accuracy, "eval_loss": 1 - accuracy},
            }
            folder = ftplug.save(model, home / str(number), training=training)
            ids[accuracy] = f"alice/zoo-{number}"
            push(folder, ids[accuracy], hub=Hub(server.endpoint, server.token("alice")))
    return ids


def found(hub, **wanted):
    return [one.repo_id for one in search("zoo", hub=hub, **wanted).results]


def test_search_by_base_method_task_and_metric(zoo, hub):
    assert set(found(hub)) == set(zoo.values())
    assert set(found(hub, base="org/base-0")) == {zoo[0.7], zoo[0.8]}
    assert found(hub, method="bottleneck") == [zoo[0.9]]
    assert found(hub, base="org/base-1", method="lora") == []
    assert len(found(hub, task="text-classification")) == 3
    assert found(hub, task="fill-mask") == []
    assert found(hub, metric="bleu") == []
    assert found(hub, author="bob") == []


def test_sorted_by_a_metric_the_best_is_first(zoo, hub):
    best = [zoo[0.9], zoo[0.8], zoo[0.7]]
    assert found(hub, metric="accuracy", sort="metric") == best
    assert found(hub, metric="loss", sort="metric") == best


def test_sorted_by_any_column_and_turned_round(zoo, hub):
    by_name = [f"alice/zoo-{number}" for number in range(3)]
    assert found(hub, sort="repository") == by_name
    assert found(hub, sort="repository", reverse=True) == by_name[::-1]
    assert found(hub, sort="method")[0] == zoo[0.9]  # bottleneck
    assert found(hub, sort="base")[-1] == zoo[0.9]  # org/base-1
    assert set(found(hub, sort="task")) == set(by_name)
    assert found(hub, reverse=True) == found(hub)[::-1]
    assert found(hub, metric="eval_accuracy", sort="metric", reverse=True)[0] == zoo[0.7]


def test_pages_hold_each_once(zoo, hub):
    pages = [search("zoo", hub=hub, limit=2, page=page) for page in (1, 2, 3)]
    assert [len(page.results) for page in pages] == [2, 1, 0]
    assert [page.more for page in pages] == [True, False, False]
    assert {one.repo_id for page in pages for one in page.results} == set(zoo.values())


def test_the_search_table_and_its_json(zoo, typed):
    code, out, _ = typed("search", "zoo", "--metric", "accuracy", "--sort", "metric", "--limit", 2)
    assert code == 0
    assert out.index(zoo[0.9]) < out.index(zoo[0.8])
    assert "accuracy 0.900" in out
    assert "more with --page 2" in out
    content = json.loads(typed("search", "zoo", "--json")[1])
    assert {one["repo_id"] for one in content["results"]} == set(zoo.values())
    assert content["results"][0]["metrics"].keys() >= {"accuracy"}
    assert "nothing found" in typed("search", "no such thing")[1]


def test_show_needs_the_manifest_alone(hub, typed, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    content = show(repo_id, hub=hub)
    assert content["methods"][0]["name"] == "lora"
    assert content["installed"] is True
    local = show(artifact)
    assert {k: v for k, v in local.items() if k not in ("artifact", "sha")} == {
        k: v for k, v in content.items() if k not in ("artifact", "sha")
    }
    code, out, _ = typed("show", repo_id)
    assert code == 0
    assert "lora (r=4" in out
    assert json.loads(typed("show", artifact, "--json")[1])["sha"] is None


def test_what_a_stranger_wrote_does_not_drive_the_terminal(typed, artifact):
    manifest = json.loads((artifact / "ftplug.json").read_text())
    manifest["model"]["task"] = "text\x1b]0;owned\x07\x1b[2J" + "x" * 5000
    (artifact / "ftplug.json").write_text(json.dumps(manifest))
    out = typed("show", artifact)[1]
    assert "\x1b" not in out
    assert "\x07" not in out
    assert len(out) < 5000
    manifest["methods"][0]["name"] = "\x1b[31mlora\nnext"
    (artifact / "ftplug.json").write_text(json.dumps(manifest))
    code, out, err = typed("verify", artifact, "--files-only")
    assert (code, out.count("\n"), err) == (0, 3, "")
    assert "\x1b" not in out
    code, out, err = typed("verify", artifact)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "\x1b" not in err


WRONG = {
    "parameters": {},
    "model": {"class": "X", "task": None, "labels": [1], "config": {}},
}


@pytest.mark.parametrize("field", WRONG)
def test_a_manifest_of_other_types_is_refused_by_every_command(field, typed, artifact):
    manifest = json.loads((artifact / "ftplug.json").read_text())
    manifest[field] = WRONG[field]
    (artifact / "ftplug.json").write_text(json.dumps(manifest))
    for command in (["show"], ["verify", "--files-only"]):
        code, _, err = typed(*command, artifact)
        assert (code, err.count("\n"), "malformed manifest" in err) == (1, 1, True)


def test_a_folder_has_no_revision(typed, artifact):
    for command in (["show"], ["verify", "--files-only"]):
        code, _, err = typed(*command, artifact, "--revision", "v1")
        assert (code, "has no revision" in err) == (1, True)


def test_verify_checks_files_and_base(hub, typed, base, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    done = verify(repo_id, base=base, hub=hub)
    assert done.base_checked
    assert set(done.files) == set(ftplug_files(artifact))
    code, _, err = typed("verify", artifact)
    assert (code, "--base" in err) == (1, True)
    assert typed("verify", artifact, "--base", base)[0] == 0
    assert "not checked (--files-only)" in typed("verify", artifact, "--files-only")[1]


def ftplug_files(folder):
    return json.loads((folder / "ftplug.json").read_text())["files"]


def test_verify_refuses_another_base_and_an_altered_file(typed, base, artifact, tmp_path):
    other = shake(BertForSequenceClassification.from_pretrained(base).bert)
    other.save_pretrained(tmp_path / "other")
    code, _, err = typed("verify", artifact, "--base", tmp_path / "other")
    assert code == 1
    assert "are not those it was trained on" in err
    (artifact / "adapter_model.safetensors").write_bytes(b"x")
    code, _, err = typed("verify", artifact, "--files-only")
    assert (code, "altered" in err) == (1, True)


def test_run_continues_from_a_repository(hub, base, saved, repo_id):
    from ftplug.training.script import methods_from

    push(saved / "lora", repo_id, hub=hub)
    assert methods_from(repo_id)[0].r == 4
    model = BertForSequenceClassification.from_pretrained(base)
    ftplug.artifacts.loading.continue_from(ftplug.apply(model, "lora", r=4), repo_id)


@pytest.mark.slow
def test_the_real_command_line_shows_no_token(server, saved, tmp_path):
    """In processes of their own, with debug logs on: the token is in nothing they print."""
    env = hubs.environment(server, "alice", home=tmp_path) | {"HF_HUB_VERBOSITY": "debug"}
    said = ""
    for arguments in (
        ["push", str(saved / "lora"), "alice/quiet"],
        ["push", str(saved / "lora"), "bob/forbidden"],
        ["pull", "alice/quiet"],
        ["show", "alice/quiet", "--json"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ftplug", *arguments], env=env, capture_output=True, text=True
        )
        said += done.stdout + done.stderr
        assert done.returncode == (arguments[1] == str(saved / "lora") and "bob" in arguments[2])
    assert "published" in said
    assert server.token("alice") not in said
