"""The bill of materials: valid CycloneDX 1.6 from the manifest alone, the same each time."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ftplug_registry import pull, push
from ftplug_registry.bom.document import BOM, bom

from ftplug.artifacts.manifest import read_manifest
from ftplug.artifacts.signatures import SIGNATURE
from ftplug.errors import FtplugError

SECRET = "hf_" + "a1B2" * 9


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("cyclonedx")
    pytest.importorskip("jsonschema")


@pytest.fixture
def manifest(artifact):
    """A manifest that says all that a bill may name."""
    found = read_manifest(artifact)
    training = {
        "data": {"dataset": "org/reviews", "revision": "a" * 40, "eval_dataset": "csv"},
        "metrics": {"eval_accuracy": 0.5, "eval_loss": float("nan")},
        "metrics_on_other_data": [{"data": {"dataset": "org/books"}, "metrics": {"f1": 0.25}}],
        "seed": 3,
        "hyperparameters": {"learning_rate": 1e-3, "betas": [0.9, 0.99]},
    }
    base = {**found.base, "id": "org/base", "revision": "b" * 40, "license": "apache-2.0"}
    return replace(found, base=base, training=training)


def component(document, ref):
    return next(one for one in document["components"] if one["bom-ref"] == ref)


def test_every_file_stands_in_it_with_its_sha256(manifest):
    files = json.loads(bom(manifest))["metadata"]["component"]["components"]
    found = {file["name"]: file["hashes"] for file in files}
    assert found == {
        name: [{"alg": "SHA-256", "content": entry["sha256"]}]
        for name, entry in manifest.files.items()
    }


def test_the_base_has_its_revision_and_its_licence_as_spdx_writes_it(manifest):
    base = component(json.loads(bom(manifest)), "base")
    assert (base["group"], base["name"], base["version"]) == ("org", "base", "b" * 40)
    assert base["purl"] == f"pkg:huggingface/org/base@{'b' * 40}"
    assert base["licenses"] == [{"license": {"id": "Apache-2.0"}}]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("mit", {"license": {"id": "MIT"}}),
        ("llama3.1", {"license": {"name": "llama3.1"}}),
        ("MIT OR Apache-2.0", {"expression": "MIT OR Apache-2.0"}),
        ("of my\n own", {"license": {"name": "of my own"}}),
    ],
)
def test_licences_are_spdx_ids_or_names(manifest, given, written):
    document = json.loads(bom(replace(manifest, author={"license": given})))
    assert document["metadata"]["component"]["licenses"] == [written]


def test_the_model_card_has_the_figures_and_its_data(manifest):
    document = json.loads(bom(manifest))
    card = document["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "accuracy", "value": "0.5", "slice": "validation"},
        {"type": "loss", "value": "NaN", "slice": "validation"},
        {"type": "f1", "value": "0.25", "slice": "org/books"},
    ]
    named = [component(document, one["ref"])["name"] for one in card["modelParameters"]["datasets"]]
    assert named == ["org/reviews", "csv"]


def test_it_is_the_same_each_time_and_another_for_another_manifest(manifest):
    other = replace(manifest, author={"license": "mit"})
    numbers = [json.loads(bom(one))["serialNumber"] for one in (manifest, manifest, other)]
    assert bom(manifest) == bom(manifest)
    assert numbers[0] == numbers[1] != numbers[2]
    assert "timestamp" not in json.loads(bom(manifest))["metadata"]


def test_no_secret_is_in_it(manifest):
    told = replace(manifest, author={"notes": f"mine: {SECRET}", "license": SECRET})
    assert "mine: " in bom(told)
    assert SECRET not in bom(told)


def test_it_names_nothing_of_the_folder(artifact, typed):
    code, out, err = typed("show", artifact, "--bom")
    assert (code, err) == (0, "")
    assert json.loads(out)["specVersion"] == "1.6"
    assert str(artifact.parent) not in out


def test_what_makes_no_valid_document_is_refused_in_one_line(manifest, monkeypatch):
    from ftplug_registry.bom import document

    monkeypatch.setattr(document, "model_card", lambda manifest: {"unknown": 1})
    with pytest.raises(FtplugError, match="not be valid CycloneDX"):
        bom(manifest)


def test_without_the_library_the_command_for_it_is_named(artifact, typed, monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclonedx.output.json", None)
    code, out, err = typed("show", artifact, "--bom")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"ftplug: .*pip install 'ftplug\[bom\]'\n", err)


def test_it_is_published_and_the_same_as_show_makes_of_the_repository(
    artifact, hub, repo_id, typed
):
    done = push(artifact, repo_id, hub=hub)
    published = hub.api.hf_hub_download(repo_id, BOM, revision=done.sha)
    code, out, _ = typed("show", repo_id, "--bom")
    assert code == 0
    assert out == Path(published).read_text(encoding="utf-8")
    assert json.loads(out)["metadata"]["component"]["name"] == repo_id.partition("/")[2]
    assert not push(artifact, repo_id, hub=hub).changed


def test_it_goes_where_the_next_one_has_none(artifact, hub, repo_id, monkeypatch):
    push(artifact, repo_id, hub=hub)
    monkeypatch.setattr("ftplug_registry.contents.can_make_bom", lambda: False)
    assert push(artifact, repo_id, hub=hub).removed == (BOM,)


def test_beside_a_signature_it_stays_as_it_was_signed(artifact, hub, repo_id):
    (artifact / BOM).write_text("{}")
    (artifact / SIGNATURE).write_text("{}")
    from ftplug_registry.contents import contents

    assert contents(artifact, repo_id, strays=True)[BOM] == artifact / BOM
    (artifact / BOM).unlink()
    assert BOM not in contents(artifact, repo_id, strays=True)


def test_a_pulled_artifact_verifies_with_it_or_without(artifact, hub, repo_id, tmp_path):
    push(artifact, repo_id, hub=hub)
    folder = pull(repo_id, to=tmp_path / "pulled", hub=hub)
    read_manifest(folder).verify_files(folder)
    again = shutil.copytree(folder, tmp_path / "again")
    (again / BOM).write_text("edited")
    read_manifest(again).verify_files(again)
    push(again, repo_id, hub=hub)
