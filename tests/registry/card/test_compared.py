"""A card with what its model was compared with: made of the manifest, published, verified."""

import io
import json
import re

import comparisons
import pytest
from ftplug_registry import pull, push
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from ftplug import ArtifactError
from ftplug.artifacts.card import card_files
from ftplug.artifacts.manifest import read_manifest
from ftplug.artifacts.saving import annotate
from ftplug.comparing.report.card import add_to_artifact
from ftplug.comparing.report.published import Published

TOKEN = "hf_" + "CanaryTokenThatMustNeverShow" + "1234567"
PICTURE = "comparison.png"


def add(artifact, tmp_path, **changes):
    summary = comparisons.summary(**changes)
    given = comparisons.comparison(tmp_path), comparisons.results(), summary
    add_to_artifact(artifact, tmp_path, *given)


def card(artifact):
    return (artifact / "README.md").read_text(encoding="utf-8")


def test_the_card_has_the_table_the_verdicts_and_the_picture(artifact, tmp_path):
    annotate(artifact, training={"seconds": 41.0, "metrics": {"eval_accuracy": 0.86}})
    before = card(artifact)
    add(artifact, tmp_path)
    text = card(artifact)
    _, _, section = text.partition("\n## Comparison\n")
    section, _, rest = section.partition("\n## ")
    assert rest.startswith("Use\n")
    assert "Best: lora r=8 at learning rate 3e-4" in section
    assert f"]({PICTURE})" in section
    [row] = [line for line in section.splitlines() if line.startswith("| `lora r=8`")]
    for fact in ("better", "0.8613", "+0.0183", "+0.0071 to +0.0296", "0.003", "3e-4", "1.2 MiB"):
        assert fact in row
    assert "seeds vary order, dropout and the head" in section
    assert "training script" not in section
    assert Image.open(io.BytesIO((artifact / PICTURE).read_bytes())).size[0] > 600
    # all else is as it was: the same lines, and no row of the facts repeats the comparison
    said = section.splitlines()
    kept = [line for line in text.splitlines() if line not in said]
    assert [line for line in kept if "sha256:" not in line and line != "## Comparison"] == [
        line for line in before.splitlines() if line not in said and "sha256:" not in line
    ]


def test_weights_and_hashes_stay(artifact, tmp_path):
    before = read_manifest(artifact)
    add(artifact, tmp_path)
    after = read_manifest(artifact)
    assert after.files == before.files
    assert {k: v for k, v in after.training.items() if k != "comparison"} == before.training
    after.verify_files(artifact)
    assert Published.read(after.training["comparison"]) == Published.of(
        comparisons.comparison(tmp_path), comparisons.results(), comparisons.summary()
    )


def test_said_again_it_says_the_same_and_something_else_replaces_it(artifact, tmp_path):
    add(artifact, tmp_path)
    once = {path.name: path.read_bytes() for path in artifact.iterdir()}
    add(artifact, tmp_path)
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == once
    add(artifact, tmp_path, notes=["another"])
    assert "another" in card(artifact)
    assert "dropout and the head" not in card(artifact)


def test_it_is_published_pulled_and_verified(client, hub, artifact, repo_id, tmp_path):
    add(artifact, tmp_path)
    done = push(artifact, repo_id, hub=hub)
    assert PICTURE in done.files
    assert not {"results.jsonl", "log.txt", "outcomes.safetensors"} & set(done.files)
    pulled = pull(repo_id, to=tmp_path / "pulled", hub=hub)
    read_manifest(pulled).verify_files(pulled)
    assert (pulled / PICTURE).read_bytes() == (artifact / PICTURE).read_bytes()
    assert "## Comparison" in card(pulled)
    assert not push(artifact, repo_id, hub=hub).changed


def test_no_path_no_secret_and_no_reason_of_a_script_is_published(artifact, tmp_path):
    changes = {"notes": [f"in {tmp_path}/data.csv with {TOKEN}"]}
    summary = comparisons.summary(**changes)
    summary.candidates[3].verdict, summary.candidates[3].reason = "failed", "row 7: 'dear Ann'"
    results = comparisons.results()
    results[0].reason = "row 8: 'dear Bob'"
    add_to_artifact(artifact, tmp_path, comparisons.comparison(tmp_path), results, summary)
    for path in (artifact / "ftplug.json", artifact / "README.md"):
        text = path.read_text(encoding="utf-8")
        assert "dear" not in text
        assert "Canary" not in text
        assert str(tmp_path) not in text
    assert "data.csv with [a Hugging Face token]" in json.dumps(
        read_manifest(artifact).training["comparison"]
    )


def test_a_picture_of_another_model_goes_with_its_card(artifact, tmp_path):
    import folders
    from transformers import BertForSequenceClassification

    import ftplug

    add(artifact, tmp_path)
    base = folders.encoder(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(base, num_labels=2)
    ftplug.save(ftplug.apply(model, "bitfit"), artifact)
    assert not (artifact / PICTURE).exists()
    assert "## Comparison" not in card(artifact)


@pytest.mark.parametrize(
    "claim",
    [
        7,
        {},
        {"answer": "x"},
        {"answer": "x", "metric": "m", "baseline": "b", "delta": float("nan"), "candidates": []},
        {"answer": "x", "metric": "m", "baseline": "b", "delta": 1, "candidates": [{}] * 201},
        {"answer": "x" * 3000, "metric": "m", "baseline": "b", "delta": 1, "candidates": []},
    ],
)
def test_what_is_no_comparison_makes_a_card_without_one(artifact, claim):
    annotate(artifact, training={"comparison": claim})
    assert "## Comparison" not in card(artifact)


@pytest.mark.parametrize("text", ["<script>x</script>", "a|b\n# c", "`$x$`", "![](http://e/x)"])
def test_a_strangers_claims_stay_text(artifact, text):
    line = {"candidate": text, "verdict": "better", "difference": 1e14, "interval": [-1e14, 1e15]}
    claim = {"answer": text, "metric": text, "baseline": text, "delta": 0.5, "notes": [text]}
    manifest = annotate(artifact, training={"comparison": claim | {"candidates": [line, line]}})
    written = card_files(manifest)
    section = ModelCard(written["README.md"].decode()).text.partition("## Comparison")[2]
    section = section.partition("\n## Use")[0]
    assert written[PICTURE].startswith(b"\x89PNG")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(section)
    assert not re.search(r"<script|<h\d", html)
    assert re.findall('(?:href|src)="(.*?)"', html) == [PICTURE]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {11}


def test_what_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        add(tmp_path / "best", tmp_path)
