"""The card: valid Hub metadata, the facts of run and author, and nothing that is not known."""

import dataclasses
import json
import re
import subprocess
import sys

import folders
import pytest
import tiny
import torch
from datasets import Dataset, DatasetInfo
from ftplug_registry.card.markdown import number
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from runs import logits, trainer
from transformers import AutoTokenizer, BertForSequenceClassification, TrainerCallback

import ftplug
from ftplug import discovery
from ftplug.artifacts.card import card_files
from ftplug.artifacts.manifest import read_manifest
from ftplug.host import Host, resolve

SHA, DATA_SHA = "a" * 40, "b" * 40
NOTES = "Meant for **reviews** in English.\n\n- not for anything else"


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def dataset(split, rows=32):
    info = DatasetInfo(
        dataset_name="reviews",
        config_name="en",
        download_checksums={f"hf://datasets/org/Reviews@{DATA_SHA}/en/{split}.parquet": {}},
    )
    columns = {k: v.tolist() for k, v in tiny.inputs(tiny.bert(), rows=rows).items()}
    return Dataset.from_dict(columns, info=info, split=split)


def run(folder, method="lora", **settings):
    """Train and save a classifier on a base that names itself, with tokenizer and evaluations."""
    encoder = folders.encoder(folder / "base")
    (encoder / "README.md").write_text("---\nlicense: MIT\n---\n")
    model = BertForSequenceClassification.from_pretrained(
        encoder, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
    )
    bound = trainer(
        model, folder / "out", max_steps=6, save_strategy="no", eval_strategy="steps",
        eval_steps=2, eval_on_start=True,
    )  # fmt: skip
    bound.train_dataset, bound.eval_dataset = dataset("train"), dataset("validation", 9)
    bound.processing_class = AutoTokenizer.from_pretrained(encoder)
    bound.compute_metrics = accuracy
    model.config._name_or_path, model.config._commit_hash = "org/tiny-bert", SHA
    ftplug.attach(bound, method, lr="suggested", **settings).train()
    bound.save_model(folder / "artifact")
    return bound


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    bound = run(folder, r=4)
    return folder, bound


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def manifest_of(folder, **changes):
    manifest = read_manifest(folder / "artifact")
    return dataclasses.replace(manifest, **changes)


def rendered(manifest, **options):
    return ModelCard(card_files(manifest, **options)["README.md"].decode())


# What the Hub reads


def test_the_metadata(made):
    folder, _ = made
    data = card_of(folder / "artifact").data
    assert data.base_model == "org/tiny-bert"
    assert data.base_model_relation == "adapter"
    assert data.library_name == "ftplug"
    assert data.pipeline_tag == "text-classification"
    assert data.datasets == ["org/Reviews"]
    assert data.tags == ["ftplug", "ftplug:lora"]
    assert data.metrics == ["accuracy"]


def test_a_composition_is_described_as_one(made):
    methods = resolve(["lora", "bitfit", "l2-sp"], {"lora.r": 4, "bitfit.modules": ["query"]})
    card = rendered(manifest_of(made[0], methods=Host(methods).spec()))
    assert card.data.tags == ["ftplug", "ftplug:lora", "ftplug:bitfit", "ftplug:l2-sp"]
    for method in methods:
        assert method.paper in card.text
        assert re.search(r"@\w+{\S+,", method.citation)[0] in card.text
    assert re.search(r"Settings of lora \| `r=4`", card.text)
    assert re.search(r"Settings of bitfit \| `modules=.*query", card.text)


def test_the_model_index_comes_back_as_results(made):
    folder, _ = made
    metrics = read_manifest(folder / "artifact").training["metrics"]
    results = {
        result.metric_type: result for result in card_of(folder / "artifact").data.eval_results
    }
    assert {kind: r.metric_value for kind, r in results.items()} == {
        "loss": metrics["eval_loss"],
        "accuracy": metrics["eval_accuracy"],
    }
    found = results["accuracy"]
    assert (found.task_type, found.dataset_type) == ("text-classification", "org/Reviews")
    assert (found.dataset_config, found.dataset_split) == ("en", "validation")
    assert found.dataset_revision == DATA_SHA


def test_metrics_of_data_without_a_name_are_results_all_the_same(made):
    elsewhere = [
        {"data": {"rows": 9}, "metrics": {"accuracy": 0.25}},
        {"data": {"dataset": "org/other", "split": "test"}, "metrics": {"f1": 1, "note": "x"}},
        "nonsense",
    ]
    training = {"metrics": {"eval_accuracy": 0.5}, "metrics_on_other_data": elsewhere}
    card = rendered(manifest_of(made[0], training=training))
    found = [
        (one.dataset_name, one.dataset_split, one.metric_type, one.metric_value)
        for one in card.data.eval_results
    ]
    assert found == [
        ("unnamed data", "validation", "accuracy", 0.5),
        ("unnamed data, 9 rows", None, "accuracy", 0.25),
        ("org/other", "test", "f1", 1),
    ]
    assert card.data.datasets is None
    assert "| accuracy (validation) | 0.5 |" in card.text


def test_a_base_without_an_id_is_tagged_by_what_it_is(made):
    manifest = manifest_of(made[0])
    digest = manifest.base["fingerprint"]["bf16"]
    unnamed = dataclasses.replace(manifest, base=manifest.base | {"id": None})
    for author in ({}, {"finetuned_from": "org/named"}):
        card = rendered(dataclasses.replace(unnamed, author=author))
        known = [tag for tag in card.data.tags if tag.startswith("ftplug-base:")]
        names = (digest, "bert", "BertForSequenceClassification")
        assert known == [f"ftplug-base:{name}" for name in names]
        assert f"| Base weights | `{digest}` |" in card.text
        assert card.data.base_model == author.get("finetuned_from")
    odd = unnamed.base | {"fingerprint": None}
    config = dataclasses.replace(unnamed, base=odd, model=unnamed.model | {"config": {}})
    assert "Base weights" not in rendered(config).text


def test_data_that_is_not_on_the_hub_is_named_but_is_no_dataset(made):
    training = {"data": {"dataset": "UCI Sentences", "test_rows": 8}, "metrics": {"test_f1": 0.5}}
    card = rendered(manifest_of(made[0], training=training))
    assert card.data.datasets is None
    [result] = card.data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("UCI Sentences", "test")
    assert "fine-tuned with `lora` on UCI Sentences" in card.text
    assert "| Test set | 8 rows |" in card.text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"license": "CC-BY-4.0"}, {"license": "cc-by-4.0"}),
        (
            {"license": "My own, see below"},
            {"license": "other", "license_name": "my-own-see-below"},
        ),
        ({"language": ["en", "the language of love"]}, {"language": ["en"]}),
        ({"tasks": ["no such task", "fill-mask"]}, {"pipeline_tag": "fill-mask"}),
        ({"datasets": ["org/more", "no id"]}, {"datasets": ["org/more", "org/Reviews"]}),
        ({"tags": ["mine", "ftplug"]}, {"tags": ["ftplug", "ftplug:lora", "mine"]}),
        ({"finetuned_from": "org/other"}, {"base_model": "org/tiny-bert"}),
    ],
)
def test_what_the_author_says(made, said, expected):
    data = rendered(manifest_of(made[0], author=said)).data
    assert {name: data.get(name) for name in expected} == expected


def test_the_author_may_name_a_base_that_the_run_does_not_know(made):
    manifest = manifest_of(made[0], author={"finetuned_from": "org/named"})
    card = rendered(dataclasses.replace(manifest, base=manifest.base | {"id": None}))
    assert card.data.base_model == "org/named"
    assert 'ftplug.load("org/named", "path/to/this/folder")' in card.text


def test_the_licence_is_the_bases_unless_the_author_says_otherwise(tmp_path):
    base = folders.encoder(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: MIT\n---\n# Its card\n")
    model = BertForSequenceClassification.from_pretrained(base)
    folder = ftplug.save(ftplug.apply(model, "lora"), tmp_path / "a")
    assert read_manifest(folder).base["license"] == "mit"
    assert card_of(folder).data.license == "mit"
    ftplug.save(model, folder, author={"license": "apache-2.0"})
    card = card_of(folder)
    assert card.data.license == "apache-2.0"
    assert "| Base licence | mit |" in card.text


def test_t5_has_no_pipeline_tag_on_the_hub(tmp_path):
    folder = ftplug.save(ftplug.apply(tiny.t5(), "lora"), tmp_path)
    assert card_of(folder).data.pipeline_tag is None


# What people read


def test_the_text(made):
    folder, _ = made
    text = card_of(folder / "artifact").text
    for fact in (
        "# lora on org/tiny-bert\n",
        f"(https://huggingface.co/org/tiny-bert/tree/{SHA})",
        f"| Base revision | `{SHA}` |",
        "| Labels | `bad`, `good` |",
        "| Method | `lora` ([paper](https://arxiv.org/abs/2106.09685)), plugin ftplug ",
        "| Settings of lora | `r=4`, `lora_alpha=16`,",
        "| Trained parameters | 1,090 of 20,354 parameters (5.36%) |",
        f"| Data | [`org/Reviews`](https://huggingface.co/datasets/org/Reviews/tree/{DATA_SHA}) |",
        "| Training set | 32 rows of split `train` |",
        "| Validation set | 9 rows of split `validation` |",
        "| `learning_rate` | 0.001 |",
        "| `optimizer` | AdamW |",
        "| Seed | 42 |",
        "| Steps | 6 |",
        "| Training time | ",
        "| Hardware | ",
        "| Peak memory | ",
        "![Training curve](training_curve.png)",
        "@inproceedings{hu2022lora,",
        "ftplug verify path/to/this/folder",
    ):
        assert fact in text
    assert "Intended use" not in text


def test_the_metrics_stand_beside_what_they_compare_with(made):
    text = card_of(made[0] / "artifact").text
    assert "| Metric | This model | Before training | Majority class |" in text
    assert re.search(r"\| accuracy \(validation\) \| 0\.\d+ \| 0\.\d+ \| 0\.5556 \|", text)
    assert re.search(r"\| loss \(validation\) \| 0\.\d+ \| 0\.\d+ \|  \|", text)


def test_the_notes_are_the_authors_markdown(made):
    text = rendered(manifest_of(made[0], author={"notes": NOTES})).text
    assert f"## Intended use and limits\n\n{NOTES}\n" in text


def test_a_repository_is_named_in_title_and_snippets(made):
    card = rendered(manifest_of(made[0]), repo_id="me/reviews-lora")
    assert "# reviews-lora\n" in card.text
    assert 'ftplug.load("org/tiny-bert", "me/reviews-lora")' in card.text
    assert "ftplug verify me/reviews-lora" in card.text
    assert "path/to" not in card.text
    assert card.content.count("reviews-lora") >= 5


def test_what_is_not_known_is_left_out(tmp_path):
    folder = ftplug.save(ftplug.apply(tiny.bert(), "freeze"), tmp_path)
    card = card_of(folder)
    assert card.data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    for absent in (
        "nformation",
        "None",
        "null",
        "## Training",
        "## Results",
        "nan",
        "Seed",
        ".png",
    ):
        assert absent not in card.content
    assert "# freeze on BertForSequenceClassification\n" in card.text
    assert not (folder / "training_curve.png").exists()


def test_numbers_that_are_none_are_left_out(tmp_path):
    training = {"metrics": {"eval_loss": float("nan"), "eval_f1": float("inf")}, "seconds": 1.0}
    folder = ftplug.save(ftplug.apply(tiny.bert(), "lora"), tmp_path, training=training)
    assert read_manifest(folder).training == {"metrics": {}, "seconds": 1.0}
    text = (folder / "README.md").read_text() + (folder / "ftplug.json").read_text()
    assert "NaN" not in text
    assert "nan" not in text


def test_a_method_that_is_not_installed_has_no_citation(made):
    [method] = read_manifest(made[0] / "artifact").methods
    text = rendered(manifest_of(made[0], methods=[{**method, "name": "absent"}])).text
    assert "| Method | `absent`, plugin ftplug" in text
    assert "Citation" not in text


@pytest.mark.parametrize(
    "training",
    [
        {"data": "mine", "metrics": 0.5, "baselines": [1], "history": "long", "seconds": "some"},
        {"baselines": {"base model": 0.5}, "metrics": {"eval_f1": "0.5 ± 0.1"}, "history": {}},
        {"history": {"train": [{"loss": "?"}], "eval": [{"step": 1, "eval_f1": None}]}},
        {"peak_memory_bytes": "a lot", "hyperparameters": ["lr"], "mine": {"a": [1, True, "x"]}},
    ],
)
def test_whatever_the_caller_says_of_the_training_makes_a_card(made, training):
    assert ModelCard(card_files(manifest_of(made[0], training=training))["README.md"].decode())


# The snippets run


def blocks(folder, base):
    """Return the card's Python blocks, with folders in place of what would be on the Hub."""
    text = card_of(folder).text
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    places = {"org/tiny-bert": base, "path/to/this/folder": folder}
    for name, place in places.items():
        found = [block.replace(name, str(place)) for block in found]
    return found


@pytest.mark.parametrize(
    ("method", "settings", "second"),
    [("lora", {"r": 4}, "peft"), ("full", {}, "transformers"), ("bottleneck", {}, None)],
)
def test_the_snippets_load_the_model(tmp_path, capsys, method, settings, second):
    bound = run(tmp_path, method, **settings)
    snippets = blocks(tmp_path / "artifact", tmp_path / "base")
    assert len(snippets) == 1 + (second is not None)
    assert "import ftplug\n" in snippets[0]
    for snippet in snippets:
        names: dict = {}
        exec(snippet, names)
        assert torch.allclose(logits(names["model"]), logits(bound.model), atol=1e-6)
    if second is not None:
        assert f"from {second} import" in snippets[1]
        assert "ftplug" not in snippets[1].replace(str(tmp_path), "")
    assert re.search(r"'label': '(good|bad)', 'score': 0\.", capsys.readouterr().out)


def test_peft_builds_a_head_for_the_labels(tmp_path):
    tiny.bert("Model").save_pretrained(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=5)
    model.config._name_or_path = "org/tiny-bert"
    folder = ftplug.save(ftplug.apply(model, "lora"), tmp_path / "a")
    _, snippet = blocks(folder, tmp_path / "base")
    names: dict = {}
    exec(snippet, names)
    assert torch.allclose(logits(names["model"]), logits(model), atol=1e-6)


def test_a_language_model_generates(tmp_path, capsys):
    import peft_twins

    peft_twins.tokenizer(tmp_path / "base")
    tiny.llama().save_pretrained(tmp_path / "base")
    model = type(tiny.llama()).from_pretrained(tmp_path / "base")
    model.config._name_or_path = "org/tiny-bert"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    model = ftplug.apply(model, "prefix-tuning", num_virtual_tokens=3)
    folder = ftplug.save(model, tmp_path / "a", processing_class=tokenizer)
    exec(blocks(folder, tmp_path / "base")[0], {})
    assert "generated_text" in capsys.readouterr().out


def test_a_class_of_the_users_own_is_to_be_built_first(made):
    manifest = manifest_of(made[0])
    card = rendered(dataclasses.replace(manifest, model=manifest.model | {"class": "MyModel"}))
    assert "Build the `MyModel` with its base's weights" in card.text
    assert "from_pretrained" not in card.text


# Whatever the strings hold

HOSTILE = [
    "a | b",
    "a\n\n---\n# Injected\n\n| x |",
    "```\nimport os",
    "<script>alert(1)</script>",
    "](https://evil.example) ![x](y)",
    "`a` \\| b",
    '"; import os; "',
    "{{ 7 * 7 }} {% raw %}",
    "--> <!-- sha256: 0",
    "\x00\x1b[31m\u2028red",
    "half \ud83d pair",
    "*&^%$#@!: - [yaml",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_stay_text(made, text):
    manifest = manifest_of(made[0])
    method = {**manifest.methods[0], "settings": {text: text}, "distribution": text}
    hostile = dataclasses.replace(
        manifest,
        methods=[{**method, "name": text}],
        base={**manifest.base, "id": text, "license": text, "revision": text},
        model=manifest.model | {"labels": {"0": text, text: text}, "task": text, "class": text},
        versions={"ftplug": text},
        training={
            "data": {"dataset": text, "config": text, "train_split": text, "train_rows": 3},
            "metrics": {f"eval_{text}": 0.5, text: 0.25},
            "baselines": {text: {f"eval_{text}": 0.5}},
            "hyperparameters": {text: text},
            "history": {
                "train": [{"step": 1, "loss": 1}],
                "eval": [{"step": 1, f"eval_{text}": 0.5}],
            },
            text: [text],
        },
        author={"model_name": text, "tags": [text], "license": text, "dataset_names": [text]},
    )
    card = rendered(hostile, repo_id="me/x")
    assert card.data.library_name == "ftplug"
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert html.count("<h1>") == 1
    assert re.findall("<h2>(.*?)</h2>", html) == ["Results", "Use", "Training"]
    assert re.findall('(?:href|src)="(?!https://huggingface.co)(.*?)"', html) == [
        "training_curve.png"
    ]
    assert not re.search(r"<script|[\x00\x1b]", html)
    assert html.count("<!--") == html.count("-->") == 1
    for table in re.findall("<table>.*?</table>", html, re.DOTALL):
        rows = re.findall("<tr>.*?</tr>", table, re.DOTALL)
        assert len({len(re.findall("<t[hd]>", row)) for row in rows}) == 1
    for block in re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL):
        compile(block, "snippet", "exec")


def test_no_secret_and_no_path_of_the_run_is_written(tmp_path):
    class Remembers(TrainerCallback):
        token = "hf_canary_callback"

    bound = trainer(
        tiny.bert(), tmp_path / "secret-place", max_steps=2, save_strategy="no",
        hub_token="hf_canary", callbacks=[Remembers()],
    )  # fmt: skip
    ftplug.attach(bound, "lora").train()
    bound.save_model()
    bound.create_model_card(
        finetuned_from=str(tmp_path), dataset_tags=str(tmp_path), dataset=[str(tmp_path), "Mine"]
    )
    for path in (tmp_path / "secret-place").iterdir():
        assert b"hf_canary" not in path.read_bytes()
        assert b"secret-place" not in path.read_bytes()
    author = read_manifest(tmp_path / "secret-place").author
    assert author == {"dataset_names": ["Mine"]}


def test_importing_the_card_loads_nothing_heavy():
    code = (
        "import sys, ftplug_registry.card.rendering as c; "
        "print([m for m in ('torch', 'transformers', 'peft', 'matplotlib', 'jinja2', 'datasets')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_built_in_method_with_a_paper_has_its_citation():
    for name, cls in discovery.methods().items():
        generated = cls.__module__ == "ftplug_plugins.peft_family.family"  # from peft: a link alone
        if cls.__module__.startswith("ftplug_plugins") and cls.paper and not generated:
            assert cls.citation, name
            assert re.match(r"@\w+\{\w+,", cls.citation.strip())


def test_the_manifest_of_an_earlier_version_has_no_author(made, tmp_path):
    folder, _ = made
    content = json.loads((folder / "artifact" / "ftplug.json").read_text())
    del content["author"]
    (tmp_path / "ftplug.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path).author == {}
    assert rendered(read_manifest(tmp_path)).data.library_name == "ftplug"


def test_a_whole_number_of_hundreds_of_digits_is_written_out():
    assert number(10**400) == f"{10**400:,}"
    assert (number(12345), number(2000.0), number(0.5)) == ("12,345", "2,000", "0.5")
