"""The model list: what cards say becomes tags; filters, order and pages."""

import re
import time

import commits
import pytest
from commits import git
from ftplug_registry.server.storage import metadata
from huggingface_hub import CommitOperationAdd

CARDS = {
    "ann/lora-sst2": "library_name: peft\npipeline_tag: text-classification\nbase_model: org/bert\n"
    "tags: [ftplug, 'ftplug:lora']\nlicense: mit\ndatasets: [org/sst2]\nlanguage: en",
    "ann/full-sst2": "pipeline_tag: text-classification\nbase_model: org/bert\ntags: [ftplug]",
    "lab/merged": "base_model: [org/bert, org/gpt]\nlanguage: [de, en]",
    "lab/quantized": "base_model: org/gpt\nbase_model_relation: quantized",
    "ann/plain": None,
}


@pytest.fixture
def models(api):
    for name, card in CARDS.items():
        api.create_repo(name)
        if card:
            readme = CommitOperationAdd("README.md", f"---\n{card}\n---\n# Title\n".encode())
            api.create_commit(name, [readme], commit_message="card")
    return api


def ids(models):
    return {model.id for model in models}


def test_tags(models):
    tags = {model.id: model.tags for model in models.list_models()}
    assert tags["ann/lora-sst2"] == [
        "peft", "text-classification", "ftplug", "ftplug:lora", "en", "dataset:org/sst2",
        "license:mit", "base_model:org/bert", "base_model:adapter:org/bert",
    ]  # fmt: skip
    assert "base_model:finetune:org/bert" in tags["ann/full-sst2"]
    assert "base_model:merge:org/gpt" in tags["lab/merged"]
    assert tags["lab/quantized"] == ["base_model:org/gpt", "base_model:quantized:org/gpt"]
    assert tags["ann/plain"] == []
    info = models.model_info("ann/lora-sst2")
    assert (info.library_name, info.pipeline_tag) == ("peft", "text-classification")
    assert info.card_data.base_model == "org/bert"


def test_an_adapters_files_tell_the_relation_where_the_card_does_not(models):
    config = CommitOperationAdd("adapter_config.json", b"{}")
    models.create_commit("ann/full-sst2", [config], commit_message="adapter")
    assert "base_model:adapter:org/bert" in models.model_info("ann/full-sst2").tags


def test_filters(models):
    for query, expected in (
        ({}, set(CARDS)),
        ({"filter": "base_model:org/bert"}, {"ann/lora-sst2", "ann/full-sst2", "lab/merged"}),
        ({"filter": ["ftplug", "license:mit"]}, {"ann/lora-sst2"}),
        ({"filter": "absent"}, set()),
        ({"filter": "base_model"}, set()),  # whole tags
        ({"pipeline_tag": "text-classification"}, {"ann/lora-sst2", "ann/full-sst2"}),
        ({"trained_dataset": "org/sst2"}, {"ann/lora-sst2"}),
        ({"search": "SST2"}, {"ann/lora-sst2", "ann/full-sst2"}),
        ({"search": "sst2 lora"}, {"ann/lora-sst2"}),
        ({"search": "lab/"}, {"lab/merged", "lab/quantized"}),
        ({"author": "lab"}, {"lab/merged", "lab/quantized"}),
        ({"author": "la"}, set()),
        ({"author": "ann", "search": "full", "filter": "ftplug"}, {"ann/full-sst2"}),
    ):
        assert ids(models.list_models(**query)) == expected, query


def test_what_is_shown(models):
    brief = next(models.list_models(search="lora"))
    assert (brief.siblings, brief.card_data) == (None, None)
    full = next(models.list_models(search="lora", full=True))
    assert {file.rfilename for file in full.siblings} == {".gitattributes", "README.md"}
    assert next(models.list_models(search="lora", cardData=True)).card_data.license == "mit"
    some = next(models.list_models(search="lora", expand=["sha", "cardData"]))
    assert some.sha == full.sha
    assert (some.tags, some.card_data.license) == (None, "mit")
    assert models.model_info("ann/plain", expand=["author"]).author == "ann"


def test_order_and_pages(models, http):
    time.sleep(1.1)  # git's clock has seconds
    last = CommitOperationAdd("a.txt", b"x")
    models.create_commit("ann/plain", [last], commit_message="last")
    in_order = [model.id for model in models.list_models(sort="last_modified")]
    assert in_order[0] == "ann/plain"
    for sort in ("created_at", "downloads", "likes", "trending_score"):
        assert ids(models.list_models(sort=sort)) == set(CARDS)
    assert [model.id for model in models.list_models(sort="last_modified", limit=2)] == in_order[:2]
    client, url, found = http(), "/api/models?sort=lastModified&limit=2&search=", []
    while url:
        response = client.get(url)
        found.append([model["id"] for model in response.json()])
        url = response.links.get("next", {}).get("url")
        assert models.create_repo(f"ann/later{len(found)}")  # a newer one shifts no page
    assert found == [in_order[:2], in_order[2:4], in_order[4:]]


@pytest.mark.parametrize("query", ["sort=stars", "limit=x", "limit=-1", "cursor=x", "cursor=W10="])
def test_queries_that_make_no_sense(http, query):
    assert http().get(f"/api/models?{query}").status_code == 400


def test_an_unknown_repository_of_git_is_private_and_needs_a_commit(models, root, http):
    import pygit2

    pygit2.init_repository(str(root / "models/ann/by-hand"), initial_head="main")
    assert ids(models.list_models()) == set(CARDS)
    assert http().get("/api/models/ann/by-hand").status_code == 401
    (root / "models/ann/empty/.git").mkdir(parents=True)
    (root / "models/ann/odd name/.git").mkdir(parents=True)
    assert ids(models.list_models()) == set(CARDS)


def test_reading_a_card_keeps_it_json():
    data = metadata.parse(
        "---\ndate: 2024-01-02\nsize: .inf\n1: one\nset: !!set {a}\nraw: !!binary aGk=\n---\nText"
    )
    assert data == {"date": "2024-01-02", "size": "inf", "1": "one", "set": ["a"], "raw": "b'hi'"}
    assert metadata.parse("# no block") == {}
    assert metadata.parse("---\n# a comment\n---\n") == {}
    assert metadata.parse("---\r\nlicense: mit\r\n---\r\n") == {"license": "mit"}


BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]"
    for a, b in zip("abcdefghijklmn", "bcdefghijklmno", strict=True)
)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("tags: [", "not valid YAML"), ("- a\n- b", "must be a YAML mapping"),
        ("text", "must be a YAML"),
        (BOMB, "aliases"), ("a: " + "[" * 100 + "]" * 100, "levels"),
        ("a: !!python/name:os.system", "YAML"),
        ("a: \x00", "not valid YAML"), ("a: " + "9" * 5000, "not valid YAML"),
        ("? [a]\n: b", "YAML"),
        ("x: " + "y" * (1 << 20), "characters"), ("tags: x", "tags"), ("tags: [1]", "tags"),
        ("language: no", "language"), ("license: 1", "license"), ("datasets: {a: b}", "datasets"),
        ("base_model: 'a b'", "base_model"), ("base_model: [a/b/c]", "base_model"),
        ("pipeline_tag: [a]", "pipeline_tag"),
        ("base_model_relation: child", "base_model_relation"),
        ("model-index: {}", "model-index"), ("model-index: [1]", r"model-index\[0\].name"),
        ("model-index: [{name: a}]", r"model-index\[0\].results"),
        ("model-index: [{name: a, results: [1]}]", r"results\[0\]"),
        ("model-index: [{name: a, results: [{task: {type: t}, metrics: []}]}]", "dataset.name"),
        ("model-index: [{name: a, results: [{metrics: [{type: f1}]}]}]", r"metrics\[0\].value"),
    ],
    ids=lambda text: ascii(text)[:25],
)  # fmt: skip
def test_bad_cards(http, block, message):
    content = f"---\n{block}\n---\n# Title\n"
    response = http().post("/api/validate-yaml", json={"content": content, "repoType": "model"})
    assert response.status_code == 400
    errors = " ".join(error["message"] for error in response.json()["errors"])
    assert re.search(message, errors), errors


def test_no_card_takes_long():
    start = time.perf_counter()
    for text in ("---\n" + "\n" * 10**6, "\r\n" * 10**6 + "---", "---\n" + "--- \t-\n" * 10**5):
        assert not metadata.errors(text)
    assert time.perf_counter() - start < 20


def test_good_cards(http):
    good = (
        "license: mit\ntags: [a]\nlanguage: [en]\nbase_model: bert-base-uncased\nmodel-index:\n"
        "- name: x\n  results:\n  - task: {type: t}\n    dataset: {type: d, name: D}\n"
        "    metrics: [{type: f1, value: 0.5}]\n"
    )
    response = http().post("/api/validate-yaml", json={"content": f"---\n{good}---\n"})
    assert (response.status_code, response.json()) == (200, {"errors": [], "warnings": []})
    response = http().post("/api/validate-yaml", json={"content": "# nothing", "repoType": "model"})
    assert response.status_code == 200
    assert "empty or missing" in response.json()["warnings"][0]["message"]


def test_a_card_that_git_brought_may_be_anything(ann, root):
    """What validation would refuse must not break the list."""
    repository = root / "models/ann/model"
    bomb = b"---\na: &a [*a]\n---\n"
    for readme in (b"---\ntags: [\n---\n", b"\xff" * 1000, bomb, b"---\nx: " * 999_999):
        blob = git(repository, "hash-object", "-w", "--stdin", input=readme)
        tree = git(repository, "mktree", input=f"100644 blob {blob}\tREADME.md\n".encode())
        identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
        made = git(repository, *identity, "commit-tree", tree, "-m", "by git")
        git(repository, "update-ref", "refs/heads/main", made)
        assert ann.get("/api/models?full=1").json()[0]["cardData"] == {}
        assert commits.post(ann, ("file", commits.file("a"))).status_code == 200
